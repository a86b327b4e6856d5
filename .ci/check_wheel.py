"""The sdist and the wheel made from it hold what a user needs: both are checked, installed elsewhere, and run."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = """
import vlm_neurons as vn, vlm_neurons.hooks
assert "site" in vn.__file__, vn.__file__
model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
print(model.generate(vn.scenes(1)[0].load_images(), ["Could you describe the image?"]))
"""


def needed() -> set[str]:
    """Every file of the package and of the hooks, under its name in the wheel."""
    found = {f"vlm_neurons/hooks/{p.relative_to(ROOT / 'hooks')}" for p in (ROOT / "hooks").rglob("*")}
    found |= {str(p.relative_to(ROOT)) for p in (ROOT / "vlm_neurons").rglob("*")}
    folders = {str(p) for name in found for p in Path(name).parents}
    return {name for name in found - folders if "__pycache__" not in name and not name.endswith((".pyc", "/"))}


with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-m", "build", "-o", folder, str(ROOT)], check=True, stdout=subprocess.DEVNULL)
    (wheel,) = Path(folder).glob("*.whl")
    (sdist,) = Path(folder).glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel, sdist], check=True)
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = needed() - names
    assert not missing, f"{wheel.name} lacks {sorted(missing)}"
    size = wheel.stat().st_size / 2**20
    assert size < 8, f"{wheel.name} has {size:.1f} MiB"
    target = Path(folder) / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", target, wheel], check=True)
    subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(target)}
    )
    print(f"{wheel.name}: {size:.1f} MiB, runs")

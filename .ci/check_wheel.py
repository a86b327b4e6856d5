"""The wheel holds everything that a user needs: install it elsewhere, and run the embedded model from it."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = ("vlm_neurons/hooks/__init__.py", "vlm_neurons/zoo/tiny-llava-scenes/model.safetensors",
          "vlm_neurons/show/templates/report.html", "vlm_neurons/show/templates/card.html.jinja",
          "vlm_neurons/show/fonts/DejaVuSans.ttf", "vlm_neurons/show/THIRD_PARTY_NOTICES.md",
          "vlm_neurons/explaining/prompts/system.jinja",
          "vlm_neurons/simulating/prompts/system.jinja",
          "vlm_neurons/api/prices.json", "vlm_neurons/py.typed")  # fmt: skip
PROGRAM = """
import vlm_neurons as vn, vlm_neurons.hooks
assert "site" in vn.__file__, vn.__file__
model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
print(model.generate(vn.scenes(1)[0].load_images(), ["Could you describe the image?"]))
"""

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, "."], check=True)
    (wheel,) = Path(folder).glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in NEEDED if name not in names]
    assert not missing, f"{wheel.name} lacks {missing}"
    size = wheel.stat().st_size / 2**20
    assert size < 8, f"{wheel.name} has {size:.1f} MiB"
    target = Path(folder) / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "-t", target, wheel], check=True)
    subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(target)}
    )
    print(f"{wheel.name}: {size:.1f} MiB, runs")

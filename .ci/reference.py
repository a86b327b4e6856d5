"""The reference from docstrings: `python .ci/reference.py DIR`. What pdoc warns of is an error."""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import vlm_neurons as vn
from vlm_neurons import hooks

# dataclasses give an inherited field's annotation to __init__ as text, without the module where its names are known
INHERITED = r"Error parsing type annotation .*\.__init__\. Import of"
# rooms that are named to users, beside the package itself: their __init__ says what is public in them
ROOMS = [m.name for m in pkgutil.iter_modules(vn.__path__, "vlm_neurons.") if not m.name.split(".")[1].startswith("_")]
PARTS = [f"vlm_neurons.autointerp.{part}" for part in ("explainers", "simulators", "scorers")]

target = Path(sys.argv[1])
warnings.simplefilter("error", UserWarning)
warnings.filterwarnings("ignore", INHERITED)
pdoc.render.configure(docformat="google")
pdoc.pdoc("vlm_neurons", "vlm_neurons.hooks", *ROOMS, *PARTS, output_directory=target)

page = (target / "vlm_neurons.html").read_text(encoding="utf-8")
missing = [name for name in vn.__all__ if f'id="{name}"' not in page]
missing += [name for name in hooks.__all__ if f'id="{name}"' not in (target / "vlm_neurons/hooks.html").read_text()]
assert not missing, f"no entry for {missing}"
print(f"reference: {len(list(target.rglob('*.html')))} pages")

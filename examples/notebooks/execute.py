"""Execute the notebooks from scratch.

    python examples/notebooks/execute.py [DIR] [NAME ...]

Without DIR the executed copies beside the scripts are replaced; with it they are written there (this is what CI does).
`llava_7b` needs a GPU and weights: its copy is made without being executed, and says so.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
EXECUTED = ("ten_minutes", "every_neuron", "explaining", "patching", "latents")
NOT_EXECUTED = ("llava_7b",)


def convert(name: str) -> nbformat.NotebookNode:
    """A script as a notebook, with ids that do not change from one time to the next."""
    notebook = jupytext.read(HERE / f"{name}.py")
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{number}"
    return notebook


def smaller(png: str) -> str:
    """The same picture, packed better. (A palette would change the colours of the classes and of the scales.)"""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def main() -> None:
    """Convert all, execute those that can be."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    for name in [n for n in EXECUTED if n in sys.argv[2:] or len(sys.argv) < 3]:
        notebook = convert(name)
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            cell["metadata"].pop("execution", None)  # times of day
            outputs = cell.get("outputs", [])
            outputs[:] = [o for o in outputs if o.get("name") != "stderr"]  # progress bars
            for output in outputs:
                output.get("data", {}).pop("image/jpeg", None)  # Pillow gives both
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = smaller(output["data"]["image/png"])
        nbformat.write(notebook, out / f"{name}.ipynb")
        print(f"{name}: executed, {(out / f'{name}.ipynb').stat().st_size / 1e6:.1f} MB")
    for name in NOT_EXECUTED:
        nbformat.write(convert(name), out / f"{name}.ipynb")
        print(f"{name}: not executed")


if __name__ == "__main__":
    main()

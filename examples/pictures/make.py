"""Make the README's pictures: neurons of the demo side by side, photographed by Chromium from their cards, and the map of
its concepts.

vlm-neurons demo && python examples/pictures/make.py runs/demo L2N56 L1N11 L3N172
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

import vlm_neurons as vn
from vlm_neurons.autointerp import load_simulations, read_explanations
from vlm_neurons.evidence import load
from vlm_neurons.viz.card_html import card_html
from vlm_neurons.viz.html_pages import document

WIDTH, HEIGHT = 470, 1150
BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
           "--force-device-scale-factor=2", "--virtual-time-budget=4000", f"--window-size={WIDTH},{HEIGHT}"]  # fmt: skip

parser = argparse.ArgumentParser()
parser.add_argument("run", type=Path, help="directory of a run with explanations and scores, such as that of the demo")
parser.add_argument("neurons", nargs="+", metavar="neuron", help="such as L2N56")
path, wanted = parser.parse_args().run, parser.parse_args().neurons
try:
    run = vn.Run.load(path)
    table, scores = run.table(), run.scores()
except FileNotFoundError as error:
    parser.error(f"{error}; vlm-neurons demo makes a run with explanations and scores")
evidence, explanations, simulations = load(path), read_explanations(path), load_simulations(path)

there = [n for n in dict.fromkeys(neuron for neuron, _ in simulations) if n in evidence and n in explanations]
if unknown := [n for n in wanted if n not in there]:
    parser.error(f"{unknown[0]}: choose from {', '.join(there)}")


def photograph(neuron: str) -> Image.Image:
    """The card of one neuron as a picture."""
    card = card_html(evidence[neuron], table, explanations[neuron], simulations, scores, per_group=1)
    with tempfile.TemporaryDirectory() as folder:
        file, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        file.write_text(document([card], neuron))
        command = [*BROWSER, f"--user-data-dir={folder}/profile", f"--screenshot={shot}", file.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        return Image.open(shot).convert("RGB")


pictures = [photograph(n) for n in wanted]
sheet = Image.new("RGB", (2 * WIDTH * len(pictures), 2 * HEIGHT), pictures[0].getpixel((0, 0)))
for i, picture in enumerate(pictures):
    sheet.paste(picture, (2 * WIDTH * i, 0))
box = ImageChops.difference(sheet, Image.new("RGB", sheet.size, sheet.getpixel((0, 0)))).getbbox()
whole = sheet.crop((0, 0, sheet.width, min(box[3] + 12, sheet.height)))
whole.save(Path(__file__).parent / "neurons.png", optimize=True)  # without a palette, which changes colours
print(Path(__file__).parent / "neurons.png", vn.__version__)
concepts = run.concepts()
gate = concepts[concepts["site"] == "gate"]
gate.attrs = concepts.attrs
print(vn.viz.show_concepts(gate).save(Path(__file__).parent / "concepts.png"))

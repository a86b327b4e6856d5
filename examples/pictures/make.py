"""Make the README's picture: three neurons of the demo, photographed from a report by Chromium.

vlm-neurons demo && python examples/pictures/make.py runs/demo L2N304 L0N357 L3N3
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

import vlm_neurons as vn
from vlm_neurons.show.cards.card import card_html
from vlm_neurons.show.cards.fragment import document
from vlm_neurons.show.closeup import close_ups

BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,3200"]

run = vn.Run.load(sys.argv[1])
wanted = sys.argv[2:]
model, data = vn.HookedVLM.from_pretrained(run.info["model"]["name"]), run.open_data()
table = vn.classify(run, write=False)
peaks = table.set_index("neuron").peak
strong = close_ups(model, data, run, wanted, 3)
cards = [card_html(vn.Evidence(n, peaks[n], tuple(strong[n])), table) for n in wanted]
with tempfile.TemporaryDirectory() as folder:
    file, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
    file.write_text(document(cards, "neurons"))
    subprocess.run(
        [*BROWSER, f"--user-data-dir={folder}/profile", f"--screenshot={shot}", file.as_uri()],
        check=True,
        capture_output=True,
    )
    picture = Image.open(shot).convert("RGB")
    ground = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    box = ImageChops.difference(picture, ground).getbbox()
    picture.crop((0, 0, picture.width, box[3] + 12)).quantize(256).save(
        Path(__file__).parent / "neurons.png", optimize=True
    )

"""Photographs of scikit-image as `vn.input_effects` edits them, with boxes given by hand, side by side.

python examples/pictures/edited.py examples/pictures/edits.jpg
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.interventions.edits import photographs
from vlm_neurons.interventions.edits.regions import Part
from vlm_neurons.interventions.edits.trials import Inputs, Wanted

SHOWN = {  # file, width, box in the picture of that width, the colour that its words name
    "chelsea.png": (300, (110, 45, 220, 95), "orange"),
    "coffee.png": (300, (75, 35, 205, 175), "yellow"),
    "astronaut.png": (300, (95, 35, 165, 125), "orange"),
    "rocket.jpg": (300, (138, 45, 172, 165), "cyan"),
}
TARGET = "brick.png"  # that pieces are pasted into


def photograph(name: str, width: int) -> Image.Image:
    """One of scikit-image's."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("scikit-image is missing: pip install scikit-image")
    image = Image.open(Path(spec.submodule_search_locations[0]) / "data" / name).convert("RGB")
    return image.resize((width, round(image.height * width / image.width)))


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    columns = ("as it is", *photographs.REGIONAL, "removed elsewhere: control")
    figure, axes = plt.subplots(len(SHOWN), len(columns), figsize=(2 * len(columns), 1.75 * len(SHOWN)), dpi=75)
    for seed, (row, (name, (width, box, color))) in enumerate(zip(axes, SHOWN.items(), strict=True)):
        images = [photograph(name, width), photograph(TARGET, width)]
        data = vn.ImageTextData.from_samples([{"image": image, "prompt": "What is it?"} for image in images])
        left, top, right, bottom = box
        row[0].imshow(images[0])
        row[0].add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="white", lw=2))
        for edit, axis in zip((*photographs.REGIONAL, "control"), row[1:], strict=True):
            inputs, named = Inputs(), ((("region", "shown"), ("color", color)),)
            wanted = Wanted("picture", "remove" if edit == "control" else edit, named)
            (one,) = photographs.trials(data, [0], [1], wanted, {0: [Part(*box)]}, inputs, seed)
            number = one.control[1] if edit == "control" else one.present if edit in ("paste", "keep") else one.absent
            if number < 0:
                axis.text(0.5, 0.5, "no room", ha="center", transform=axis.transAxes)
            else:
                axis.imshow(inputs.made[number]().images[0])
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(out, pil_kwargs={"quality": 82})


if __name__ == "__main__":
    main()

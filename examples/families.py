"""One tiny random model of every family: scan photographs, and draw where its patches look.

    python examples/families.py families.png runs/families

For each family the picture shows a photograph as it was given, with the outline of every visual token (one colour a tile,
grey where the token is one of the whole image), and the same as the model saw it. The models are those of the tests: real
processor classes with small settings, so patches are larger than those of real checkpoints.
"""

from __future__ import annotations

import argparse
import math
import sys
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as pictures
from PIL.Image import Image

import vlm_neurons as vn

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests", "tests/families")]
import builders  # noqa: E402
from photographs import photographs  # noqa: E402

WIDE = "motorcycle_left.png"
COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]


def outline(axes: Axes, image: Image, boxes: list[tuple[float, ...]], tiles: list[int]) -> None:
    """An image with the outlines of its patches."""
    axes.imshow(np.asarray(image), extent=(0, image.width, image.height, 0))
    axes.set_axis_off()
    frames = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
    edges = ["#bbbbbb" if tile < 0 else COLOURS[tile % len(COLOURS)] for tile in tiles]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=edges, linewidth=0.7))


def draw(axes: tuple[Axes, Axes], name: str, model: vn.HookedVLM, path: Path) -> None:
    """A photograph as given and as seen, with the patches of one family."""
    batch = model.prepare([path], "What is it?")
    tiles = [patch.tile for patch in batch.patches]
    given, seen = batch.images[0], batch.seen_image(0)
    outline(axes[0], given, [patch.original_box for patch in batch.patches], tiles)
    outline(axes[1], seen, [patch.box for patch in batch.patches], tiles)
    axes[0].set_title(f"{name}: given, {given.width} x {given.height}", fontsize=8, loc="left")
    words = f"{len(tiles)} tokens, {len({tile for tile in tiles if tile >= 0})} tiles"
    axes[1].set_title(f"seen, {seen.width} x {seen.height}: {words}", fontsize=8, loc="left")


def main() -> None:
    """Scan with every family, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the picture to write")
    parser.add_argument("out", type=Path, help="folder for the runs")
    args = parser.parse_args()
    paths = photographs()
    data = vn.ImageTextData.from_samples([{"image": path, "response": path.stem} for path in paths])
    names = list(builders.FAMILIES)
    lines = math.ceil(len(names) / 2)  # two families a line
    figure = Figure(figsize=(13, 2.1 * lines), layout="constrained")
    rows = figure.subplots(lines, 4, squeeze=False).reshape(-1, 2)
    for axes in rows[len(names) :].flat:
        axes.set_axis_off()
    wide = next(path for path in paths if path.name == WIDE)
    for name, axes in zip(names, rows, strict=False):
        model = builders.made(name).model
        sites = list(model.adapter.sites)
        run = vn.scan(model, data, site=sites, out=args.out / name, top_n=5, progress=False)
        labels = vn.classify(run).groupby("site").size().reindex(sites).to_dict()
        print(f"{name}: neurons {labels}, {len(run.samples)} photographs")
        draw(tuple(axes), name, model, wide)
    whole = BytesIO()
    figure.savefig(whole, dpi=90)
    pictures.open(whole).convert("RGB").quantize(256, pictures.Quantize.MAXCOVERAGE).save(args.picture, optimize=True)
    print(args.picture)


if __name__ == "__main__":
    main()

"""The pictures that a model saw of its images: where it saw one whole and in tiles, both apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlm_neurons.protocols import View


@dataclass(frozen=True, eq=False)
class Shown:
    """One picture: an image as the model saw it, or of an image that it saw whole and in tiles one of the two.

    Attributes:
        pixels: its pixels.
        boxes: of its patches, in it.
        where: which of the sample's patches they are.
        key: tells it from all other pictures.
    """

    pixels: Image
    boxes: Float[np.ndarray, "patch 4"]
    where: Int[np.ndarray, "patch"]
    key: tuple[str, int, tuple[int, int]]


def pictures_of(view: View) -> Iterator[Shown]:
    """The pictures of a sample.

    On the sheet of an image in tiles (`Batch.seen_image`) the whole view and the tiles touch: that is no edge of
    theirs, and the middle of the sheet not that of the picture. The tiles together are one picture.
    """
    start = 0
    for image, boxes, cells, digest in zip(view.images, view.boxes, view.cells, view.digests, strict=True):
        tiled = cells[:, 2] >= 0
        for of_tiles, inside, (left, top, right, bottom) in parts_of_sheet(boxes, tiled, image.size):
            pixels = (
                image if (left, top, right, bottom) == (0, 0, *image.size) else image.crop((left, top, right, bottom))
            )
            own = boxes[inside] - [left, top, left, top]
            yield Shown(pixels, own, start + inside, (digest, int(of_tiles), pixels.size))
        start += len(boxes)


def parts_of_sheet(
    boxes: Shaped[np.ndarray, "box 4"], in_tiles: Bool[np.ndarray, "box"], size: tuple[int, int]
) -> Iterator[tuple[bool, Int[np.ndarray, "own"], tuple[int, int, int, int]]]:
    """The pictures on the sheet of one image: whether it is that of the tiles, which boxes are its (none of those that
    are NaN), and its pixels; all of the sheet (`size` is width, height) where there is only one."""
    there = ~np.isnan(boxes).any(1)
    found = [(tiles, np.flatnonzero(there & (in_tiles == tiles))) for tiles in (False, True)]
    found = [(tiles, own) for tiles, own in found if len(own)]
    for tiles, own in found:
        if len(found) == 1:
            yield tiles, own, (0, 0, *size)
            continue
        left, top = np.floor(boxes[own, :2].min(0)).astype(int).tolist()
        right, bottom = np.ceil(boxes[own, 2:].max(0)).astype(int).tolist()
        yield tiles, own, (left, top, right, bottom)

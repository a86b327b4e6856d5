"""The pictures that a model saw of its images: where it saw one whole and in tiles, both apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

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
        for of_tiles in (False, True):
            inside = np.flatnonzero(tiled == of_tiles)
            if not len(inside):
                continue
            pixels, own = image, boxes[inside]
            if len(inside) < len(boxes):
                left, top = np.floor(own[:, :2].min(0)).astype(int).tolist()
                right, bottom = np.ceil(own[:, 2:].max(0)).astype(int).tolist()
                pixels, own = image.crop((left, top, right, bottom)), own - np.tile([left, top], 2)
            yield Shown(pixels, own, start + inside, (digest, int(of_tiles), pixels.size))
        start += len(boxes)

"""Where every patch looks: in the image as the model saw it, and in the image as it was given.

Computed from the image processor's own settings (resize, then centre crop), never from the square root of a count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_neurons.models.adapters.adapter import Size
from vlm_neurons.tokens import Box, Patches


@dataclass(frozen=True)
class Layout:
    """How an image was brought to the model's size.

    Attributes:
        original: size of the image as it was given.
        resized: size after the resize step.
        offset: top and left edge of the crop in the resized image; negative where the crop is larger than the image
            and black was added.
        processed: size of what the model saw.
    """

    original: Size
    resized: Size
    offset: tuple[int, int]
    processed: Size

    def to_original(self, box: Box) -> Box:
        """A box of the processed image in pixels of the original, clipped to it (empty if it shows only padding)."""
        scale_y = self.original[0] / self.resized[0]
        scale_x = self.original[1] / self.resized[1]
        top, left = self.offset
        x0, y0, x1, y1 = box
        return (
            _clip((x0 + left) * scale_x, self.original[1]),
            _clip((y0 + top) * scale_y, self.original[0]),
            _clip((x1 + left) * scale_x, self.original[1]),
            _clip((y1 + top) * scale_y, self.original[0]),
        )


def _clip(value: float, upper: int) -> float:
    return min(max(value, 0.0), float(upper))


def _setting(processor: Any, name: str) -> dict[str, int]:
    value = getattr(processor, name, None)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        value = {k: getattr(value, k, None) for k in ("height", "width", "shortest_edge", "longest_edge")}
    return {k: int(v) for k, v in value.items() if v is not None}


def resized_size(original: Size, size: Mapping[str, int]) -> Size:
    """Size after the resize step of a Hugging Face image processor.

    Raises:
        ValueError: a kind of resizing whose geometry is not known here.

    >>> resized_size((480, 640), {"shortest_edge": 336})
    (336, 448)
    """
    height, width = original
    if set(size) == {"shortest_edge"}:
        short, long = min(original), max(original)
        new_short, new_long = size["shortest_edge"], int(size["shortest_edge"] * long / short)
        return (new_short, new_long) if height <= width else (new_long, new_short)
    if set(size) == {"height", "width"}:
        return size["height"], size["width"]
    raise ValueError(f"image processor with size={dict(size)}: only shortest_edge, or height and width, are supported")


def layout(image_processor: Any, original: Size) -> Layout:
    """How an image processor brings an image of size `original` (height, width) to the model.

    Raises:
        ValueError: the processor has a step whose geometry is not known here (padding to a square, tiles).
    """
    for step in ("do_pad", "do_image_splitting", "do_pan_and_scan"):
        if getattr(image_processor, step, None):
            raise ValueError(
                f"image processor with {step}=True: where its patches look is not known here; set it to False"
            )
    resized = original
    if getattr(image_processor, "do_resize", False):
        resized = resized_size(original, _setting(image_processor, "size"))
    if not getattr(image_processor, "do_center_crop", False):
        return Layout(original, resized, (0, 0), resized)
    crop = _setting(image_processor, "crop_size")
    processed = (crop["height"], crop["width"])
    # The same floor division holds where the crop is larger: transformers adds ceil((crop - size) / 2) before.
    offset = ((resized[0] - processed[0]) // 2, (resized[1] - processed[1]) // 2)
    return Layout(original, resized, offset, processed)


def grid_of(processed: Size, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches; a rest smaller than a patch is not seen by the model."""
    return processed[0] // patch_size, processed[1] // patch_size


def by_square(grid: tuple[int, int], n: int) -> list[int]:
    """For every patch, row by row, which of the grid's tokens it is part of: n x n patches are one.

    >>> by_square((1, 2), 2)
    [0, 0, 1, 1, 0, 0, 1, 1]
    """
    rows, columns = grid
    return [y // n * columns + x // n for y in range(rows * n) for x in range(columns * n)]


def check_same(owner: Any, called: str, settings: Mapping[str, Any]) -> None:
    """A processor has to be set as the model is.

    Raises:
        ValueError: it is not; the message names the setting.
    """
    for name, told in settings.items():
        if getattr(owner, name) != told:
            raise ValueError(
                f"{name} is {getattr(owner, name)} in the {called} and {told} in the model: they have to be the same"
            )


def patches(image: int, placed: Layout, patch_size: int) -> Patches:
    """The patches of one image in the order of its visual tokens: row by row from the top left."""
    rows, columns = grid_of(placed.processed, patch_size)
    at = [float(patch_size * k) for k in range(max(rows, columns) + 1)]
    xs = [placed.to_original((edge, 0.0, edge, 0.0))[0] for edge in at]
    ys = [placed.to_original((0.0, edge, 0.0, edge))[1] for edge in at]
    row, column = np.divmod(np.arange(rows * columns), columns)
    edges = ((at, column), (at, row), (at, column + 1), (at, row + 1))
    original = ((xs, column), (ys, row), (xs, column + 1), (ys, row + 1))
    return Patches(
        np.full(rows * columns, image), np.stack([row, column, np.full(rows * columns, -1)], 1),
        *(np.stack([np.array(values)[k] for values, k in sides], 1) for sides in (edges, original)),
    )  # fmt: skip

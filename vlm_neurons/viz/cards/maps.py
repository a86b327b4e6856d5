"""Activations at the patches of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vlm_neurons.viz.cards.fragment import picture_class
from vlm_neurons.viz.cards.tokens import plain
from vlm_neurons.viz.page import number
from vlm_neurons.viz.pictures import data_uri, heat

Box = tuple[str, str, str, str]


@dataclass(frozen=True)
class Map:
    """One image under one series of values.

    Attributes:
        name: of the series: `"real"` or `"simulated"`.
        image: place of the image in the sample.
        picture: CSS class that shows it.
        ratio: its width over its height.
        rows: of patches.
        columns: of patches.
        values: of every patch, for the script.
        heat: `data:` address of a picture with one pixel a patch.
        best: left, top, width and height of the strongest patch in percent; None where no patch is positive.
        sinks: the same of the patches that do not count.
        strongest: where the strongest patch is and its value, in words.
        alt: what the map shows, in words.
    """

    name: str
    image: int
    picture: str
    ratio: str
    rows: int
    columns: int
    values: str
    heat: str
    best: Box | None
    sinks: tuple[Box, ...]
    strongest: str
    alt: str


def patch_map(
    picture: Any,
    values: Float[np.ndarray, "rows columns"],
    top: float,
    images: dict[str, str],
    *,
    name: str = "real",
    place: int = 0,
    sinks: Bool[np.ndarray, "rows columns"] | None = None,
) -> Map:
    """The heat of one image.

    Args:
        picture: what the model saw.
        values: one for each patch, NaN for none.
        top: end of the colour scale, which begins at 0.
        images: where the pictures of the page are collected.
        name: of the series.
        place: of the image in the sample.
        sinks: patches that do not count.
    """
    rows, columns = values.shape
    there = ~np.isnan(values)
    row, column = strongest_patch(values) if there.any() else (0, 0)
    best = float(values[row, column]) if there.any() else float("nan")
    if not there.any():
        where = "no patch has a value"
    elif best > 0:
        where = f"strongest patch {number(best)} at row {row + 1}, column {column + 1} of {rows} × {columns}"
    else:
        where = f"no patch is positive; largest {number(best)}"
    return Map(
        name, place, picture_class(picture, images), f"{picture.width / picture.height:.4f}", rows, columns,
        plain(values), data_uri(heat(values, top)), _box(row, column, rows, columns) if best > 0 else None,
        tuple(_box(int(r), int(c), rows, columns) for r, c in np.argwhere(sinks)) if sinks is not None else (),
        where, f"{name.capitalize()} activation at {rows} by {columns} patches of image {place + 1}; {where}.",
    )  # fmt: skip


def strongest_patch(values: Float[np.ndarray, "rows columns"]) -> tuple[int, int]:
    """Row and column of the largest value, from 0.

    >>> strongest_patch(np.array([[0.0, np.nan], [3.0, 1.0]]))
    (1, 0)
    """
    row, column = divmod(int(np.nanargmax(values)), values.shape[1])
    return row, column


def top_of(values: Sequence[Float[np.ndarray, "*n"]], least: float) -> float:
    """End of a colour scale: the largest value, at least `least`.

    >>> top_of([np.array([1.0, np.nan]), np.array([])], 0.2)
    1.0
    """
    return max([least, *(float(np.nanmax(v)) for v in values if v.size and not np.isnan(v).all())])


def _box(row: int, column: int, rows: int, columns: int) -> Box:
    parts = (column / columns, row / rows, 1 / columns, 1 / rows)
    left, top, width, height = (f"{100 * part:.4f}%" for part in parts)
    return left, top, width, height

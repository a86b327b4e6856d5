"""A picture with numbered cells, the question about them, and values of cells as values of patches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.client.prompting import fence, image_part, text_part
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators.questions import PACKAGE, Scale, Strict, Values, Wording, failure_of, values_of
from vlm_neurons.concepts.shares import means

Grid = tuple[int, int]
SIDE = 512  # pixels of the longer side: one tile for most models, cells of 64 pixels in a grid of 8


def numbered(image: Image.Image, grid: Grid, cells: Collection[int] | None = None) -> Image.Image:
    """The picture, enlarged, with a frame around cells and their numbers: 1 at the top left, row by row.

    Args:
        image: as the model saw it.
        grid: rows and columns.
        cells: which to mark; all if not given.
    """
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    sheet = image.convert("RGB").resize(size, kind)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number in cells_of(grid) if cells is None else cells:
        left, top, right, bottom = box_of(number, grid, size)
        draw.rectangle((left, top, right - 1, bottom - 1), outline=(128, 128, 128))
        label = str(number)
        width = draw.textlength(label, font=font)
        draw.rectangle((left, top, left + width + 3, top + 14), fill=(255, 255, 255))
        draw.text((left + 2, top), label, fill=(0, 0, 0), font=font)
    return sheet


def cells_of(grid: Grid) -> range:
    """Numbers of all cells."""
    return range(1, grid[0] * grid[1] + 1)


def box_of(number: int, grid: Grid, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels (left, top, right, bottom) of a cell in a picture of (width, height).

    >>> box_of(5, (2, 4), (8, 8))
    (0, 4, 2, 8)
    """
    row, column = divmod(number - 1, grid[1])
    x, y = (np.linspace(0, n, k + 1).round().astype(int) for n, k in zip(size, grid[::-1], strict=True))
    return int(x[column]), int(y[row]), int(x[column + 1]), int(y[row + 1])


def refined(coarse: Float[np.ndarray, "rows columns"], grid: Grid) -> Float[np.ndarray, "rows2 columns2"]:
    """Values of a coarse grid at the cells of a finer one.

    >>> refined(np.array([[1.0, 2.0]]), (1, 4)).tolist()
    [[1.0, 1.0, 2.0, 2.0]]
    """
    rows, columns = (((np.arange(n) + 0.5) / n * k).astype(int) for n, k in zip(grid, coarse.shape, strict=True))
    return coarse[np.ix_(rows, columns)]


def at_patches(
    cells: Float[np.ndarray, "rows columns"], boxes: Float[np.ndarray, "n m 4"], size: tuple[int, int]
) -> Float[np.ndarray, "n m"]:
    """Mean of the cells' values over every patch, in a picture of (width, height)."""
    return means(refined(cells, (size[1], size[0])), boxes)


class CellValue(Strict):
    """Prediction for one cell."""

    cell: int
    value: Scale


class CellValues(Strict):
    """Predictions for all cells that were asked about."""

    cells: list[CellValue]


@dataclass(frozen=True)
class _Sheet:
    """A picture with numbered cells, told from others by all but its pixels."""

    digest: str
    grid: Grid
    numbers: tuple[int, ...]
    detail: str
    image: Image.Image = field(compare=False)


@lru_cache(maxsize=128)  # whatever explanation is tried on a neuron, it is asked about the same pictures
def _drawn(sheet: _Sheet) -> dict[str, Any]:
    return image_part(numbered(sheet.image, sheet.grid, sheet.numbers), sheet.detail)


@dataclass(frozen=True)
class Cells:
    """How active is the neuron in these cells?

    Attributes:
        explanation: in words.
        image: SHA-256 of the picture.
        grid: rows and columns.
        numbers: of the cells.
    """

    explanation: str
    image: str
    grid: Grid
    numbers: tuple[int, ...]

    def ask(self, image: Image.Image, wording: Wording) -> Ask:
        """The request."""
        words = prompting.render(
            PACKAGE, "cells", rows=self.grid[0], columns=self.grid[1], numbers=self.numbers,
            some=len(self.numbers) < len(cells_of(self.grid)),
        )  # fmt: skip
        parts = [text_part(words), _drawn(_Sheet(self.image, self.grid, self.numbers, wording.detail, image))]
        return wording.ask(self, fence([self.explanation]), parts, CellValues, 100 + 20 * len(self.numbers))

    def read(self, reply: Reply) -> Values | Failure:
        """Values in the order of `numbers`; a failure unless every cell is there once."""
        answer: Any = reply.answer
        if answer is None:
            return failure_of(reply)
        cells = [c.cell for c in answer.cells]
        if sorted(cells) != sorted(self.numbers):
            odd = sorted({*self.numbers} ^ {*cells}) or sorted({c for c in cells if cells.count(c) > 1})
            return Failure("schema", f"cells missing, unknown or repeated: {odd[:10]}")
        values = values_of(reply, [c.value for c in answer.cells])
        order = [cells.index(n) for n in self.numbers]
        return Values(values.said[order], values.expected[order])

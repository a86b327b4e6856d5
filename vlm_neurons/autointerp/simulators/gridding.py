"""A picture with numbered cells, and values of cells as values of patches."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vlm_neurons.concepts.visual import means

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

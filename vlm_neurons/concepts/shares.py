"""Shares of patches: how much of every box has a concept, exactly, wherever the edges of boxes lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes laid over a picture: cut at all their edges it falls into cells of which each box covers some, in part or
    whole. A grid of 24 x 24 patches has 24 x 24 cells, so that a picture is summed up once, not once a box.

    Attributes:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        rows: first row of each row of cells.
        columns: first column of each column of cells.
        down: share of every row of cells that each different vertical extent covers.
        across: the same of columns and horizontal extents.
        vertical: which extent each box has.
        horizontal: the same.
        area: of each box inside the picture.
    """

    height: int
    width: int
    rows: Int[np.ndarray, "cell_row"]
    columns: Int[np.ndarray, "cell_column"]
    down: Float[np.ndarray, "extent cell_row"]
    across: Float[np.ndarray, "extent2 cell_column"]
    vertical: Int[np.ndarray, "box"]
    horizontal: Int[np.ndarray, "box"]
    area: Float[np.ndarray, "box"]

    @classmethod
    def over(cls, boxes: Shaped[np.ndarray, "box 4"], height: int, width: int) -> Boxes:
        """Lay boxes (left, top, right, bottom) over a picture; what reaches beyond it is cut off, NaN is nowhere."""
        inside = np.nan_to_num(np.asarray(boxes, float)).clip(0, [width, height, width, height])
        rows, down, vertical = _cut(inside[:, 1::2], height)
        columns, across, horizontal = _cut(inside[:, 0::2], width)
        sizes = (inside[:, 2:] - inside[:, :2]).clip(0)
        return cls(height, width, rows, columns, down, across, vertical, horizontal, sizes.prod(1))

    def _means(self, cells: Shaped[np.ndarray, "k cell_row cell_column"]) -> Float[np.ndarray, "k box"]:
        sums = (self.down @ cells @ self.across.T)[:, self.vertical, self.horizontal]
        return np.where(self.area > 0, sums / np.where(self.area > 0, self.area, 1), 0.0)

    def means(self, values: Shaped[np.ndarray, "k height width"]) -> Float[np.ndarray, "k box"]:
        """Mean of several pictures' values in every box; 0 in a box without area.

        >>> boxes = Boxes.over(np.array([[0, 0, 1.5, 2], [1, 1, 2, 2]]), 2, 2)
        >>> boxes.means(np.array([[[True, False], [True, True]]])).round(2).tolist()
        [[0.83, 1.0]]
        """
        kind = np.int32 if values.dtype in (bool, np.uint8) else float
        return self._means(np.add.reduceat(np.add.reduceat(values, self.rows, 1, kind), self.columns, 2))

    def counts(self, labels: Integer[np.ndarray, "height width"], n: int) -> Float[np.ndarray, "label box"]:
        """Share of every box that has each of `n` labels, where a pixel has one.

        >>> boxes = Boxes.over(np.array([[0, 0, 2, 1], [0, 0, 2, 2]]), 2, 2)
        >>> boxes.counts(np.array([[2, 0], [1, 0]]), 3).tolist()
        [[0.5, 0.5], [0.0, 0.25], [0.5, 0.25]]
        """
        where = self._cells(n) + labels
        found = np.bincount(where.ravel(), minlength=n * len(self.rows) * len(self.columns))
        return self._means(np.moveaxis(found.reshape(len(self.rows), len(self.columns), n), -1, 0))

    def _cells(self, n: int) -> Int[np.ndarray, "height width"]:
        """`n` times the number of every pixel's cell; kept, since most pictures of a data set have the same boxes."""
        if n not in self._kept:
            down, across = (np.repeat(np.arange(len(cuts)), np.diff(cuts, append=end)) for cuts, end in (
                (self.rows, self.height), (self.columns, self.width)))  # fmt: skip
            self._kept[n] = np.asarray(n * (len(self.columns) * down[:, None] + across))
        return self._kept[n]

    @cached_property
    def _kept(self) -> dict[int, Int[np.ndarray, "height width"]]:
        return {}


def _cut(
    extents: Float[np.ndarray, "box 2"], size: int
) -> tuple[Int[np.ndarray, "cell"], Float[np.ndarray, "extent cell"], Int[np.ndarray, "box"]]:
    """Starts of cells along one axis, the share of every cell that each different extent covers, and which each box
    has. An edge inside a pixel makes that pixel a cell of its own."""
    pairs, which = np.unique(extents @ np.array([1, 1j]), return_inverse=True)
    different = np.stack([pairs.real, pairs.imag], 1)
    starts = np.unique(np.concatenate([[0], np.floor(different).ravel(), np.ceil(different).ravel()])).astype(int)
    starts = starts[starts < size]
    ends = np.append(starts[1:], size)
    covered = np.minimum(different[:, 1:], ends) - np.maximum(different[:, :1], starts)
    return starts, covered.clip(0) / (ends - starts), which.ravel()


def means(
    values: Shaped[np.ndarray, "height width"], boxes: Shaped[np.ndarray, "rows columns 4"]
) -> Float[np.ndarray, "rows columns"]:
    """Mean over every box, of pixels that it covers in part by that part; 0 for a box without pixels.

    >>> means(np.eye(2), np.array([[[0, 0, 2, 1], [1, 1, 2, 2]]])).tolist()
    [[0.5, 1.0]]
    """
    return Boxes.over(boxes.reshape(-1, 4), *values.shape).means(values[None])[0].reshape(boxes.shape[:2])

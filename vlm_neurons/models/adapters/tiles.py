"""Images that are shown whole and in tiles: one sheet, with the whole view on top and the tiles side by side below it.

Rows and columns of patches count through the sheet, and boxes are in its pixels. Places beside the whole view, and
those of tiles that no token shows, are gaps.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_neurons.models.adapters.adapter import Given, Placed
from vlm_neurons.models.adapters.geometry import Layout
from vlm_neurons.tokens import Patches


def patches_at(
    image: int, layout: Layout, places: Int[np.ndarray, "place 2"], side: int, step: int, tiled: bool = False
) -> Patches:
    """Patches of a whole view, or of the tiles. What is left of a view beside its patches is not seen.

    Args:
        image: its number.
        layout: of the whole view, or of all tiles together.
        places: row and column there.
        side: of a view in pixels.
        step: a patch's side in pixels.
        tiled: whether they are of the tiles, which lie below the whole view.
    """
    n = side // step
    shift, below = (side, n) if tiled else (0, 0)
    down, across = (edge // side for edge in layout.processed)
    low = [float(k // n * side + k % n * step) for k in range(n * max(down, across, 1))]
    at, of = np.array(low), np.array([layout.to_original((at, at, at + step, at + step)) for at in low])
    row, column = places.T
    left, top = at[column], at[row] + shift
    return Patches(
        np.full(len(places), image),
        np.stack([row + below, column, row // n * across + column // n if tiled else np.full(len(places), -1)], 1),
        np.stack([left, top, left + step, top + step], 1),
        np.stack([of[column, 0], of[row, 1], of[column, 2], of[row, 3]], 1),
    )


def check_side(given: Given, side: int, remedy: str) -> None:
    """The image processor has to make views of the size that the tower takes.

    Args:
        given: the processed images.
        side: what the tower takes.
        remedy: what to set.

    Raises:
        ValueError: it makes others.
    """
    made = tuple(given.output["pixel_values"].shape[-2:])
    if made != (side, side):
        raise ValueError(
            f"the image processor makes views of {made}, the vision tower takes {side} x {side}: set its {remedy}"
        )


def whole(image: int, size: tuple[int, int], side: int, step: int) -> Patches:
    """The patches of a whole view, row by row: the image squeezed to a square of `side` pixels, patches of `step`."""
    return patches_at(image, Layout(size, (side, side), (0, 0), (side, side)), of_a_view(side // step), side, step)


def of_a_view(n: int) -> Int[np.ndarray, "place 2"]:
    """Its places, row by row."""
    return np.stack(np.divmod(np.arange(n * n), n), 1)


def split(image: int, size: tuple[int, int], side: int, step: int, tiles: tuple[int, int]) -> Patches:
    """The patches of rows x columns of tiles, one tile after the other: the image squeezed to all of them together."""
    (down, across), n = tiles, side // step
    layout = Layout(size, (down * side, across * side), (0, 0), (down * side, across * side))
    corners = np.array([(n * y, n * x) for y in range(down) for x in range(across)], int).reshape(-1, 1, 2)
    return patches_at(image, layout, (corners + of_a_view(n)).reshape(-1, 2), side, step, True)


def tiles_and_whole(image: int, size: tuple[int, int], side: int, step: int, tiles: tuple[int, int]) -> Placed:
    """The sheet of an image whose tiles come first, then the whole view; (0, 0) tiles for one that is whole only."""
    n, whole_view = side // step, whole(image, size, side, step)
    patches = Patches.joined([split(image, size, side, step, tiles), whole_view]) if tiles[0] else whole_view
    return Placed((n * (1 + tiles[0]), n * max(1, tiles[1])), patches)


def whole_first(views: Float[Tensor, "view 3 side side"]) -> Float[Tensor, "view 3 side side"]:
    """Views whose last is the whole one, in the order of `on_sheet`."""
    return torch.cat([views[-1:], views[:-1]])


def per_side(shown: Patches) -> int:
    """Patches at a side of a tile, and of the whole view, of an image with these patches."""
    return int(((shown.cells[:, 2] < 0) & (shown.cells[:, 0] == 0)).sum())


def numbers(placed: Placed) -> Int[np.ndarray, "row column"]:
    """Which patch of `placed.shown` is at every place of the sheet, -1 for none."""
    number = np.full(placed.grid, -1)
    number[placed.shown.cells[:, 0], placed.shown.cells[:, 1]] = np.arange(len(placed.shown))
    return number


def rows_of_views(
    placed: Placed,
    class_tokens: int = 0,
    pooled: int = 1,
    whole_last: bool = False,
    number: Int[np.ndarray, "row column"] | None = None,
) -> Int[np.ndarray, "_"]:
    """For every row of a tensor of views the patch of `placed.shown`, -1 for none.

    Args:
        placed: one image on its sheet.
        class_tokens: rows in front of each view's.
        pooled: rows, and columns, of the tower's patches that become one token.
        whole_last: whether the whole view stands behind the tiles.
        number: of every place of the sheet its patch, -1 for none; `numbers` by default.
    """
    shown, number = placed.shown, numbers(placed) if number is None else number
    n, (rows, columns) = per_side(shown), placed.grid
    corners = [(row, column) for row in range(n, rows, n) for column in range(0, columns, n)]
    found = []
    for top, left in [*corners, (0, 0)] if whole_last else [(0, 0), *corners]:
        view = number[top : top + n, left : left + n].repeat(pooled, 0).repeat(pooled, 1)
        found += [np.full(class_tokens, -1), view.flatten()]
    return np.concatenate(found)


def on_sheet(views: Float[Tensor, "view 3 side side"], shown: Patches, grid: tuple[int, int]) -> Tensor:
    """The whole view, and below it the tiles side by side; beside it is black.

    Args:
        views: the whole one first; what is more than the sheet has belongs to other images' tiles.
        shown: the patches of the image.
        grid: rows and columns of the sheet.
    """
    side, n = views.shape[-1], per_side(shown)
    across = grid[1] // n
    sheet = views.new_zeros(3, side * (grid[0] // n), side * across)
    sheet[:, :side, :side] = views[0]
    for k, view in enumerate(views[1 : 1 + across * (grid[0] // n - 1)]):
        y, x = side * (1 + k // across), side * (k % across)
        sheet[:, y : y + side, x : x + side] = view
    return sheet

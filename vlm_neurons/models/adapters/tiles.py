"""Images that are shown whole and in tiles: one sheet, with the whole view on top and the tiles side by side below it.

Rows and columns of patches count through the sheet, and boxes are in its pixels. Places beside the whole view, and
those of tiles that no token shows, are gaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.models.adapters.adapter import Given, Placed
from vlm_neurons.models.adapters.geometry import Layout
from vlm_neurons.tokens import Patch


def patch(image: int, layout: Layout, at: tuple[int, int], side: int, step: int, tile: int = -1) -> Patch:
    """One patch of a whole view, or of the tiles. What is left of a view beside its patches is not seen.

    Args:
        image: its number.
        layout: of the whole view, or of all tiles together.
        at: row and column there.
        side: of a view in pixels.
        step: a patch's side in pixels.
        tile: number of the tile; -1 is the whole view.
    """
    (row, column), n = at, side // step
    top, left = (float(k // n * side + k % n * step) for k in at)
    shift, below = (side, n) if tile >= 0 else (0, 0)
    return Patch(
        image, row + below, column,
        (left, top + shift, left + step, top + shift + step),
        layout.to_original((left, top, left + step, top + step)),
        tile,
    )  # fmt: skip


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


def whole(image: int, size: tuple[int, int], side: int, step: int) -> list[Patch]:
    """The patches of a whole view, row by row: the image squeezed to a square of `side` pixels, patches of `step`."""
    layout, n = Layout(size, (side, side), (0, 0), (side, side)), side // step
    return [patch(image, layout, (row, column), side, step) for row in range(n) for column in range(n)]


def split(image: int, size: tuple[int, int], side: int, step: int, tiles: tuple[int, int]) -> list[Patch]:
    """The patches of rows x columns of tiles, one tile after the other: the image squeezed to all of them together."""
    (down, across), n = tiles, side // step
    layout = Layout(size, (down * side, across * side), (0, 0), (down * side, across * side))
    return [
        patch(image, layout, (n * y + row, n * x + column), side, step, across * y + x)
        for y in range(down)
        for x in range(across)
        for row in range(n)
        for column in range(n)
    ]


def tiles_and_whole(image: int, size: tuple[int, int], side: int, step: int, tiles: tuple[int, int]) -> Placed:
    """The sheet of an image whose tiles come first, then the whole view; (0, 0) tiles for one that is whole only."""
    patches, n = [*split(image, size, side, step, tiles), *whole(image, size, side, step)], side // step
    return Placed((n * (1 + tiles[0]), n * max(1, tiles[1])), patches)


def whole_first(views: Float[Tensor, "view 3 side side"]) -> Float[Tensor, "view 3 side side"]:
    """Views whose last is the whole one, in the order of `on_sheet`."""
    return torch.cat([views[-1:], views[:-1]])


def per_side(shown: Sequence[Patch]) -> int:
    """Patches at a side of a tile, and of the whole view, of an image with these patches."""
    return sum(patch.tile < 0 and patch.row == 0 for patch in shown)


def rows_of_views(placed: Placed, class_tokens: int = 0, pooled: int = 1, whole_last: bool = False) -> list[int]:
    """For every row of a tensor of views the patch of `placed.shown`, -1 for none.

    Args:
        placed: one image on its sheet.
        class_tokens: rows in front of each view's.
        pooled: rows, and columns, of the tower's patches that become one token.
        whole_last: whether the whole view stands behind the tiles.
    """
    number = {(one.row, one.column): k for k, one in enumerate(placed.shown)}
    n, (rows, columns) = per_side(placed.shown), placed.grid
    corners = [(row, column) for row in range(n, rows, n) for column in range(0, columns, n)]
    found = []
    for top, left in [*corners, (0, 0)] if whole_last else [(0, 0), *corners]:
        found += [-1] * class_tokens
        places = [(top + y // pooled, left + x // pooled) for y in range(n * pooled) for x in range(n * pooled)]
        found += [number.get(place, -1) for place in places]
    return found


def on_sheet(views: Float[Tensor, "view 3 side side"], shown: Sequence[Patch], grid: tuple[int, int]) -> Tensor:
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

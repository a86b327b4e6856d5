"""Values by layer and position as a figure: patches as pictures, tokens as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz.drawing import HEADING, INK, WORDS, Drawing, drawing, panel, sheet, width_of, write
from vlm_neurons.viz.wording import shortened, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from vlm_neurons.models import Batch

CELL, TOKEN, GAP, LEFT, MARGIN = 12, 18, 16, 52, 10  # units: of a patch, of a token's column, between, before
LONGEST, SLANT = 12, 60  # letters of a token that are shown, degrees


def heat_map(values: Float[np.ndarray, "layer pos"], batch: Batch, row: int = 0, title: str = "") -> Drawing:
    """Draw values of one row of a batch, such as what `transformer_lens.patching` returns.

    Args:
        values: one number per layer and position; padding is left out.
        batch: whose positions these are. The row has one image.
        row: which row.
        title: stands above.

    Returns:
        A Figure: per layer one axes with the grid of patches, and at its right one with the tokens in order; red is
        positive, blue negative, one scale for all.

    Raises:
        ValueError: the shape does not fit the batch, or the row has not one image.

    >>> figure = heat_map(np.zeros((2, batch.input_ids.shape[1])), batch, title="nothing")
    >>> [axes.get_label() for axes in figure.axes][1:5]
    ['layer 0, patches', 'layer 0, tokens', 'layer 1, patches', 'layer 1, tokens']
    """
    values = np.asarray(values, dtype=float)
    kinds = batch.kinds[row].tolist()
    if values.ndim != 2 or values.shape[1] != len(kinds):
        raise ValueError(f"values {values.shape} have to be [layer, pos] with {len(kinds)} positions")
    visual = [i for i, k in enumerate(kinds) if k == TokenKind.VISUAL]
    patches = [batch.patches[int(batch.patch_index[row, i])] for i in visual]
    images = {patch.image for patch in patches}
    if len(images) != 1:
        raise ValueError(f"row {row} has {len(images)} images; this picture is of rows with one")
    others = [i for i, k in enumerate(kinds) if k not in (TokenKind.VISUAL, TokenKind.PAD)]
    top = float(np.abs(values[:, visual + others]).max(initial=0)) or 1.0
    rows, columns = batch.grids[images.pop()]
    tokens = [shortened(visible(token).strip(), LONGEST) for token in batch.tokens(row)]
    right = LEFT + columns * CELL + GAP
    reach = max((width_of(tokens[i]) for i in others), default=0.0)  # of the slanted words
    head = 30 + 0.87 * reach
    width = max(right + len(others) * TOKEN + 0.5 * reach, LEFT + width_of(title, HEADING, bold=True), 300) + MARGIN
    figure = drawing(width, head + len(values) * (rows * CELL + GAP) + 44, title)
    words = sheet(figure)
    write(words, MARGIN, 18, title, HEADING, weight="bold")
    for j, i in enumerate(others):
        write(words, right + (j + 0.5) * TOKEN, head - 5, tokens[i], rotation=SLANT, ha="left", va="baseline",
              rotation_mode="anchor")  # fmt: skip
    for layer, these in enumerate(values):
        y = head + layer * (rows * CELL + GAP)
        write(words, MARGIN, y + rows * CELL / 2 + 4, f"layer {layer}")
        grid = np.full((rows, columns), np.nan)
        for i, patch in zip(visual, patches, strict=True):
            grid[patch.row, patch.column] = these[i]
        _cells(panel(figure, LEFT, y, columns * CELL, rows * CELL), grid, top, f"layer {layer}, patches")
        place = panel(figure, right, y, len(others) * TOKEN, rows * CELL)
        drawn = _cells(place, these[others][None], top, f"layer {layer}, tokens")
    bar = panel(figure, LEFT, head + len(values) * (rows * CELL + GAP) + 4, 160, 8)
    figure.colorbar(drawn, cax=bar, orientation="horizontal", ticks=[-top, 0, top])
    bar.set_xticklabels([f"−{top:.2g}", "0", f"{top:.2g}"], fontsize=WORDS, color=INK)
    return figure


def _cells(axes: Axes, values: Float[np.ndarray, "rows columns"], top: float, name: str) -> AxesImage:
    """A rectangle for each value."""
    rows, columns = values.shape
    drawn = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", interpolation="nearest")
    axes.set(xticks=np.arange(columns + 1) - 0.5, yticks=np.arange(rows + 1) - 0.5, xticklabels=[], yticklabels=[])
    axes.grid(color="#cccccc", linewidth=0.4)
    axes.set_label(name)
    return drawn

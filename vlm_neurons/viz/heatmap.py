"""Values by layer and position, as one self-contained SVG: patches as pictures, tokens as columns.

`vlm_neurons.viz.cards.raster.raster` makes a picture of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import cos, radians, sin
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz.page import shortened, visible

if TYPE_CHECKING:
    from vlm_neurons.models import Batch

CELL, GAP, LABEL, TOKEN, MARGIN = 9, 14, 60, 15, 8
LETTER, LONGEST, SLANT = 6.2, 12, 60  # width of a letter, letters of a token that are shown, degrees


def heat_map_svg(values: Float[np.ndarray, "layer pos"], batch: Batch, row: int = 0, title: str = "") -> str:
    """Draw values of one row of a batch, such as what `transformer_lens.patching` returns.

    Args:
        values: one number per layer and position; padding is left out.
        batch: whose positions these are. The row has one image.
        row: which row.
        title: stands above.

    Returns:
        An SVG document: one line per layer, the grid of patches at the left, the tokens in order at the right; red is
        positive, blue negative, one scale for all. Every cell has a tooltip and the attribute `data-value`.

    Raises:
        ValueError: the shape does not fit the batch, or the row has not one image.
    """
    values = np.asarray(values, dtype=float)
    kinds = batch.kinds[row].tolist()
    if values.ndim != 2 or values.shape[1] != len(kinds):
        raise ValueError(f"values {values.shape} have to be [layer, pos] with {len(kinds)} positions")
    visual = [i for i, k in enumerate(kinds) if k == TokenKind.VISUAL]
    images = {batch.patches[int(batch.patch_index[row, i])].image for i in visual}
    if len(images) != 1:
        raise ValueError(f"row {row} has {len(images)} images; this picture is of rows with one")
    others = [i for i, k in enumerate(kinds) if k not in (TokenKind.VISUAL, TokenKind.PAD)]
    top = float(np.abs(values[:, visual + others]).max()) or 1.0
    rows, columns = batch.grids[images.pop()]
    left = LABEL + columns * CELL + GAP
    tokens = [_mark(token) for token in batch.tokens(row)]
    reach = LETTER * max((len(tokens[i]) for i in others), default=0)  # of the slanted words
    head = 34 + reach * sin(radians(SLANT))
    ends = left + len(others) * TOKEN + reach * cos(radians(SLANT))
    width = MARGIN + max(ends, MARGIN + 1.2 * LETTER * len(title), 360)
    line = rows * CELL + GAP
    parts = [f'<text class="head" x="{MARGIN}" y="16">{escape(title)}</text>']
    parts += [_slanted(left + j * TOKEN + 11, head - 6, tokens[i]) for j, i in enumerate(others)]
    for layer, these in enumerate(values):
        y = head + layer * line
        parts.append(f'<text x="{MARGIN}" y="{y + rows * CELL / 2 + 4:g}">layer {layer}</text>')
        parts += _grid(these, batch, row, visual, y, top, layer)
        for j, i in enumerate(others):
            parts.append(
                _cell(left + j * TOKEN, y, TOKEN - 1, rows * CELL, these[i], top, f"layer {layer}, {tokens[i]}")
            )
    height = head + len(values) * line + 16
    parts.append(f'<text x="{MARGIN}" y="{height - 6:g}">red +{top:.2g}, white 0, blue -{top:.2g}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width * 1.6:g}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<style>text{{font:10px system-ui,sans-serif;fill:#1c1c1c}}"
        f".head{{font-size:12px;font-weight:600}}</style>"
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _mark(token: str) -> str:
    """A token as the head of its column."""
    return shortened(visible(token).strip(), LONGEST)


def _slanted(x: float, y: float, words: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" transform="rotate({-SLANT} {x:g} {y:g})">{escape(words)}</text>'


def _grid(
    values: Float[np.ndarray, " pos"], batch: Batch, row: int, visual: list[int], y: float, top: float, layer: int
) -> Iterator[str]:
    for i in visual:
        patch = batch.patches[int(batch.patch_index[row, i])]
        name = f"layer {layer}, patch row {patch.row}, column {patch.column}"
        yield _cell(LABEL + patch.column * CELL, y + patch.row * CELL, CELL, CELL, values[i], top, name)


def _cell(x: float, y: float, width: float, height: float, value: float, top: float, name: str) -> str:
    share = float(np.clip(value / top, -1, 1))
    strong, weak = 255 - round(205 * abs(share)), 255 - round(35 * abs(share))
    color = (weak, strong, strong) if share >= 0 else (strong, strong, weak)
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="rgb{color}" stroke="#ddd" '
        f'stroke-width=".4" data-value="{value:.4g}"><title>{escape(name)}: {value:.3g}</title></rect>'
    )

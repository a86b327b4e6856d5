"""Where attention heads of every class look, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_neurons._checks import check_columns
from vlm_neurons.evidence.attention import SHARES
from vlm_neurons.viz.colours import COLORS
from vlm_neurons.viz.drawing import Drawing, drawing, panel, sheet, tip, width_of, write
from vlm_neurons.viz.wording import NAMES, counted, decimals, share_words

if TYPE_CHECKING:
    import pandas as pd

WIDTH, LEFT, RIGHT = 460, 128, 96  # of the figure; of the names of the lines; of what stands behind the bars
ROW, FIRST = 17, 40  # a line; above the first one
TO = {
    "to_image": ("the image", *COLORS["visual"]),
    "to_text": ("earlier words", *COLORS["text"]),
    "to_itself": ("itself", *COLORS["multimodal"]),
    "to_first": ("the first token", *COLORS["unknown"]),
    "to_template": ("the template", "#CC79A7", "#000000"),  # Okabe and Ito's purple
}


def heads_figure(by_class: pd.DataFrame, title: str = "") -> Drawing:
    """A bar of shares for every layer and class.

    Args:
        by_class: what `heads_by_class` returns.
        title: stands above.

    Raises:
        ValueError: a column is missing.
    """
    check_columns("by_class", by_class, "layer", "label", "n_heads", "focus", *SHARES)
    rows = by_class.to_dict("records")
    names = [f"{_layer(row['layer'])}, {NAMES.get(row['label'], row['label'])}" for row in rows]
    said = "; ".join(
        f"{name}: " + ", ".join(f"{share_words(row[to])} to {TO[to][0]}" for to in TO)
        for name, row in zip(names, rows, strict=True)
    )
    words = f"Shares of attention from words of responses. {said or 'There are no heads'}."
    figure = drawing(WIDTH, FIRST + ROW * len(rows) + 6, words, title)
    legend, x = sheet(figure), 0.0
    for name, color, _ in TO.values():
        legend.scatter([x + 5], [9], 60, color, marker="s")
        write(legend, x + 14, 13, name)
        x += 23 + width_of(name)
    write(legend, WIDTH, 32, "heads, focus", ha="right")
    axes = panel(figure, LEFT, FIRST, WIDTH - LEFT - RIGHT, ROW * max(1, len(rows)))
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        left = 0.0
        for to, (what, color, ink) in TO.items():
            share = 100 * float(row[to])
            (bar,) = axes.barh([place], [share], 0.82, left, color=color, label=to)
            tip(bar, f"{name}: {share_words(row[to])} of attention to {what} ({counted(row['n_heads'], 'head')})")
            if share >= 15:
                write(axes, left + share / 2, place, share_words(row[to]), color=ink, ha="center", va="center_baseline")
            left += share
        write(axes, 102, place, f"{row['n_heads']:,}, {decimals(row['focus'])}", va="center_baseline")
    axes.set(xlim=(0, 100), ylim=(max(1, len(rows)) - 0.5, -0.5), xticks=[], yticks=range(len(rows)), yticklabels=names)
    return figure


def _layer(layer: int | str) -> str:
    return "all layers" if layer == "all" else f"layer {layer}"

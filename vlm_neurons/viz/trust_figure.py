"""Scores of the model's own neurons beside those of random gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.interventions.trusting import OWN, summary
from vlm_neurons.viz.colours import COLORS
from vlm_neurons.viz.drawing import GRID, HEADING, INK, Drawing, drawing, panel, sheet, write
from vlm_neurons.viz.wording import NAMES, decimals, percent

if TYPE_CHECKING:
    import pandas as pd

WIDTH, LEFT, TALL, EACH = 366, 52, 58, 118  # units: of the figure, where axes begin, how tall they are, a panel
BINS = 30


def trust_figure(values: pd.DataFrame, source: str, statistic: str, title: str = "") -> Drawing:
    """One panel a class: bars for the model's own neurons, a line for those of random gates, and the 95th percentile of
    the latter.

    Args:
        values: what `vn.trust` keeps in `trust/values.parquet`.
        source: `"concepts"` or `"score"`.
        statistic: which.
        title: stands above.
    """
    chosen = values[(values["source"] == source) & (values["statistic"] == statistic)]
    rows = [row for row in summary(chosen).to_dict("records") if row["n"] and row["n_random"]]
    told = [
        f"AUROC {decimals(row['auroc'])} ({decimals(row['low'])} to {decimals(row['high'])}); "
        f"{percent(round(row['above'] * row['n']), row['n'])} above 95 % of random gates (dashed)"
        for row in rows
    ]
    spoken = "; ".join(f"{NAMES[row['label']]}: {said}" for row, said in zip(rows, told, strict=True))
    figure = drawing(WIDTH, EACH * len(rows) + 2, f"{statistic}. {spoken}", title)
    words = sheet(figure)
    finite = chosen.loc[np.isfinite(chosen["value"]), "value"]
    edges = np.linspace(min(0.0, float(finite.min())), max(1.0, float(finite.max())), BINS + 1)
    for place, (row, said) in enumerate(zip(rows, told, strict=True)):
        top, own = EACH * place, chosen[chosen["label"] == row["label"]]
        n = f"{row['n']:,} neurons, {row['n_random']:,} of random gates"
        write(words, 0, top + 12, NAMES[row["label"]], HEADING, weight="bold")
        write(words, WIDTH, top + 12, n, ha="right")
        write(words, 0, top + 27, said)
        axes = panel(figure, LEFT, top + 34, WIDTH - LEFT - 8, TALL)
        mine, random = (own.loc[is_own, "value"].to_numpy(float) for is_own in (own.draw == OWN, own.draw != OWN))
        bars = axes.bar(edges[:-1], _shares(mine, edges), np.diff(edges) * 0.94, align="edge",
                        color=COLORS[row["label"]][0])  # fmt: skip
        line = axes.stairs(_shares(random, edges), edges, color=INK, linewidth=1.2, baseline=None)
        if np.isfinite(row["limit"]):
            axes.axvline(row["limit"], color=INK, linewidth=1, linestyle="--")
        axes.set(xlim=(edges[0], edges[-1]), yticks=[])
        axes.axhline(0, color=GRID, linewidth=0.6)
        if not place:
            axes.legend([bars, line], ["own gates", "random gates"], fontsize=9.5, labelcolor=INK, framealpha=0,
                        loc="upper right", borderpad=0)  # fmt: skip
    return figure


def _shares(values: Float[np.ndarray, " n"], edges: Float[np.ndarray, " edge"]) -> Float[np.ndarray, " bin"]:
    """Of all, those without a number too."""
    return np.histogram(values[np.isfinite(values)], edges)[0] / max(1, len(values))

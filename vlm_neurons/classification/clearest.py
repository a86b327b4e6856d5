"""Which neurons a report shows."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def clearest(table: pd.DataFrame, label: str, n: int) -> pd.DataFrame:
    """The neurons that show a class best.

    Those with a positive peak, ordered by: no tie; share of the class among the top samples (`p_*`); number of top
    samples; peak relative to the median peak of the layer; layer and index. So that the choice is varied, the first
    pass takes at most `ceil(n / layers) + 1` of a layer; a second fills up where that leaves too few.

    Args:
        table: what `classify` returns, or a part of it.
        label: `"visual"`, `"text"`, `"multimodal"`, `"unknown"`; `"not_applicable"` is ordered by peak alone.
        n: at most so many.

    Returns:
        Rows of the table, the clearest first.
    """
    positive = table["peak"] > 0
    median = table["peak"].where(positive).groupby([table["site"], table["pole"], table["layer"]]).transform("median")
    rows = table.assign(_relative=table["peak"] / median)[positive & (table["label"] == label)]
    if label == "not_applicable":
        order, ascending = ["peak", "layer", "index"], [False, True, True]
    else:
        order = ["tie", f"p_{label}", "n_samples", "_relative", "layer", "index"]
        ascending = [True, False, False, False, True, True]
    rows = rows.sort_values(order, ascending=ascending, kind="stable").drop(columns="_relative")
    per_layer = ceil(n / max(1, rows["layer"].nunique())) + 1
    late = rows.groupby("layer").cumcount() >= per_layer
    chosen = rows[~late].head(n)
    missing = n - len(chosen)
    return rows.loc[[*chosen.index, *rows[late].head(missing).index]] if missing > 0 else chosen

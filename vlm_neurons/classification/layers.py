"""Counts and shares of the classes by layer, with intervals: the numbers behind the paper's figure of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._checks import check_columns
from vlm_neurons.stats import wilson

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("visual", "text", "multimodal", "unknown")
NOT_APPLICABLE = "not_applicable"


def statistics(table: pd.DataFrame) -> pd.DataFrame:
    """How many neurons of every class there are, by layer and over all layers.

    Args:
        table: what `classify` returns, by either method.

    Returns:
        One row per site, pole, layer and label, in the order of the table: `site`, `pole`, `layer` (the number, or
        `"all"`), `label`, `count`, `share` (of the neurons of this site, pole and layer that have a class; NaN for
        `not_applicable`) with its 95 % Wilson interval `share_low`, `share_high`, `confident` (neurons of the class
        whose label is confident), `confident_share` (of the class; NaN where it has no neuron) and its interval
        `confident_low`, `confident_high`. Every class has its row, also where its count is 0.
        Rows of layer `"all"` also say where in the depth a class is (NaN in the others): `depth` (mean of
        layer / last layer over its neurons), `concentration` (0: the same share in every layer; 1: all in one layer)
        and `half_in` (the least number of layers that hold half of it).

    Intervals take neurons as independent draws; those of one layer are not quite, so read them as the least that the
    uncertainty can be.

    Raises:
        ValueError: it is no table of `classify`.

    >>> every_layer = vn.statistics(table).query("layer == 'all'").set_index("label")
    >>> every_layer["share"].round(1).to_dict()
    {'visual': 0.2, 'text': 0.1, 'multimodal': 0.1, 'unknown': 0.6}
    """
    import pandas as pd

    check_columns("table", table, "site", "pole", "layer", "label", "confident")
    rows = []
    for (site, pole), part in table.groupby(["site", "pole"], sort=False):
        layers = [(int(layer), here) for layer, here in part.groupby("layer")]  # type: ignore[call-overload]
        for layer, here in [*layers, ("all", part)]:
            classified = int((here["label"] != NOT_APPLICABLE).sum())
            for label in LABELS if classified else (NOT_APPLICABLE,):
                row = {"site": site, "pole": pole, "layer": layer, "label": label}
                row |= _counts(here, label, classified)
                depths = _depths(layers, label) if layer == "all" and label != NOT_APPLICABLE else {}
                rows.append(row | {name: depths.get(name, np.nan) for name in ("depth", "concentration", "half_in")})
    return pd.DataFrame(rows)


def _counts(here: pd.DataFrame, label: str, classified: int) -> dict[str, Any]:
    of_class = here["label"] == label
    count, confident = int(of_class.sum()), int((of_class & here["confident"]).sum())
    applies = label != NOT_APPLICABLE
    low, high = wilson(count, classified if applies else 0)
    sure_low, sure_high = wilson(confident, count if applies else 0)
    return {
        "count": count,
        "share": count / classified if applies else np.nan,
        "share_low": low,
        "share_high": high,
        "confident": confident,
        "confident_share": confident / count if count and applies else np.nan,
        "confident_low": sure_low,
        "confident_high": sure_high,
    }


def _depths(layers: Sequence[tuple[int, pd.DataFrame]], label: str) -> dict[str, float]:
    """Where a class is: layers weigh the same whatever their width."""
    counts = np.array([(here["label"] == label).sum() for _, here in layers], dtype=float)
    if not counts.any() or len(layers) < 2:
        return {}
    shares = counts / np.array([len(here) for _, here in layers])
    shares /= shares.sum()
    numbers = np.array([number for number, _ in layers], dtype=float)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    held = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
    return {
        "depth": float((counts * numbers).sum() / counts.sum() / numbers.max()),
        "concentration": 1 - entropy / float(np.log(len(layers))) + 0.0,
        "half_in": float((held < 0.5).sum() + 1),
    }

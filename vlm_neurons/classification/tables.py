"""Tables of neurons: how their rows begin, what they say by layer, and which rows show a class best."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from vlm_neurons._checks import check_columns
from vlm_neurons.sites import at
from vlm_neurons.stats import wilson
from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE, Modality

if TYPE_CHECKING:
    import pandas as pd

    Tally = Counts[tuple[str, bool]]  # how many neurons have a label, confidently or not


def neuron_table(columns: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row for every neuron of some hooks and poles, in their order: which it is, then what was found.

    Args:
        columns: entries of `columns` of a run.
        found: of each of them name -> a value for every neuron.
    """
    import pandas as pd
    import pyarrow as pa

    widths = [column["d"] for column in columns]
    ids = (at(c["hook"])[0].ids(c["hook"], c["pole"], c["d"]) for c in columns)
    # by arrow: pandas looks at every word on its own
    table: dict[str, Any] = {
        "neuron": pa.chunked_array([pa.array(own, pa.string()) for own in ids], pa.string()).to_pandas()
    }
    for name in ("site", "hook", "layer"):
        table[name] = _repeated([column[name] for column in columns], widths)
    table["index"] = np.concatenate([np.arange(0), *(np.arange(d) for d in widths)])
    table["pole"] = _repeated([column["pole"] for column in columns], widths)
    for name in found[0] if found else ():
        table[name] = pd.concat([pd.Series(one[name]) for one in found], ignore_index=True)
    return pd.DataFrame(table)


def _repeated(values: Sequence[Any], widths: Sequence[int]) -> Any:
    """Each value so many times; words as one array of words and numbers of them, until pandas has them."""
    import pandas as pd

    known = list(dict.fromkeys(values))
    codes = np.repeat([known.index(value) for value in values], widths)
    return pd.Series(known).take(codes).array


def labels_in_words(numbers: Int[np.ndarray, "d"]) -> Any:
    """Names of classes in the order of `Modality`; the number behind the last says that there is none."""
    import pandas as pd

    return pd.Series([*MODALITIES, NOT_APPLICABLE]).take(numbers).array


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

    keys = ["site", "pole", "layer", "label", "confident"]
    check_columns("table", table, *keys)
    counted: dict[
        tuple[str, str], dict[int | None, Tally]
    ] = {}  # first all neurons are counted; the rest is arithmetic
    placed = table[keys].dropna(subset=keys[:2])
    sure = placed["confident"].eq(True).fillna(False)  # it may be missing
    placed = placed.assign(confident=np.asarray(sure, dtype=bool))
    for (site, pole, layer, *one), n in placed.groupby(keys, sort=False, dropna=False, observed=True).size().items():
        number = None if pd.isna(layer) else int(layer)  # without one it counts in "all" alone
        counted.setdefault((site, pole), {}).setdefault(number, Counts())[tuple(one)] = int(n)
    rows = []
    for (site, pole), by_layer in counted.items():
        layers = sorted((number, here) for number, here in by_layer.items() if number is not None)
        for layer, here in [*layers, ("all", sum(by_layer.values(), Counts()))]:
            classified = here.total() - _of_class(here, NOT_APPLICABLE)
            for label in MODALITIES if classified else (NOT_APPLICABLE,):
                row = {"site": site, "pole": pole, "layer": layer, "label": label}
                row |= _counts(here, label, classified)
                depths = _depths(layers, label) if layer == "all" and label != NOT_APPLICABLE else {}
                rows.append(row | {name: depths.get(name, np.nan) for name in ("depth", "concentration", "half_in")})
    return pd.DataFrame(rows)


def _of_class(here: Tally, label: str) -> int:
    return here[label, False] + here[label, True]


def _counts(here: Tally, label: str, classified: int) -> dict[str, Any]:
    count, confident = _of_class(here, label), here[label, True]
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


def no_classes(table: pd.DataFrame) -> str:
    """Why no neuron of a table has a class; empty where one has.

    >>> vn.classification.tables.no_classes(table)
    ''
    """
    if set(table["label"].unique()) != {NOT_APPLICABLE}:
        return ""
    return (
        f"no classes: units of {', '.join(table['site'].unique())} see images only, and classes tell whether a "
        "neuron answers to images or to text; scan gate or post for classes"
    )


def _depths(layers: Sequence[tuple[int, Tally]], label: str) -> dict[str, float]:
    """Where a class is: layers weigh the same whatever their width."""
    counts = np.array([_of_class(here, label) for _, here in layers], dtype=float)
    if not counts.any() or len(layers) < 2:
        return {}
    shares = counts / np.array([here.total() for _, here in layers])
    shares /= shares.sum()
    numbers = np.array([number for number, _ in layers], dtype=float)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    held = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
    return {
        "depth": float((counts * numbers).sum() / counts.sum() / numbers.max()),
        "concentration": 1 - entropy / float(np.log(len(layers))) + 0.0,
        "half_in": float((held < 0.5).sum() + 1),
    }


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
    label = label if label == NOT_APPLICABLE else Modality(label).value
    positive = table["peak"] > 0
    median = table["peak"].where(positive).groupby([table["site"], table["pole"], table["layer"]]).transform("median")
    rows = table.assign(_relative=table["peak"] / median)[positive & (table["label"] == label)]
    if label == NOT_APPLICABLE:
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

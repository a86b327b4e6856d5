"""How much the labels of the thresholds rule depend on what was chosen by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from vlm_neurons._checks import check_columns
from vlm_neurons.classification.counting import Counter, each_state, most_common
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.scanning import Run
from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

_PAPER = Thresholds()
NAMES = tuple(field.name for field in fields(Thresholds))


def sweep(
    run: Run | str | Path,
    t_visual: Sequence[float] = (1.0, 2.0, 3.0, 4.0),
    n_visual: Sequence[int] = (1, 2, 4),
    t_text: Sequence[float] = (2.0, 3.0, 4.0, 5.0),
    n_text: Sequence[int] = (1, 2),
) -> pd.DataFrame:
    """Labels under every combination of thresholds; no new pass over the data.

    Args:
        run: a finished scan, or its directory.
        t_visual: thresholds of visual tokens, on 0 ... 10.
        n_visual: how many visual tokens have to exceed them; at most what the scan kept.
        t_text: thresholds of text tokens.
        n_text: how many text tokens.

    Returns:
        One row per combination: `t_visual`, `n_visual`, `t_text`, `n_text`, shares `visual`, `text`, `multimodal`,
        `unknown` of all neurons that see both modalities, `same_as_paper` (share of neurons labelled as under the
        paper's 2, 4, 3, 2; NaN where the scan kept too few values for these) and `same_as_neighbours` (the same for the
        combinations that differ by one step in one of the four, on average).

    Raises:
        ValueError: no values to try, a threshold outside 0 ... 10, or a count beyond what the scan kept.

    >>> found = vn.classification.sweep(run, t_visual=[2, 4, 8], n_visual=[4], t_text=[3], n_text=[2])
    >>> found[["t_visual", "visual", "same_as_paper"]].round(1)  # fewer neurons are visual
       t_visual  visual  same_as_paper
    0         2     0.2            1.0
    1         4     0.1            0.9
    2         8     0.0            0.7
    """
    import pandas as pd

    run = Run.load(run)
    axes = [_axis(*given) for given in zip(NAMES, (t_visual, n_visual, t_text, n_text), strict=True)]
    combinations = [Thresholds(*one) for one in product(*axes)]
    for one in combinations:
        one.check(run)
    kept = run.info["parameters"]
    with_paper = kept["n_visual"] >= _PAPER.n_visual and kept["n_text"] >= _PAPER.n_text
    labels = _labels(run, [*combinations, _PAPER] if with_paper else combinations)
    grid = np.arange(len(combinations)).reshape([len(axis) for axis in axes])
    rows = []
    for number, one in enumerate(combinations):
        near = [labels[i] for i in _adjacent(grid, np.argwhere(grid == number)[0])]
        rows.append(
            asdict(one)
            | _shares(labels[number])
            | {
                "same_as_paper": _same(labels[number], labels[-1]) if with_paper else np.nan,
                "same_as_neighbours": float(np.mean([_same(labels[number], n) for n in near])) if near else np.nan,
            }
        )
    return pd.DataFrame(rows)


def _shares(labels: Int[np.ndarray, " neuron"]) -> dict[str, float]:
    """Of all neurons the share of each class. Compared four times: `bincount` makes wide numbers of narrow ones."""
    return {name: np.count_nonzero(labels == k) / max(len(labels), 1) for k, name in enumerate(MODALITIES)}


def _same(one: Int[np.ndarray, " neuron"], other: Int[np.ndarray, " neuron"]) -> float:
    """Share of neurons with the same label; NaN of none."""
    return np.count_nonzero(one == other) / len(one) if len(one) else float("nan")


def _axis(name: str, values: Any) -> list[Any]:
    found = list(values) if isinstance(values, Iterable) else []
    if not found or not all(isinstance(value, Real) for value in found):
        raise ValueError(f"{name}={values!r}: give the numbers to try as a list, such as {name}=[1, 2, 4]")
    return sorted(set(found))


def _adjacent(grid: Int[np.ndarray, "a b c d"], place: Int[np.ndarray, "4"]) -> list[int]:
    """What is one step away in one direction, in the order of the grid."""
    steps = [place + sign * step for step in np.eye(grid.ndim, dtype=int) for sign in (-1, 1)]
    return sorted(int(grid[tuple(s)]) for s in steps if all(0 <= k < n for k, n in zip(s, grid.shape, strict=True)))


def _labels(run: Run, combinations: Sequence[Thresholds]) -> Int[np.ndarray, "combination neuron"]:
    """Class numbers of all neurons that see both modalities, for every combination."""
    columns = [column for column in run.info["columns"] if column["indexed_by"] == "row"]
    found = np.empty((len(combinations), sum(column["d"] for column in columns)), np.int8)
    end = 0
    for column, state, rows in each_state(run, columns):
        counter, end = Counter(state), end + column["d"]
        for labels, rule in zip(found, combinations, strict=True):
            labels[end - column["d"] : end] = most_common(counter.counts(rule))[rows]
    return found


def sensitivity(
    run: Run | str | Path,
    t_visual: float = _PAPER.t_visual,
    n_visual: int = _PAPER.n_visual,
    t_text: float = _PAPER.t_text,
    n_text: int = _PAPER.n_text,
) -> pd.DataFrame:
    """How the labels change with choices that the paper leaves open.

    Args:
        run: a finished scan, or its directory.
        t_visual: as for `classify`, also the three that follow.
        n_visual: see there.
        t_text: see there.
        n_text: see there.

    Returns:
        One row per site, pole and choice: `site`, `pole`, `choice`, `n` (neurons compared), `same` (share with the
        label of the default) and the shares `visual`, `text`, `multimodal`, `unknown` under the choice. Choices:
        `"default"`; `"maximum over all tokens"` (template tokens count for the activation that is mapped to 10: an
        attention sink at the first token can dwarf the rest); `"maximum of the second sample"` (the strongest sample
        does not set the scale by itself: an outlier among visual and text tokens); `"maximum without the strongest
        tokens"` (of every sample only the last values that the scan kept count, by default the 4th largest at visual
        and the 2nd largest at text tokens: a sink among them that is in every sample, on fewer tokens than that, does
        not set the scale; the same as the default where the scan kept one value each); `"site post"` or
        `"site gate"` (the same layer and number at the other site, where both were scanned; compared with pole +).

    >>> same = vn.classification.sensitivity(run).set_index("choice").same
    >>> bool(same["maximum over all tokens"] > 0.95), bool(same["maximum of the second sample"] > 0.95)
    (True, True)
    """
    import pandas as pd

    run = Run.load(run)
    rule = Thresholds(t_visual, n_visual, t_text, n_text).check(run)
    labels: dict[tuple[str, str, str], dict[int, np.ndarray]] = {}
    for column, state, row_of in each_state(run, [c for c in run.info["columns"] if c["indexed_by"] == "row"]):
        counter, of_two = Counter(state), torch.maximum(state.visual[:, :2, 0], state.text[:, :2, 0]).float().numpy()
        own = of_two[:, 0]  # `state.peak`
        peaks = {
            "default": own,
            "maximum over all tokens": state.peak_all.float().numpy(),
            "maximum of the second sample": of_two[:, -1],
            "maximum without the strongest tokens": _without_the_strongest(counter),
        }
        every = np.stack([*peaks.values()])
        here = most_common(counter.by(np.where(every > 0, every, own)).counts(rule))
        for choice, of_choice in zip(peaks, here, strict=True):
            labels.setdefault((column["site"], column["pole"], choice), {})[column["layer"]] = of_choice[row_of]
    for site, other in (("gate", "post"), ("post", "gate")):
        mine, theirs = labels.get((site, "+", "default"), {}), labels.get((other, "+", "default"), {})
        if mine and mine.keys() == theirs.keys():
            labels[site, "+", f"site {other}"] = theirs
    rows = []
    for (site, pole, choice), layers in labels.items():
        found = np.concatenate(list(layers.values()))
        default = np.concatenate([labels[site, pole, "default"][layer] for layer in layers])
        row = {"site": site, "pole": pole, "choice": choice, "n": len(found), "same": float((found == default).mean())}
        rows.append(row | _shares(found))
    return pd.DataFrame(rows)


def _without_the_strongest(counter: Counter) -> Float[np.ndarray, "d"]:
    """The largest of the last values that were kept of every sample."""
    state = counter.state
    seen, read = counter.values("visual", state.visual.shape[-1]), counter.values("text", state.text.shape[-1])
    return np.maximum(seen.max(0), read.max(0))


def confusion(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """How often two classifications of the same neurons agree, such as those of the two methods.

    Args:
        table: what `classify` returned.
        other: the same by another method, or of another run of the same neurons.

    Returns:
        Counts, one row per label of `table` and one column per label of `other`, over neurons that have a class in
        both. `.attrs["agreement"]` is the share on the diagonal, `.attrs["kappa"]` Cohen's kappa (agreement beyond what
        the shares alone would give).

    Raises:
        ValueError: the tables have no neuron in common, or are not those of `classify`.

    >>> import pandas as pd
    >>> one = pd.DataFrame({"neuron": ["L0N0", "L0N1", "L0N2", "L0N3"], "label": ["visual", "visual", "text", "text"]})
    >>> other = one.assign(label=["visual", "visual", "text", "unknown"])
    >>> counts = vn.classification.confusion(one, other)
    >>> int(counts.loc["text", "unknown"]), counts.attrs["agreement"]
    (1, 0.75)
    """
    import pandas as pd

    for name, one in (("table", table), ("other", other)):
        check_columns(name, one, "neuron", "label")
    joined = table[["neuron", "label"]].merge(other[["neuron", "label"]], on="neuron", suffixes=("", "_other"))
    joined = joined[(joined["label"] != NOT_APPLICABLE) & (joined["label_other"] != NOT_APPLICABLE)]
    if joined.empty:
        raise ValueError("the tables have no classified neuron in common: compare tables of the same sites")
    counts = pd.crosstab(joined["label"], joined["label_other"])
    counts = counts.reindex(index=list(MODALITIES), columns=list(MODALITIES), fill_value=0)
    shares = counts.to_numpy() / len(joined)
    agreement, chance = float(np.trace(shares)), float(shares.sum(0) @ shares.sum(1))
    counts.attrs["agreement"] = agreement
    counts.attrs["kappa"] = (agreement - chance) / (1 - chance) if chance < 1 else 1.0
    return counts

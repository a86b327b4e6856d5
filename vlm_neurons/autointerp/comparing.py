"""Scores against scores, and over a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._checks import check_seed
from vlm_neurons.autointerp.explanation import Explanation, Failure, says_nothing
from vlm_neurons.autointerp.jobs import Explanations, check_explanations, testable
from vlm_neurons.autointerp.protocols import Judge
from vlm_neurons.autointerp.scorers.rows import NUMBERS
from vlm_neurons.stats import auroc

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence

N_BOOTSTRAP = 9999
SMALLER = ("p", "p_within", "q")  # better the smaller they are
SCORES = tuple(n for n in NUMBERS if n not in ("r_low", "r_high", "r_null", "r_empty", "ceiling", "stability"))
LEVELS = {"best": 1.0, "upper quarter": 0.75, "median": 0.5, "lower quarter": 0.25, "worst": 0.0}


def compare(a: pd.DataFrame, b: pd.DataFrame, column: str = "r", seed: int = 0) -> pd.DataFrame:
    """Two explainers, or two simulators, on the same neurons.

    Args:
        a: what `score` returned; with `full=True` for rows by class. Of a neuron the mean over its sides counts.
        b: the same for the other; neurons that are not in both, or have no number in one, are left out and counted.
        column: which score; of p and q the smaller is the better.
        seed: of the bootstrap.

    Returns:
        One row per class and one for `"all"`: `label, n, n_left_out, a, b` (means), `difference` (a - b) with its 95 %
        interval `low, high` (bootstrap over neurons, paired), `a_better` (share of neurons; ties count half).

    Raises:
        KeyError: a table lacks the column.
        ValueError: the column is no score, no neuron is in both, or a side of one is in a table twice.

    >>> import pandas as pd
    >>> mine = pd.DataFrame({
    ...     "neuron": ["L0N1", "L0N2", "L0N3"], "side": "picture", "label": "visual", "r": [0.5, 0.5, 0.75]
    ... })
    >>> yours = mine.assign(r=[0.25, 0.5, float("nan")])
    >>> vn.autointerp.compare(mine, yours)[["label", "n", "n_left_out", "difference", "a_better"]]
        label  n  n_left_out  difference  a_better
    0     all  2           1       0.125      0.75
    1  visual  2           1       0.125      0.75
    """
    import pandas as pd

    check_seed(seed)
    for table in (a, b):
        if column not in table:
            raise KeyError(f"{column!r} is no column of the scores: {', '.join(map(str, table.columns))}")
        if column not in SCORES:
            raise ValueError(f"{column!r} is no score: one of {', '.join(SCORES)}")
        if (twice := table.duplicated(["neuron", "side"])).any():
            neuron, side = table.loc[twice, ["neuron", "side"]].iloc[0]
            raise ValueError(f"neuron {neuron}, side {side}, is in one table twice: one simulator a table")
    if not set(a["neuron"]) & set(b["neuron"]):
        raise ValueError("no neuron is in both tables")
    keys = ["neuron", "side"]
    both = a[[*keys, column]].merge(b[[*keys, column]], on=keys, suffixes=("_a", "_b"), how="outer")
    both["label"] = both["neuron"].map(_labels(b) | _labels(a))
    x, y = (both[f"{column}_{name}"].to_numpy(float) for name in "ab")
    there = np.isfinite(x) & np.isfinite(y)
    both["a"], both["b"] = np.where(there, x, np.nan), np.where(there, y, np.nan)
    by_neuron = both.groupby("neuron", sort=False).agg({"label": "first", "a": "mean", "b": "mean"})
    rng = np.random.default_rng(seed)
    groups = [("all", by_neuron), *((str(label), part) for label, part in by_neuron.groupby("label", sort=False))]
    return pd.DataFrame([_compared(label, part, column in SMALLER, rng) for label, part in groups])


def _labels(scores: pd.DataFrame) -> dict[str, str]:
    """Class of every neuron, where the table tells."""
    if "label" not in scores:
        return {}
    told = scores[scores["label"].notna()]
    return dict(zip(told["neuron"], told["label"].astype(str), strict=True))


def _compared(label: str, part: pd.DataFrame, smaller: bool, rng: np.random.Generator) -> dict[str, Any]:
    """One row of `compare`."""
    there = part[part["a"].notna()]
    d = (there["a"] - there["b"]).to_numpy()
    better = -d if smaller else d
    low = high = float("nan")
    if len(d) > 1:
        means = d[rng.integers(len(d), size=(N_BOOTSTRAP, len(d)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
    return {
        "label": label, "n": len(d), "n_left_out": len(part) - len(d), "a": there["a"].mean(), "b": there["b"].mean(),
        "difference": there["a"].mean() - there["b"].mean() if len(d) else float("nan"), "low": float(low),
        "high": float(high), "a_better": float(((better > 0) + 0.5 * (d == 0)).mean()) if len(d) else float("nan"),
    }  # fmt: skip


def score_statistics(scores: pd.DataFrame, by: str = "label") -> pd.DataFrame:
    """Scores over the model.

    Args:
        scores: what `score(..., full=True)` returned, or `run.scores()` read.
        by: `"label"`, `"side"`, `"layer"`, or another column.

    Returns:
        One row per group and one for `"all"`: `n` rows (a neuron and side each), `n_explained` (whose explanation did
        not fail and names something: not "no clear pattern"), `n_scored` (with an r), median `r`, `r_within` and
        `r_null`, `above_null` (share of those with both whose r is above their r_null), `significant` (number with
        q < .05), `n_failed` (exemplars), and `best ... worst`: neurons whose r is at that level.

    >>> found = vn.autointerp.score_statistics(scores).set_index("label")
    >>> found.r.round(1).to_dict(), found.best["all"]
    ({'all': 0.9, 'multimodal': 0.9, 'text': 1.0, 'visual': 0.8}, 'L0N357')
    """
    import pandas as pd

    for name in (by, "r_within", "q", "n_failed"):
        if name not in scores:
            what = f"by={by!r} is" if name == by else f"{name!r} is"
            told = ", ".join(map(str, scores.columns))
            raise KeyError(f"{what} no column of the scores: {told}; vn.score(..., full=True) has all")
    rows = []
    for name, part in [("all", scores), *scores.groupby(by, sort=True, dropna=False)]:
        scored = part[part["r"].notna()].sort_values(["r", "neuron"])
        both = scored[scored["r_null"].notna()]
        row: dict[str, Any] = {
            by: name, "n": len(part), "n_explained": sum(not says_nothing(t) for t in part["explanation"]),
            "n_scored": len(scored), "r": scored["r"].median(),
            "r_within": scored["r_within"].median(), "r_null": both["r_null"].median(),
            "above_null": float((both["r"] > both["r_null"]).mean()) if len(both) else float("nan"),
            "significant": int((scored["q"] < 0.05).sum()), "n_failed": int(part["n_failed"].sum()),
        }  # fmt: skip
        for level, share in LEVELS.items():
            row[level] = scored["neuron"].iloc[round(share * (len(scored) - 1))] if len(scored) else None
        rows.append(row)
    return pd.DataFrame(rows)


def detect(explanations: Explanations, evidence: Mapping[str, Evidence], judge: Judge) -> pd.DataFrame:
    """An alternative to simulation: does the explanation tell active samples from inactive ones?

    Args:
        explanations: as in `score`.
        evidence: of the same neurons; the split `"test"` is judged, top exemplars against random ones.
        judge: an object of a class that inherits `vlm_neurons.autointerp.Judge`, such as
            `vn.simulators.ApiJudge(model=...)`.

    Returns:
        One row per explanation that did not fail: `neuron, explanation, auroc, n_top, n_random, n_failed` (no number as
        answer is a failure too); NaN where a group is empty.

    Raises:
        KeyError: an explanation without evidence.
        ValueError: an explanation that was made from samples it would be tested on, or a judge with another number of
            answers than exemplars.

    >>> from vlm_neurons.autointerp import Judge
    >>> class SaysPink(Judge):
    ...     def judge(self, explanation, exemplars):
    ...         return [float(" pink" in e.seen.tokens) for e in exemplars]
    >>> found = vn.autointerp.detect({"L2N304": "pink regions"}, evidence, SaysPink())
    >>> found[["n_top", "n_random", "auroc"]].round(1)
       n_top  n_random  auroc
    0      6         6    0.9
    """
    import pandas as pd

    if not isinstance(judge, Judge):
        raise ValueError(
            f"judge={judge!r}: give an object of a class that inherits vlm_neurons.autointerp.Judge and "
            "has judge(explanation, exemplars), such as vn.simulators.ApiJudge"
        )
    check_explanations(explanations, evidence)
    rows = []
    for key, explanation in explanations.items():
        text = testable(key, explanation, evidence[key])
        if isinstance(explanation, Explanation) and explanation.failed:
            continue
        exemplars = evidence[key].split("test")
        said = list(judge.judge(text, exemplars))
        if len(said) != len(exemplars):
            raise ValueError(f"judge {judge.name}, {key}: {len(said)} answers to {len(exemplars)} exemplars")
        chances = np.array([np.nan if isinstance(v, Failure) else float(v) for v in said])
        good = np.isfinite(chances)
        values, top = chances[good], np.array([e.group == "top" for e in exemplars], bool)[good]
        rows.append({
            "neuron": key, "explanation": text, "auroc": auroc(values, top),
            "n_top": int(top.sum()), "n_random": int((~top).sum()), "n_failed": int((~good).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)

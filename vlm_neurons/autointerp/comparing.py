"""Scores against scores, and over a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vlm_neurons.autointerp.explanation import Explanation, Failure, says_nothing
from vlm_neurons.autointerp.scoring import NUMBERS
from vlm_neurons.autointerp.simulating import pairs, testable
from vlm_neurons.stats import auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from vlm_neurons.evidence import Evidence, Exemplar

N_BOOTSTRAP = 9999
SMALLER = ("p", "p_within", "q")  # better the smaller they are
SCORES = tuple(n for n in NUMBERS if n not in ("r_low", "r_high", "r_null", "r_empty", "ceiling"))
LEVELS = {"best": 1.0, "upper quarter": 0.75, "median": 0.5, "lower quarter": 0.25, "worst": 0.0}


class Judge(Protocol):
    """Says whether samples fit an explanation."""

    def judge(self, explanation: str, exemplars: Sequence[Exemplar]) -> Sequence[float | Failure]:
        """For each exemplar the chance that it fits, or why there is none. It may look at `exemplar.seen` only."""
        ...


def compare(a: pd.DataFrame, b: pd.DataFrame, column: str = "r", seed: int = 0) -> pd.DataFrame:
    """Two explainers, or two simulators, on the same neurons.

    Args:
        a: what `score` returned.
        b: the same for the other; neurons that are not in both, or have no number in one, are left out and counted.
        column: which score; of p and q the smaller is the better.
        seed: of the bootstrap.

    Returns:
        One row per class and one for `"all"`: `label, n, n_left_out, a, b` (means), `difference` (a - b) with its 95 %
        interval `low, high` (bootstrap over neurons, paired), `a_better` (share of neurons; ties count half).

    Raises:
        KeyError: a table lacks the column.
        ValueError: the column is no score, no neuron is in both, or one is in a table twice.

    >>> import pandas as pd
    >>> mine = pd.DataFrame({"neuron": ["L0N1", "L0N2", "L0N3"], "label": "visual", "r": [0.5, 0.5, 0.75]})
    >>> yours = mine.assign(r=[0.25, 0.5, float("nan")])
    >>> vn.compare(mine, yours)[["label", "n", "n_left_out", "difference", "a_better"]]
        label  n  n_left_out  difference  a_better
    0     all  2           1       0.125      0.75
    1  visual  2           1       0.125      0.75
    """
    import pandas as pd

    for table in (a, b):
        if column not in table:
            raise KeyError(f"{column!r} is no column of the scores: {', '.join(map(str, table.columns))}")
        if column not in SCORES:
            raise ValueError(f"{column!r} is no score: one of {', '.join(SCORES)}")
        if table["neuron"].duplicated().any():
            raise ValueError(f"neuron {table['neuron'][table['neuron'].duplicated()].iloc[0]} is in one table twice")
    if not set(a["neuron"]) & set(b["neuron"]):
        raise ValueError("no neuron is in both tables")
    parts = (t[["neuron", "label", column]] for t in (a, b))
    both = next(parts).merge(next(parts), on="neuron", suffixes=("_a", "_b"), how="outer")
    both["label"] = both["label_a"].where(both["label_a"].notna(), both["label_b"])
    rng = np.random.default_rng(seed)
    groups = [("all", both), *((str(label), part) for label, part in both.groupby("label", sort=False, dropna=False))]
    rows = []
    for label, part in groups:
        x, y = part[f"{column}_a"].to_numpy(float), part[f"{column}_b"].to_numpy(float)
        there = np.isfinite(x) & np.isfinite(y)
        d = (x - y)[there]
        better = -d if column in SMALLER else d
        low = high = float("nan")
        if len(d) > 1:
            means = d[rng.integers(len(d), size=(N_BOOTSTRAP, len(d)))].mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
        rows.append({
            "label": label, "n": len(d), "n_left_out": len(part) - len(d), "a": _mean(x[there]), "b": _mean(y[there]),
            "difference": _mean(d), "low": float(low), "high": float(high),
            "a_better": _mean((better > 0) + 0.5 * (d == 0)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def score_statistics(scores: pd.DataFrame, by: str = "label") -> pd.DataFrame:
    """Scores over the model.

    Args:
        scores: what `score` returned.
        by: `"label"`, `"layer"`, or another column.

    Returns:
        One row per group and one for `"all"`: `n` neurons, `n_explained` (whose explanation did not
        fail and names something: not "no clear pattern"), `n_scored` (with an r), median `r`, `r_within` and
        `r_null`, `above_null` (share of those with both whose r is above their r_null), `significant` (number with
        q < .05), `n_failed` (exemplars), and `best ... worst`: neurons whose r is at that level.

    >>> found = vn.score_statistics(scores).set_index("label")
    >>> found.r.round(1).to_dict(), found.best["all"]
    ({'all': 0.8, 'multimodal': 0.8, 'text': 0.9, 'visual': 0.8}, 'L0N357')
    """
    import pandas as pd

    if by not in scores:
        raise KeyError(f"by={by!r} is no column of the scores: {', '.join(map(str, scores.columns))}")
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


def detect(
    explanations: Mapping[str, Explanation | str], evidence: Mapping[str, Evidence], judge: Judge
) -> pd.DataFrame:
    """An alternative to simulation: does the explanation tell active samples from inactive ones?

    Args:
        explanations: as in `score`.
        evidence: of the same keys; the split `"test"` is judged, top exemplars against random ones.
        judge: anything with `judge(explanation, exemplars)`, such as `vn.ApiJudge(model=...)`.

    Returns:
        One row per explanation that did not fail: `neuron, explanation, auroc, n_top, n_random, n_failed` (no number as
        answer is a failure too); NaN where a group is empty.

    Raises:
        KeyError: an explanation without evidence.
        ValueError: an explanation that was made from samples it would be tested on, or a judge with another number of
            answers than exemplars.

    >>> class SaysPink:
    ...     def judge(self, explanation, exemplars):
    ...         return [float(" pink" in e.seen.tokens) for e in exemplars]
    >>> found = vn.detect({"L2N304": "pink regions"}, evidence, SaysPink())
    >>> found[["n_top", "n_random", "auroc"]].round(1)
       n_top  n_random  auroc
    0      6         6    0.9
    """
    import pandas as pd

    if not callable(getattr(judge, "judge", None)):
        raise ValueError(f"judge={judge!r}: give an object with judge(explanation, exemplars), such as vn.ApiJudge")
    pairs(explanations, evidence, "explanations")
    rows = []
    for key, explanation in explanations.items():
        text = testable(key, explanation, evidence)
        if isinstance(explanation, Explanation) and explanation.failure is not None:
            continue
        exemplars = evidence[key].split("test")
        said = list(judge.judge(text, exemplars))
        if len(said) != len(exemplars):
            name = getattr(judge, "name", type(judge).__name__)
            raise ValueError(f"judge {name}, {key}: {len(said)} answers to {len(exemplars)} exemplars")
        chances = np.array([np.nan if isinstance(v, Failure) else float(v) for v in said])
        good = np.isfinite(chances)
        values, top = chances[good], np.array([e.group == "top" for e in exemplars], bool)[good]
        rows.append({
            "neuron": evidence[key].neuron, "explanation": text, "auroc": auroc(values, top),
            "n_top": int(top.sum()), "n_random": int((~top).sum()), "n_failed": int((~good).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")

"""Does a score tell a trained model from a random one? Every explanation and score asked of random gates too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from vlm_neurons import stats
from vlm_neurons._checks import of_kind, whole
from vlm_neurons._files import told_where, write_atomic
from vlm_neurons.autointerp import explain, score
from vlm_neurons.autointerp.protocols import SIDES_OF, Explainer, Simulator
from vlm_neurons.classification import classify
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.evidence import gather_evidence
from vlm_neurons.interventions.baselines import random_gates
from vlm_neurons.scanning import Run, scan
from vlm_neurons.scanning.planning import place
from vlm_neurons.scanning.writing import check_length

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.protocols import ConceptBank

Measure = Callable[["pd.DataFrame"], "pd.Series"]
FOLDER, VALUES = "trust", "values.parquet"
OWN = -1  # number of the model's own gates among the draws
SITES = ("gate", "post")  # whose neurons hang on the gates


def _column(name: str) -> Measure:
    return lambda table: table[name]


OF_CONCEPTS: dict[str, Measure] = {
    **{name: _column(name) for name in ("focus", "r", "r_specific", "share_one", "share_three")},
    "r_specific - r_generic": lambda t: t["r_specific"] - t["r_generic"],
}
"""Statistics of the pass (`run.concepts()`)."""
OF_SCORES: dict[str, Measure] = {
    **{name: _column(name) for name in ("r", "r_top_random", "r_between", "r_within", "r_sample", "spearman", "auroc",
                                        "iou", "detection")},
    "r - r_null": lambda t: t["r"] - t["r_null"],
    "p, small": lambda t: -t["p"],
}  # fmt: skip
"""Columns of `vn.score`, or what is made of them."""


@dataclass(frozen=True)
class _Asked:
    """What is done with the model's own gates and with random ones alike."""

    data: ImageTextData
    run: Run
    concepts: ConceptBank | None
    explainer: str | Explainer | None
    simulator: str | Simulator
    n: int
    seed: int
    progress: bool


def trust(
    model: HookedVLM,
    data: ImageTextData,
    run: Run | str | Path,
    concepts: ConceptBank | None = None,
    explainer: str | Explainer | None = "dissection",
    simulator: str | Simulator = "concepts",
    n: int = 30,
    draws: int = 2,
    seed: int = 0,
    out: Run | str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Which scores tell the neurons of a trained model from those of random gates?

    A score that random gates reach as often says nothing about what training made (Heap et al., ICLR 2026, arXiv
    2501.17727). The model is scanned again with gates of random directions and equal norms (`random_gates`), and the
    neurons that it then has are classified, explained and scored by the same steps and on the same data.

    Args:
        model: the model that was scanned.
        data: the data that was scanned.
        run: a finished scan of site gate or post; its parameters are those of the scans with random gates, its saved
            labels say the thresholds.
        concepts: the bank of the run, for the statistics of the pass; of all neurons. None leaves them out.
        explainer: as in `explain`; None leaves explanations and scores out.
        simulator: as in `score`.
        n: neurons of each class that are explained, drawn at random; fewer where the class has fewer.
        draws: of random gates. Each takes a scan, and evidence, explanations and scores of as many neurons.
        seed: of the gates and of the draw of neurons.
        out: a run or a directory, in whose folder `trust/` all of it is kept: an interrupted call goes on there, and
            the report of the run shows it. None keeps nothing.
        progress: show what it is at.

    Returns:
        One row per statistic and class: `source` (`"concepts"`: the pass; `"score"`), `statistic`, `label`, `n` and
        `n_random` (neurons), `median`, `median_random`, `auroc` with its 95 % interval `low`, `high` (DeLong; neurons
        of a model taken as independent) of the model's own gates against random ones, `limit` (95th percentile with
        random gates) and `above` (share of the model's own neurons above it). Of multi-modal neurons the lower of both
        sides counts. A neuron without a number (no clear pattern, a constant simulation) counts as below all others;
        one without a null (nobody else of its layer and class was explained) is left out of `r - r_null`.

    Raises:
        ValueError: a run of neither site, one without concepts where a bank is given, data that was not scanned, or a
            quantised model, whose gates cannot be replaced.

    >>> found = vn.trust(model, data, run, n=3, draws=1, progress=False).set_index(["statistic", "label"])
    >>> found.loc["r", "visual"][["n", "n_random"]].astype(int).tolist()
    [3, 3]
    """
    run = Run.load(run)
    data = _as_scanned(run, data)
    whole(1, n=n, draws=draws)
    whole(0, seed=seed)
    _check(run, concepts, explainer)
    asked = _Asked(data, run, concepts, explainer, simulator, n, seed, progress)
    with nullcontext(_folder(out)) if out is not None else _temporary() as folder:
        if progress:
            tqdm.write(
                f"trust: {draws} scans of {len(data):,} samples with random gates; evidence, explanations and scores "
                f"of up to {(draws + 1) * n} neurons of each class"
            )
        values = [_values(model, asked, run, folder / "own").assign(draw=OWN)]
        for draw in range(draws):
            with random_gates(model, seed + draw):
                path = folder / f"random-{seed + draw}{'' if concepts is None else '-concepts'}"
                values.append(_values(model, asked, _scan_again(model, asked, path), path).assign(draw=draw))
        import pandas as pd

        found = pd.concat(values, ignore_index=True)
        told = summary(found)
        write_atomic(folder / VALUES, lambda path: found.to_parquet(path, index=False))
    return told


def _check(run: Run, concepts: Any, explainer: Any) -> None:
    if not {"gate", "post"} & set(run.info["sites"]):
        raise ValueError(f"{run.path} has {run.scanned}: only neurons of sites gate and post hang on gates")
    if concepts is not None and "concepts" not in run.info:
        raise ValueError(f"{run.path} was scanned without concepts: scan it with concepts=, or leave concepts= out")
    if place()[1] > 1:
        raise ValueError("trust is one process's work (WORLD_SIZE is above 1): call it after the scan, in one process")
    if concepts is None and explainer is None:
        raise ValueError("nothing to ask: give concepts= (statistics of the pass), an explainer=, or both")


def _as_scanned(run: Run, data: ImageTextData) -> ImageTextData:
    """The data with the responses that were scanned: a model with random gates must not write those that lack."""
    check_length(run, data)
    scanned = run.info["data"]["fingerprint"]
    if data.fingerprint() != scanned:
        data = run.with_scanned_responses(data)
    if data.fingerprint() != scanned:
        raise ValueError(f"data= is not what {run.path} was made with (its fingerprint differs): pass that data")
    return data


def _folder(out: Run | str | Path) -> Path:
    of_kind("out", out, Run | str | Path, "give a run, or a directory")
    folder = (out.path if isinstance(out, Run) else Path(out)) / FOLDER
    with told_where(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _scan_again(model: HookedVLM, asked: _Asked, path: Path) -> Run:
    """The same scan with the gates that the model has now."""
    made, folds = asked.run.info["parameters"], {}
    if asked.concepts is not None:
        folds = {name: made[name] for name in ("folds", "null_directions")}
    same = {name: made[name] for name in ("top_n", "n_visual", "n_text", "batch_size", "block_size")}
    sites = [site for site in SITES if site in asked.run.info["sites"]]
    return scan(
        model, asked.data, site=sites, **same, **folds, concepts=asked.concepts, prompt=made["prompt"], out=path,
        progress=asked.progress,
    )  # fmt: skip


def _values(model: HookedVLM, asked: _Asked, run: Run, folder: Path) -> pd.DataFrame:
    """Every statistic of every neuron that has it: source, statistic, label, neuron, value."""
    import pandas as pd

    table = classify(run, **_thresholds(asked.run))
    table = table[table["site"].isin(SITES) & table["label"].isin(SIDES_OF)]
    found = []
    if asked.concepts is not None:
        of_pass = run.concepts().drop(columns="label", errors="ignore").merge(table[["neuron", "label"]], on="neuron")
        found += _each(of_pass, "concepts", OF_CONCEPTS)
    if asked.explainer is not None and len(table):
        found += _each(_scored(model, asked, run, table, folder), "score", OF_SCORES)
    columns = ["source", "statistic", "label", "neuron", "value"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def _scored(model: HookedVLM, asked: _Asked, run: Run, table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The full table of scores of some neurons of every class."""
    rng = np.random.default_rng(asked.seed)
    chosen = [own.iloc[np.sort(rng.permutation(len(own))[: asked.n])] for _, own in table.groupby("label")]
    with told_where(folder):
        folder.mkdir(exist_ok=True)
    import pandas as pd

    rows = pd.concat(chosen)
    evidence = gather_evidence(model, asked.data, run, rows, seed=asked.seed, progress=asked.progress)
    explanations = explain(evidence, asked.explainer, out=folder, progress=asked.progress)
    scores = score(
        explanations, evidence, asked.simulator, out=folder, seed=asked.seed, progress=asked.progress, full=True
    )
    return scores[scores["neuron"].isin(rows["neuron"])]


def _thresholds(run: Run) -> Mapping[str, Any]:
    """Those of the labels that are saved in a run; none (the defaults) where there are no such labels."""
    try:
        said = run.table().attrs["parameters"]
        return {**{field.name: said[field.name] for field in fields(Thresholds)}, "peak": said.get("peak", "tokens")}
    except (FileNotFoundError, KeyError):
        return {}


def _each(table: pd.DataFrame, source: str, measures: Mapping[str, Measure]) -> list[pd.DataFrame]:
    """Of every neuron the lowest of the sides that its class answers to."""
    found = []
    sides = {(label, side) for label, own in SIDES_OF.items() for side in own}
    rows = table[np.array([key in sides for key in zip(table["label"], table["side"], strict=True)], bool)]
    for name, of in measures.items():
        values = of(rows).astype(float)
        if "r_null" in name:  # a neuron whose words nobody shares a layer and class with has no null to be above
            values, kept = values[alone := ~(rows["r"].notna() & values.isna())], rows[alone]
        else:
            kept = rows
        lowest = kept.assign(value=values.fillna(-np.inf)).groupby(["neuron", "label"], as_index=False)["value"].min()
        found.append(lowest.assign(source=source, statistic=name))
    return found


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """What `trust` returns, of the values that it keeps in `trust/values.parquet`: one a neuron, draw and statistic."""
    import pandas as pd

    rows = []
    for (source, name), every in values.groupby(["source", "statistic"], sort=False):
        for label in SIDES_OF:
            own, random = (every.loc[(every["label"] == label) & is_own, "value"].to_numpy(float)
                           for is_own in (every["draw"] == OWN, every["draw"] != OWN))  # fmt: skip
            rows.append({"source": source, "statistic": name, "label": label, **_against(own, random)})
    numbers = ("n", "n_random", "median", "median_random", "auroc", "low", "high", "limit", "above")
    return pd.DataFrame(rows, columns=["source", "statistic", "label", *numbers])


def _against(own: Float[np.ndarray, " n"], random: Float[np.ndarray, " m"]) -> dict[str, Any]:
    """One row of numbers; NaN where one of both has no neuron of the class."""
    nan = float("nan")
    found: dict[str, Any] = {"n": len(own), "n_random": len(random), "median": _quantile(own, 0.5),
                             "median_random": _quantile(random, 0.5), "auroc": nan, "low": nan, "high": nan,
                             "limit": _quantile(random, 0.95), "above": nan}  # fmt: skip
    if not len(own) or not len(random):
        return found
    on = np.arange(len(own) + len(random)) < len(own)
    low, high = stats.auroc_interval(own, random)
    found |= {"auroc": stats.auroc(np.concatenate([own, random]), on), "low": low, "high": high}
    return found | {"above": float((own > np.quantile(random, 0.95, method="lower")).mean())}


def _quantile(values: Float[np.ndarray, " n"], level: float) -> float:
    """NaN where most have no number; of those that have none, each is below all others."""
    found = float(np.quantile(values, level, method="lower")) if len(values) else float("nan")
    return found if np.isfinite(found) else float("nan")

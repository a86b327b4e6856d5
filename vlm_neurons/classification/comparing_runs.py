"""Two runs over the same neurons side by side: what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_neurons._checks import of_kind
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.concept_table import MIN_IMAGES

if TYPE_CHECKING:
    import pandas as pd

CONCEPTS = ["concept", "phrase", "r", "r_low", "r_high"]


def compare_runs(run_a: Run, run_b: Run, *, min_images: int = MIN_IMAGES) -> pd.DataFrame:
    """Classes and concepts of the same neurons in two runs, such as of two checkpoints, or of a language model before
    and after it learned to see.

    Args:
        run_a: a finished scan, classified (`run.save(vn.classify(run))`), scanned with concepts, or both.
        run_b: another one, of a model with the same neurons.
        min_images: as in `run.concepts`.

    Returns:
        One row a neuron of both, and side (`picture`, `text`) where both have concepts: `neuron`, `site`, `layer`,
        `side`; `label_a`, `label_b`, `same_label` where both are classified; `concept_a`, `phrase_a`, `r_a`, `r_low_a`,
        `r_high_a`, the same of b, `same_concept`, and `apart`: the concept is the same and its intervals have nothing
        in common. Intervals are of each run alone: two runs over the same data differ more surely than they say.

    Raises:
        ValueError: the runs have no neuron in common, or not both classes nor both concepts.

    >>> _ = run.save(vn.classify(run))
    >>> table = vn.compare_runs(run, run)
    >>> len(table), bool(table["same_label"].all())
    (1536, True)
    """
    for name, one in (("run_a", run_a), ("run_b", run_b)):
        of_kind(name, one, Run, "give a finished run, such as vn.Run.load(directory)")
    found = None
    if all((one.path / "neurons.parquet").is_file() for one in (run_a, run_b)):
        found = _beside([one.table()[["neuron", "site", "layer", "label"]] for one in (run_a, run_b)], [])
        found["same_label"] = found["label_a"] == found["label_b"]
    if all("concepts" in one.info for one in (run_a, run_b)):
        columns = ["neuron", "site", "layer", "side", *CONCEPTS]
        own = _beside([one.concepts(min_images)[columns] for one in (run_a, run_b)], ["side"])
        own["same_concept"] = (own["concept_a"] == own["concept_b"]) & (own["concept_a"] != "")
        own["apart"] = own["same_concept"] & ((own["r_high_a"] < own["r_low_b"]) | (own["r_high_b"] < own["r_low_a"]))
        found = own if found is None else found.merge(own, on=["neuron", "site", "layer"], how="outer", sort=False)
    if found is None:
        raise ValueError(
            f"{run_a.path} and {run_b.path} have neither both classes nor both concepts: run.save(vn.classify(run)) "
            "each, or scan both with concepts="
        )
    if found.empty:
        raise ValueError(f"{run_a.path} scanned {run_a.scanned}, {run_b.path} {run_b.scanned}: no neuron is in both")
    return found


def _beside(tables: list[pd.DataFrame], more: list[str]) -> pd.DataFrame:
    a, b = tables
    return a.merge(b, on=["neuron", "site", "layer", *more], suffixes=("_a", "_b"), sort=False)

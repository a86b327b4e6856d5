"""One row of scores: the numbers of one side of a neuron, and why one is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.autointerp import jobs
from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.autointerp.sampling import STRATA_IN_WORDS
from vlm_neurons.autointerp.scorers import measures, permutations
from vlm_neurons.autointerp.scorers.aligned import Piece, pieces_of, unheard
from vlm_neurons.autointerp.simulation import writable
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.autointerp.protocols import Simulator
    from vlm_neurons.autointerp.scorers.other_explanations import Chance, Key
    from vlm_neurons.autointerp.simulation import Simulation
    from vlm_neurons.evidence import Evidence

NAN = float("nan")
FEW = 40  # images, below which an interval is called approximate (python examples/trust.py coverage)
FIRST = ("neuron", "side", "explanation", "simulator", "r", "r_low", "r_high", "r_null", "p", "n_images", "note")
REST = ("explainer", "made_by", "label", "layer", "q", "r_top_random", "r_between", "r_within", "r_sample", "r_empty",
        "p_within", "ceiling", "auroc", "iou", "spearman", "detection", "r_of_other_side", "stability", "n_null",
        "n_exemplars", "n_failed", "approximate")  # fmt: skip
NO_NUMBER = ("neuron", "side", "explanation", "simulator", "n_images", "note", "explainer", "made_by", "label", "layer",
             "n_null", "n_exemplars", "n_failed", "approximate")  # fmt: skip
NUMBERS = tuple(name for name in (*FIRST, *REST) if name not in NO_NUMBER)


def row_of(
    key: Key, explanation: Explanation | str, evidence: Evidence, made: Simulation | None, simulator: Simulator,
    chance: Chance,
) -> dict[str, Any]:  # fmt: skip
    """Everything about one side of a neuron but what needs further simulations."""
    exemplars = evidence.split("test")
    neuron, side = key
    row: dict[str, Any] = {
        "neuron": neuron, "side": side, "explanation": writable(jobs.text_of(neuron, explanation)),
        "explainer": "" if isinstance(explanation, str) else explanation.explainer, "simulator": simulator.name,
        "label": evidence.label, "layer": _layer(neuron), **dict.fromkeys(NUMBERS, NAN), "n_null": 0, "n_images": 0,
        "n_exemplars": len(exemplars), "n_failed": 0, "approximate": True, "note": "",
    }  # fmt: skip
    if made is None:
        failure = explanation.failure if isinstance(explanation, Explanation) else None
        return {**row, "note": f"the explanation failed: {failure.kind}" if failure else "not simulated"}
    pieces = pieces_of(evidence, exemplars, made.predictions, side)
    n_images = len({p.exemplar for p in pieces})
    row |= {"n_images": n_images, "n_failed": made.n_failed, "approximate": n_images < FEW}
    numbers = _numbers(pieces, simulator, chance)
    return {**row, **numbers, "note": _note(made, evidence, pieces, numbers)}


def _numbers(pieces: Sequence[Piece], simulator: Simulator, chance: Chance) -> dict[str, float]:
    low, high = measures.interval(pieces, chance.seed)
    plain = [p for p in pieces if not p.extra]  # what is drawn where the explanation speaks is not exchangeable
    found = {name: measure(plain) for name, measure in measures.SCORERS.items()}
    found |= {
        "r": measures.weighted(pieces),
        "r_low": low, "r_high": high, "p": permutations.p_images(plain, chance.n_permutations, chance.seed),
        "p_within": permutations.p_places(plain, chance.n_permutations, chance.seed),
    }  # fmt: skip
    if pieces:
        found["ceiling"] = measures.ceiling(pieces, simulator.resolution_on(pieces[0].side))
    return found


def _note(made: Simulation, evidence: Evidence, pieces: Sequence[Piece], numbers: Mapping[str, float]) -> str:
    """Why there is no r, or no p."""
    kinds = ", ".join(sorted({p.failure.kind for p in made.predictions if p.failure}))
    if not pieces:
        if kinds:
            return f"every simulation failed: {kinds}"
        return "no place with both an activation and a prediction" if made.samples else "no test exemplars"
    if np.isfinite(numbers["r"]):
        return "" if np.isfinite(numbers["p"]) else "no p: too few images of the same shape"
    if lost := unheard(evidence, evidence.split("test"), pieces, made.side):
        where = " and of ".join(STRATA_IN_WORDS.get(stratum, stratum) for stratum in sorted(lost))
        return (
            f"no r: every simulation of {where} failed{f' ({kinds})' * bool(kinds)}; r of the others would not be of "
            "all the data (r_top_random stands)"
        )
    if np.isfinite(numbers["r_top_random"]) and np.isnan([p.weight for p in pieces]).any():
        return (
            "no r: the evidence does not say how many samples there are, or has none beside the top ones to test on; "
            "gather it again (r_top_random stands)"
        )
    simulated = np.concatenate([p.pair[1] for p in pieces])
    return "constant simulation" if simulated.min() == simulated.max() else "constant activations"


def with_nulls(row: dict[str, Any], against: Mapping[str, float], across: float, n_null: int) -> dict[str, Any]:
    """A row with what other explanations get, and why they get nothing."""
    found = {**row, **against, "r_of_other_side": across}
    lost = found.pop("n_lost", 0)
    if not against or not np.isfinite(row["r"]):
        return found
    said = [row["note"]]
    if lost:
        said.append(f"{lost} null simulations failed (other neurons' explanations, or the empty one)")
    elif not found["n_null"] and n_null:
        place = "" if row["layer"] is None else f" of layer {row['layer']}"
        kind = f" and class {row['label']}" if row["label"] else ""
        said.append(f"no r_null: explain other neurons{place}{kind}, to score it against their words")
    return {**found, "note": "; ".join(one for one in said if one)}


def _layer(neuron: str) -> int | None:
    try:
        return Neuron.parse(neuron).layer
    except ValueError:
        return None

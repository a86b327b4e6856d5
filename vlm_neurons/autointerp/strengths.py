"""Does an explanation hold only where the neuron is strongest?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons._checks import whole
from vlm_neurons.autointerp.jobs import check_evidence
from vlm_neurons.autointerp.protocols import Side
from vlm_neurons.autointerp.sampling import LEAST, drawn
from vlm_neurons.autointerp.scorers.aligned import pieces_of
from vlm_neurons.autointerp.scorers.measures import r_of_many
from vlm_neurons.autointerp.simulation import Simulation

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence

STEPS = 10  # of the 0-10 scale


def by_activation(
    simulations: Mapping[tuple[str, Side], Simulation], evidence: Mapping[str, Evidence], n_test: int | None = None
) -> pd.DataFrame:
    """What an explanation predicts at weak and at strong activations, over the whole data.

    Most activations of a neuron are weak, and the strongest ones carry little of its effect (Oikarinen, Weng 2024,
    arXiv 2405.06855): an explanation that holds at the top alone is one of few places.

    Args:
        simulations: what `simulate` returned.
        evidence: of the same neurons, as `simulate` was given it.
        n_test: as it was given.

    Returns:
        Ten rows a neuron and side, one for each tenth of the 0-10 scale: `neuron, side, low, high` (activations above
        `low` and up to `high`; the first has what is 0 and below too), `n` (places simulated), `share` (of the places
        of the whole data, estimated), `predicted` (mean prediction there, each place counted for what it stands for)
        and `r_up_to` (r over all places up to `high`: what remains where stronger ones are taken away; the last is `r`
        of `score`). NaN where there is no such place, or nothing varies.

    Raises:
        ValueError: evidence that a simulation was not made from.
        KeyError: a simulation without evidence.

    >>> table = vn.autointerp.by_activation(simulations, evidence)
    >>> own = table[table.neuron == "L2N304"]
    >>> len(own), bool(own.predicted.iloc[0] < 1), bool(own.r_up_to.iloc[-1] > 0.5)
    (10, True, True)
    """
    import pandas as pd

    if n_test is not None:
        whole(LEAST, n_test=n_test)
    check_evidence(evidence, dict.fromkeys(neuron for neuron, _ in simulations))
    rows = [row for one in simulations.values() for row in _rows(one, evidence[one.neuron], n_test)]
    return pd.DataFrame(rows, columns=["neuron", "side", "low", "high", "n", "share", "predicted", "r_up_to"])


def _rows(one: Simulation, evidence: Evidence, n_test: int | None) -> list[dict[str, Any]]:
    own = drawn({one.neuron: one.explanation}, {one.neuron: evidence}, n_test)[one.neuron]
    exemplars = own.split("test")
    if tuple(e.seen.sample for e in exemplars) != one.samples:
        raise ValueError(
            f"{one.neuron}: its simulation is of other samples than this evidence gives; pass the evidence and n_test "
            "that vn.simulate was given"
        )
    pieces = pieces_of(own, exemplars, one.predictions, one.side)
    pairs = [p.pair for p in pieces]
    real, simulated = (np.concatenate([np.zeros(0), *part]) for part in zip(*pairs, strict=True)) if pairs else (
        np.zeros(0), np.zeros(0))  # fmt: skip
    weights = np.repeat([p.weight for p in pieces], [len(x) for x, _ in pairs])
    found = []
    for step in range(STEPS):
        low, high = 10 * step / STEPS, 10 * (step + 1) / STEPS
        here = (real <= high) & ((real > low) | (step == 0))
        found.append({"neuron": one.neuron, "side": one.side, "low": low, "high": high, "n": int(here.sum()),
                      **_numbers(real, simulated, weights, here, real <= high)})  # fmt: skip
    return found


def _numbers(
    real: Float[np.ndarray, " n"], simulated: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"],
    here: np.ndarray, up_to: np.ndarray,
) -> dict[str, float]:  # fmt: skip
    nan, total = float("nan"), float(weights.sum())
    own = weights[here]
    return {
        "share": float(own.sum()) / total if total > 0 else nan,
        "predicted": float(own @ simulated[here] / own.sum()) if own.sum() > 0 else nan,
        "r_up_to": float(r_of_many(real[up_to], weights[up_to], simulated[None, up_to])[0]) if up_to.any() else nan,
    }

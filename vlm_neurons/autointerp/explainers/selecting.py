"""Which of several explanations predicts best, on exemplars that are there for this choice only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vlm_neurons.autointerp.simulators import Simulator
    from vlm_neurons.evidence import Evidence


def fit(explanation: str, evidence: Evidence, simulator: Simulator) -> float:
    """r over all places of the split `"select"` that count.

    Exemplars whose simulation failed are left out. NaN where nothing varies or everything failed.
    """
    from vlm_neurons.autointerp.scorers.measures import pooled
    from vlm_neurons.autointerp.scorers.pieces import pieces_of

    exemplars = evidence.split("select")
    guesses = simulator.simulate(explanation, exemplars)
    return pooled(pieces_of(evidence, exemplars, guesses, ("visual", "text")))


def best_of(candidates: Sequence[Any], evidence: Evidence, simulator: Simulator) -> tuple[int, list[float]]:
    """Place of the candidate (anything with `.text`) that fits best, and all fits; the first of equals, NaN last."""
    fits = [fit(c.text, evidence, simulator) for c in candidates]
    return max(range(len(fits)), key=lambda i: (-np.inf if np.isnan(fits[i]) else fits[i], -i)), fits

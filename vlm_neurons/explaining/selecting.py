"""Which of several explanations predicts best, on exemplars that are there for this choice only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar

Prediction = tuple[tuple[np.ndarray, ...], np.ndarray]  # maps [rows, columns] of each image; values [token]; 0-10


class Simulator(Protocol):
    """Predicts activations from an explanation."""

    def simulate(self, explanation: str, exemplars: Sequence[Exemplar]) -> Sequence[Prediction | None]:
        """A prediction for each exemplar; None where it failed."""
        ...


def fit(explanation: str, evidence: Evidence, simulator: Simulator) -> float:
    """Correlation of predicted and real activations over all places of the split `"select"` that count.

    Exemplars whose simulation failed are left out. NaN where nothing varies or everything failed.
    """
    exemplars = evidence.split("select")
    real: list[np.ndarray] = []
    simulated: list[np.ndarray] = []
    for e, prediction in zip(exemplars, simulator.simulate(explanation, exemplars), strict=True):
        if prediction is None:
            continue
        maps, tokens = prediction
        for patches, guess, counts in zip(e.patches, maps, e.scored_patches(), strict=False):
            real.append(evidence.scale(patches)[counts])
            simulated.append(np.asarray(guess)[counts])
        counts = e.scored_tokens()
        if len(tokens) == len(counts):
            real.append(evidence.scale(e.values)[counts])
            simulated.append(np.asarray(tokens)[counts])
    a, b = (np.concatenate(v) if v else np.zeros(0) for v in (real, simulated))
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def best_of(candidates: Sequence[Any], evidence: Evidence, simulator: Simulator) -> tuple[int, list[float]]:
    """Place of the candidate (anything with `.text`) that fits best, and all fits; the first of equals, NaN last."""
    fits = [fit(c.text, evidence, simulator) for c in candidates]
    return max(range(len(fits)), key=lambda i: (-np.inf if np.isnan(fits[i]) else fits[i], -i)), fits

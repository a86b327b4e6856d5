"""Automated interpretability: explanations of neurons, simulated activations, and scores that compare the two."""

from vlm_neurons.autointerp.comparing import compare, detect, score_statistics
from vlm_neurons.autointerp.explaining import explain, summary
from vlm_neurons.autointerp.explanation import NO_PATTERN, Explainer, Explanation, Failure, Log
from vlm_neurons.autointerp.scoring import load_scores, score
from vlm_neurons.autointerp.simulating import simulate
from vlm_neurons.autointerp.simulations import Simulation

__all__ = [
    "NO_PATTERN",
    "Explainer",
    "Explanation",
    "Failure",
    "Log",
    "Simulation",
    "compare",
    "detect",
    "explain",
    "load_scores",
    "score",
    "score_statistics",
    "simulate",
    "summary",
]

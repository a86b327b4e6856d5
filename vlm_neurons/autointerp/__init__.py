"""Automated interpretability: explanations of neurons, simulated activations, and scores that compare the two."""

from vlm_neurons.autointerp.comparing import compare, detect, score_statistics
from vlm_neurons.autointerp.explainers.joined import joined
from vlm_neurons.autointerp.explainers.steering import SteeringExplainer
from vlm_neurons.autointerp.explainers.vocabulary import VocabularyExplainer
from vlm_neurons.autointerp.explaining import explain, summary
from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation, Failure
from vlm_neurons.autointerp.mass import causes
from vlm_neurons.autointerp.protocols import Explainer, Judge, Simulator
from vlm_neurons.autointerp.scoring import score
from vlm_neurons.autointerp.simulating import simulate
from vlm_neurons.autointerp.simulation import Simulation
from vlm_neurons.autointerp.stable import stability
from vlm_neurons.autointerp.store import load_simulations, read_explanations
from vlm_neurons.autointerp.strengths import by_activation

__all__ = [
    "NO_PATTERN",
    "Explainer",
    "Explanation",
    "Failure",
    "Judge",
    "Simulation",
    "Simulator",
    "SteeringExplainer",
    "VocabularyExplainer",
    "by_activation",
    "causes",
    "compare",
    "detect",
    "explain",
    "joined",
    "load_simulations",
    "read_explanations",
    "score",
    "score_statistics",
    "simulate",
    "stability",
    "summary",
]

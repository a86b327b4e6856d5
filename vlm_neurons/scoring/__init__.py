"""Scores: how well simulated activations agree with the real ones."""

from vlm_neurons.scoring.comparing import compare, detect, score_statistics
from vlm_neurons.scoring.scoring import load_scores, score

__all__ = ["compare", "detect", "load_scores", "score", "score_statistics"]

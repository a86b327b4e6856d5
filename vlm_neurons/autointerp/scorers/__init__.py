"""Scorers: how well simulated activations agree with the real ones."""

from vlm_neurons.autointerp.scorers.aligned import Piece, pieces_of
from vlm_neurons.autointerp.scorers.measures import SCORERS

__all__ = ["SCORERS", "Piece", "pieces_of"]

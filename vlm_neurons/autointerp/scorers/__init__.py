"""Scorers: how well simulated activations agree with the real ones."""

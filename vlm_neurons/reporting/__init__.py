"""A page about a run."""

from vlm_neurons.reporting.reporting import report

__all__ = ["report"]

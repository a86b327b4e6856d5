"""A page about a run."""

from vlm_neurons.reporting.run_report import report

__all__ = ["report"]

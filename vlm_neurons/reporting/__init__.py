"""A page about a run, and files for other viewers."""

from vlm_neurons.reporting.neuronpedia import export
from vlm_neurons.reporting.run_report import report

__all__ = ["export", "report"]

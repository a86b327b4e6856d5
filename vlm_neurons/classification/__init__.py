"""From a run to a class of every neuron, and what the classes rest on."""

from vlm_neurons.classification.labelling import classify
from vlm_neurons.classification.layers import statistics
from vlm_neurons.classification.robustness import confusion, sensitivity, sweep

__all__ = ["classify", "confusion", "sensitivity", "statistics", "sweep"]

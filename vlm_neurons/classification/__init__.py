"""From a run to a class of every neuron, and what the classes rest on."""

from vlm_neurons.classification.comparing_runs import compare_runs
from vlm_neurons.classification.labelling import classify
from vlm_neurons.classification.modality import modality_test
from vlm_neurons.classification.robustness import confusion, sensitivity, sweep
from vlm_neurons.classification.standing_out import top_neurons
from vlm_neurons.classification.tables import clearest, statistics
from vlm_neurons.classification.thresholds import Thresholds

__all__ = [
    "Thresholds",
    "classify",
    "clearest",
    "compare_runs",
    "confusion",
    "modality_test",
    "sensitivity",
    "statistics",
    "sweep",
    "top_neurons",
]

"""One pass over the data: the samples on which every neuron is strongest."""

from vlm_neurons.scanning.engine import scan
from vlm_neurons.scanning.merging import merge
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.state import TopSamples

__all__ = ["Run", "TopSamples", "merge", "scan"]

"""One pass over the data: the samples on which every neuron is strongest."""

from vlm_neurons.scan.engine import scan
from vlm_neurons.scan.run import Run
from vlm_neurons.scan.state import TopSamples

__all__ = ["Run", "TopSamples", "scan"]

"""One pass over the data: the samples on which every neuron is strongest."""

from vlm_neurons.scanning.dictionary_fits import dictionary_fit, poorly_explained
from vlm_neurons.scanning.engine import scan
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.state import TopSamples
from vlm_neurons.scanning.writing import merge

__all__ = ["Run", "TopSamples", "dictionary_fit", "merge", "poorly_explained", "scan"]

"""Banks of concepts with masks: what regions of a picture, and what words, have in common."""

from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.lexical import lexical_bank
from vlm_neurons.concepts.visual import pixel_bank, visual_bank

__all__ = ["Concept", "lexical_bank", "phrase", "pixel_bank", "visual_bank"]

"""Banks of concepts: what regions of a picture, and what words, have in common."""

from vlm_neurons.concepts.banks import GENERIC, Pixels, Truth, Words
from vlm_neurons.concepts.clip import Clip, visual_words
from vlm_neurons.concepts.coco import CocoMasks
from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.kept import Kept
from vlm_neurons.concepts.labels import Masks
from vlm_neurons.concepts.lexical import lexical_bank
from vlm_neurons.concepts.visual import pixel_bank, visual_bank

__all__ = [
    "GENERIC",
    "Clip",
    "CocoMasks",
    "Concept",
    "Kept",
    "Masks",
    "Pixels",
    "Truth",
    "Words",
    "lexical_bank",
    "phrase",
    "pixel_bank",
    "visual_bank",
    "visual_words",
]

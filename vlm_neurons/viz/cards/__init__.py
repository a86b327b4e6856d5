"""Cards of single neurons and charts of many, for notebooks and pages; and the form that circuitsvis takes."""

from vlm_neurons.viz.cards.card import anchor_of, card_html
from vlm_neurons.viz.cards.fragment import Fragment, allowed, document, scripts, styles
from vlm_neurons.viz.cards.notebook import (
    NeuronCard,
    View,
    compare_neurons,
    show_distribution,
    show_layers,
    show_neuron,
    show_scores,
)
from vlm_neurons.viz.cards.tokens import to_circuitsvis

__all__ = [
    "Fragment",
    "NeuronCard",
    "View",
    "allowed",
    "anchor_of",
    "card_html",
    "compare_neurons",
    "document",
    "scripts",
    "show_distribution",
    "show_layers",
    "show_neuron",
    "show_scores",
    "styles",
    "to_circuitsvis",
]

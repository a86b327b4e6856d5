"""Pages and figures that show what was found. They render; numbers are computed elsewhere."""

from __future__ import annotations

from vlm_neurons.viz.cards import (
    NeuronCard,
    View,
    compare_neurons,
    show_distribution,
    show_layers,
    show_neuron,
    show_scores,
    to_circuitsvis,
)
from vlm_neurons.viz.closeup import close_ups
from vlm_neurons.viz.layers import layers_svg
from vlm_neurons.viz.terminal import layer_tables

__all__ = [
    "NeuronCard",
    "View",
    "close_ups",
    "compare_neurons",
    "layer_tables",
    "layers_svg",
    "show_distribution",
    "show_layers",
    "show_neuron",
    "show_scores",
    "to_circuitsvis",
]

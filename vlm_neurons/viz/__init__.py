"""Pages and figures that show what was found. They render; numbers are computed elsewhere."""

from __future__ import annotations

from vlm_neurons.viz.class_counts import layer_tables
from vlm_neurons.viz.figure_views import (
    show_concepts,
    show_distribution,
    show_heads,
    show_layers,
    show_scores,
    show_top_neurons,
)
from vlm_neurons.viz.token_strips import to_circuitsvis
from vlm_neurons.viz.views import NeuronCard, View, compare_neurons, show_neuron

__all__ = [
    "NeuronCard",
    "View",
    "compare_neurons",
    "layer_tables",
    "show_concepts",
    "show_distribution",
    "show_heads",
    "show_layers",
    "show_neuron",
    "show_scores",
    "show_top_neurons",
    "to_circuitsvis",
]

"""Neurons with a known rule, to judge explainers, simulators and scores before neurons are.

As evidence (`neurons`), and as weights edited into a model (`plant`).
"""

from vlm_neurons.planted.making import Planted, neurons, oracle
from vlm_neurons.planted.readings import read
from vlm_neurons.planted.rules import KINDS, Rule, draw_rule
from vlm_neurons.planted.weights import READS, Plant, plant

__all__ = ["KINDS", "READS", "Plant", "Planted", "Rule", "draw_rule", "neurons", "oracle", "plant", "read"]

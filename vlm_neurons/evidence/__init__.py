"""What a neuron did, in the one form that explainers, simulators, scores and views read."""

from vlm_neurons.evidence.attention import attention_evidence, heads_by_class, where_heads_look
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import SPLITS, Exemplar, Seen
from vlm_neurons.evidence.gathering import gather_evidence
from vlm_neurons.evidence.stored import load
from vlm_neurons.evidence.storing import save

__all__ = [
    "SPLITS",
    "Evidence",
    "Exemplar",
    "Seen",
    "attention_evidence",
    "gather_evidence",
    "heads_by_class",
    "load",
    "save",
    "where_heads_look",
]

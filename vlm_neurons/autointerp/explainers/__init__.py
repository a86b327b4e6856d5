"""Explainers: from evidence to words."""

from vlm_neurons.autointerp.explainers.chat import LocalExplainer, OpenAIExplainer, Prompting
from vlm_neurons.autointerp.explainers.dissection import DissectionExplainer
from vlm_neurons.autointerp.explainers.joined import JoinedExplainer
from vlm_neurons.autointerp.explainers.steering import SteeringExplainer
from vlm_neurons.autointerp.explainers.vocabulary import VocabularyExplainer
from vlm_neurons.autointerp.protocols import Explainer

__all__ = [
    "DissectionExplainer",
    "Explainer",
    "JoinedExplainer",
    "LocalExplainer",
    "OpenAIExplainer",
    "Prompting",
    "SteeringExplainer",
    "VocabularyExplainer",
]

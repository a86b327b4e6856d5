"""Explainers: from evidence to words."""

from vlm_neurons.autointerp.explainers.chat import LocalExplainer, OpenAIExplainer, Prompting
from vlm_neurons.autointerp.explainers.dissection import DissectionExplainer

__all__ = ["DissectionExplainer", "LocalExplainer", "OpenAIExplainer", "Prompting"]

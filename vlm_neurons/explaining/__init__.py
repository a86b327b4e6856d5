"""Explanations of neurons."""

from vlm_neurons.explaining.chat import LocalExplainer, OpenAIExplainer, Prompting
from vlm_neurons.explaining.dissection import DissectionExplainer
from vlm_neurons.explaining.explaining import explain, summary
from vlm_neurons.explaining.explanation import NO_PATTERN, Explainer, Explanation, Failure, Log

__all__ = ["NO_PATTERN", "DissectionExplainer", "Explainer", "Explanation", "Failure", "LocalExplainer", "Log",
           "OpenAIExplainer", "Prompting", "explain", "summary"]  # fmt: skip

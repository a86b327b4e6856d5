"""Explanations of neurons."""

from vlm_neurons.explaining.dissection import DissectionExplainer
from vlm_neurons.explaining.explanation import NO_PATTERN, Explainer, Explanation, Failure, Log

__all__ = ["NO_PATTERN", "DissectionExplainer", "Explainer", "Explanation", "Failure", "Log"]

"""Simulators: what an explanation predicts, patch by patch and token by token."""

from vlm_neurons.autointerp.simulators.baselines import BASELINES, Oracle
from vlm_neurons.autointerp.simulators.clip import ClipSimulator
from vlm_neurons.autointerp.simulators.combined import BothSides
from vlm_neurons.autointerp.simulators.concepts import ConceptSimulator
from vlm_neurons.autointerp.simulators.judging import ApiJudge
from vlm_neurons.autointerp.simulators.prompted import ApiSimulator, LocalSimulator
from vlm_neurons.autointerp.simulators.protocol import SIDES, Job, Prediction, Resolution, Side, Simulates, Simulator
from vlm_neurons.autointerp.simulators.segmentation import GroundedSimulator

__all__ = [
    "BASELINES",
    "SIDES",
    "ApiJudge",
    "ApiSimulator",
    "BothSides",
    "ClipSimulator",
    "ConceptSimulator",
    "GroundedSimulator",
    "Job",
    "LocalSimulator",
    "Oracle",
    "Prediction",
    "Resolution",
    "Side",
    "Simulates",
    "Simulator",
]

"""Simulators: what an explanation predicts, patch by patch and token by token."""

from vlm_neurons.autointerp.protocols import SIDES, Job, Judge, Prediction, Resolution, Side, Simulator
from vlm_neurons.autointerp.simulators.baselines import BASELINES, Oracle
from vlm_neurons.autointerp.simulators.chat import ApiSimulator, LocalSimulator
from vlm_neurons.autointerp.simulators.clip import ClipSimulator
from vlm_neurons.autointerp.simulators.concepts import ConceptSimulator
from vlm_neurons.autointerp.simulators.grounded import GroundedSimulator
from vlm_neurons.autointerp.simulators.judge import ApiJudge
from vlm_neurons.autointerp.simulators.two_simulators import BothSides

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
    "Judge",
    "LocalSimulator",
    "Oracle",
    "Prediction",
    "Resolution",
    "Side",
    "Simulator",
]

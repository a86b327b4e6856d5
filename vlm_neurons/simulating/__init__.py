"""Simulators: what an explanation predicts, patch by patch and token by token."""

from vlm_neurons.simulating.baselines import BASELINES, Oracle
from vlm_neurons.simulating.clip import ClipSimulator
from vlm_neurons.simulating.combined import BothSides
from vlm_neurons.simulating.concepts import ConceptSimulator
from vlm_neurons.simulating.judging import ApiJudge
from vlm_neurons.simulating.prompted import ApiSimulator, LocalSimulator
from vlm_neurons.simulating.protocol import SIDES, Job, Prediction, Resolution, Side, Simulates, Simulator
from vlm_neurons.simulating.record import Simulation, load, save
from vlm_neurons.simulating.segmentation import GroundedSimulator
from vlm_neurons.simulating.simulating import simulate

__all__ = ["BASELINES", "SIDES", "ApiJudge", "ApiSimulator", "BothSides", "ClipSimulator", "ConceptSimulator",
           "GroundedSimulator", "Job", "LocalSimulator", "Oracle", "Prediction", "Resolution", "Side", "Simulates",
           "Simulation", "Simulator", "load", "save", "simulate"]  # fmt: skip

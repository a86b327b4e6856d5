"""Simulators: what an explanation predicts, patch by patch and token by token."""

from vlm_neurons.simulating.protocol import SIDES, Job, Prediction, Resolution, Side, Simulates, Simulator
from vlm_neurons.simulating.record import Simulation, load, save

__all__ = ["SIDES", "Job", "Prediction", "Resolution", "Side", "Simulates", "Simulation", "Simulator", "load", "save"]

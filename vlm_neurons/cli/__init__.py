"""The command line."""

from vlm_neurons.cli.main import main

__all__ = ["main"]

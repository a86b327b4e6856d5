"""A procedural world with exact ground truth per patch and per word."""

from vlm_neurons.synthetic.dataset import Scenes, Word, scenes

__all__ = ["Scenes", "Word", "scenes"]

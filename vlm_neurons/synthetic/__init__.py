"""A procedural world with exact ground truth per patch and per word."""

from vlm_neurons.synthetic.dataset import Scenes, Word, open_data, scenes

__all__ = ["Scenes", "Word", "open_data", "scenes"]

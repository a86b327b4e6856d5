"""What counts as a unit: neurons of MLPs, latents of dictionaries, directions, coordinates of any hook, your own."""

from vlm_neurons.sites.dictionary import SAE, Transcoder
from vlm_neurons.sites.directions import Directions
from vlm_neurons.sites.heads import AttentionHeads
from vlm_neurons.sites.mlp import MLP, AnyHook
from vlm_neurons.sites.protocol import Address, Site
from vlm_neurons.sites.registry import at, forget, named, names, parse, register, site_of_hook

__all__ = [
    "MLP", "SAE", "Address", "AnyHook", "AttentionHeads", "Directions", "Site", "Transcoder", "at", "forget", "named",
    "names", "parse", "register", "site_of_hook",
]  # fmt: skip

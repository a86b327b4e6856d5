"""What counts as a unit: neurons of MLPs (four sites), directions, coordinates of any hook, and kinds of your own."""

from vlm_neurons.sites.directions import Directions
from vlm_neurons.sites.mlp import MLP, AnyHook
from vlm_neurons.sites.protocol import Address, Site
from vlm_neurons.sites.registry import at, forget, named, names, parse, register, site_of_hook

__all__ = [
    "MLP", "Address", "AnyHook", "Directions", "Site", "at", "forget", "named", "names", "parse", "register",
    "site_of_hook",
]  # fmt: skip

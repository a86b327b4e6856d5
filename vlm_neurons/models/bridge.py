"""A TransformerBridge with the hook points that TransformerLens lacks, and the names that are the same in every family.

`blocks.{i}.mlp.hook_act` is SiLU(gate_proj(x)), the neuron of Xu, Lan, Lu 2025; `vision_projector.hook_pre` and
`hook_post` are the hidden neurons of the projector before and after its activation function.
Composition, not a subclass: the adapter of TransformerLens builds the bridge, `extend` adds to it in place, and the
same function serves a bridge that the user built.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch import nn

from vlm_neurons.models.adapters import Adapter, along, module_at
from vlm_neurons.sites import named

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# What TransformerLens calls the modules that hold a site's neurons, or would.
_NAMES = {
    "gate": "blocks.{i}.mlp.act",
    "post": "blocks.{i}.mlp.out",
    "projector": "vision_projector.out",
    "vision": "vision.{i}.mlp.out",
}


def wrap(model: nn.Module, tokenizer: Any, architecture: str, name: str) -> TransformerBridge:
    """Build the bridge around a Hugging Face model, which is changed in place: submodules are replaced, attention
    becomes eager. Loads nothing and installs nothing."""
    # The one private path that we use: boot_transformers() runs `pip install torchvision` where it is missing.
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    if any(type(m).__module__.startswith("transformer_lens.") for m in model.modules()):
        raise ValueError(
            "this model is inside a TransformerBridge already: pass the bridge, HookedVLM(bridge, processor)"
        )
    # A copy, because TransformerLens sets padding and special tokens on it. The two keys keep it from reloading the
    # tokenizer by name (add_bos_token is only read as "do not reload"; what it does is measured afterwards).
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs.update(name_or_path=name, add_bos_token=True)
    bridge = build_bridge_from_module(model, architecture, hf_config=model.config, tokenizer=tokenizer, model_name=name)
    return bridge


def extend(bridge: TransformerBridge, adapter: Adapter) -> None:
    """Add the hook points to a bridge over a supported model, in place. Doing it twice does no harm."""
    for site, (_, path, is_output) in adapter.sites.items():
        for i, place in along(bridge.original_model, path):
            component = _attach(bridge, _NAMES[site].format(i=i), place)
            _name(bridge, named(site).place(i), component.hook_out if is_output else component.hook_in)
    if adapter.projector is not None:
        _name(bridge, "vision_projector.hook_post", bridge._hook_registry[named("projector").place(0)])
        into = _attach(bridge, "vision_projector.in", adapter.projector.into)
        _name(bridge, "vision_projector.hook_pre", into.hook_out)
    driver = bridge._driver
    driver.supported_hook_points = frozenset(bridge._hook_registry) - driver.non_fireable_hook_points
    bridge.train(bridge.original_model.training)


def _name(bridge: TransformerBridge, hook: str, point: Any) -> None:
    """Let a hook point be found under a name, and as an attribute where the bridge has such a module."""
    bridge._hook_registry[hook] = point
    parent, _, leaf = hook.rpartition(".")
    with suppress(LookupError):
        object.__setattr__(module_at(bridge, parent), leaf, point)  # not a submodule: it has its place already


def _attach(bridge: TransformerBridge, name: str, path: str) -> Any:
    """The bridge component at a path of the Hugging Face model; put there, with hook points of this name, if
    TransformerLens has none."""
    from transformer_lens.model_bridge.generalized_components import LinearBridge
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    parent, _, leaf = path.rpartition(".")
    owner = module_at(bridge.original_model, parent)
    owner = getattr(owner, "original_component", None) or owner  # what the forward pass reads
    found = getattr(owner, leaf)
    if isinstance(found, GeneralizedComponent):
        return found
    component = (LinearBridge if isinstance(found, nn.Linear) else GeneralizedComponent)(name=leaf)
    component.set_original_component(found)
    setattr(owner, leaf, component)
    for hook, point in component.get_hooks().items():
        point.name = f"{name}.{hook}"
        bridge._hook_registry[point.name] = point
    return component

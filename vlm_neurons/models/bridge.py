"""A TransformerBridge with the two hook points that TransformerLens lacks.

`blocks.{i}.mlp.hook_act` is SiLU(gate_proj(x)), the neuron of Xu, Lan, Lu 2025; `vision_projector.hook_pre` and
`hook_post` are the hidden neurons of the projector before and after its activation function.
Composition, not a subclass: the adapter of TransformerLens builds the bridge, `extend` adds to it in place, and the
same function serves a bridge that the user built.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ACT_HOOK = "hook_act"


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


def extend(bridge: TransformerBridge) -> None:
    """Add the hook points to a bridge over a supported model, in place. Doing it twice does no harm."""
    from transformer_lens.model_bridge.generalized_components import LinearBridge
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    for i, block in enumerate(bridge.blocks):
        _insert(bridge, f"blocks.{i}.mlp", block.mlp, {"act": GeneralizedComponent(name="act_fn")})
        _alias(bridge, f"blocks.{i}.mlp", block.mlp, {ACT_HOOK: "act.hook_out"})
    projector = bridge.vision_projector
    linears = {"in": LinearBridge(name="linear_1"), "out": LinearBridge(name="linear_2")}
    _insert(bridge, "vision_projector", projector, linears)
    _alias(bridge, "vision_projector", projector, {"hook_pre": "in.hook_out", "hook_post": "out.hook_in"})
    # TransformerLens reads the aliases of block components from this template, too.
    template = bridge.adapter.components["blocks"].submodules["mlp"]
    template.hook_aliases = {**template.hook_aliases, ACT_HOOK: "act.hook_out"}
    driver = bridge._driver
    driver.supported_hook_points = frozenset(bridge._hook_registry) - driver.non_fireable_hook_points
    bridge.train(bridge.original_model.training)


def _insert(bridge: TransformerBridge, path: str, parent: Any, components: dict[str, Any]) -> None:
    """Put bridge components in the place of submodules of what `parent` wraps, as TransformerLens' set-up does."""
    owner = parent.original_component
    for key, component in components.items():
        if key in parent._modules:
            continue
        component.set_original_component(getattr(owner, component.name))
        setattr(owner, component.name, component)
        parent.submodules = {**parent.submodules, key: component}
        parent.add_module(key, component)
        parent.real_components[key] = (component.name, component)
        for name, point in component.get_hooks().items():
            point.name = f"{path}.{key}.{name}"
            bridge._hook_registry[point.name] = point


def _alias(bridge: TransformerBridge, path: str, component: Any, aliases: dict[str, str]) -> None:
    component.hook_aliases = {**component.hook_aliases, **aliases}
    component._register_aliases()
    for alias, target in aliases.items():
        bridge._hook_registry[f"{path}.{alias}"] = bridge._hook_registry[f"{path}.{target}"]

"""A TransformerBridge with the hook points that TransformerLens lacks, and the names that are the same in every family.

`blocks.{i}.mlp.hook_act` is SiLU(gate_proj(x)), the neuron of Xu, Lan, Lu 2025; `vision_projector.hook_pre` and
`hook_post` are the hidden neurons of the projector before and after its activation function.
Composition, not a subclass: the adapter of TransformerLens builds the bridge, `extend` adds to it in place, and the
same function serves a bridge that the user built.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from vlm_neurons.models import guards
from vlm_neurons.models.adapters import Adapter, along, module_at
from vlm_neurons.models.declared import declared
from vlm_neurons.models.experts import open_experts
from vlm_neurons.models.heads import open_heads
from vlm_neurons.models.held import check_readable, rotary_frequencies
from vlm_neurons.sites import named

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# What TransformerLens calls the modules that hold a site's neurons, or would.
_NAMES = {
    "gate": "blocks.{i}.mlp.act",
    "post": "blocks.{i}.mlp.out",
    "projector": "vision_projector.{i}.out",
    "vision": "vision.{i}.mlp.out",
}


def wrap(model: nn.Module, tokenizer: Any, adapter: Adapter, name: str) -> TransformerBridge:
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
    return build_bridge_from_module(
        model, declared(adapter), hf_config=model.config, tokenizer=tokenizer, model_name=name
    )


def extend(bridge: TransformerBridge, adapter: Adapter) -> None:
    """Add the hook points to a bridge over a supported model, in place. Doing it twice does no harm.

    Raises:
        ValueError: the bridge computes MLPs by itself, so that their neurons could not be hooked.
    """
    if any(type(m).__name__ == "JointGateUpMLPBridge" for m in bridge.modules()):
        raise ValueError(
            f"TransformerLens' own bridge over {adapter.architecture} computes the gates of its MLPs by itself: their "
            "neurons have no hook there. Load the model anew and pass it itself, HookedVLM(hf_model, processor)"
        )
    for site, (_, path, is_output) in adapter.sites.items():
        for i, place in along(bridge.original_model, path):
            component = _attach(bridge, _NAMES[site].format(i=i).replace("projector.0.", "projector."), place)
            _name(bridge, named(site).place(i), component.hook_out if is_output else component.hook_in)
    if adapter.projector is not None:
        _name(bridge, "vision_projector.hook_post", bridge._hook_registry[named("projector").place(0)])
        _, first = next(along(bridge.original_model, adapter.projector.into))
        into = _attach(bridge, "vision_projector.in", first)
        _name(bridge, "vision_projector.hook_pre", into.hook_out)
    for hook, point in (
        open_experts(bridge.original_model, adapter) | open_heads(bridge.original_model, adapter)
    ).items():
        bridge._hook_registry[hook] = point
    _hand_on_cache(bridge)
    driver = bridge._driver
    driver.supported_hook_points = frozenset(bridge._hook_registry) - driver.non_fireable_hook_points
    bridge.train(bridge.original_model.training)


def _hand_on_cache(bridge: TransformerBridge) -> None:
    """Let attention find the keys and values of earlier tokens.

    transformers 5.24 calls them `cache` inside the model. The attention of TransformerLens 4.3 looks for
    `past_key_values` or `layer_past`, and without them attends to the newest token alone, in silence.
    """
    for module in bridge.original_model.modules():
        if hasattr(module, "_update_kv_cache") and not any(
            hook is _also_as_layer_past for hook in module._forward_pre_hooks.values()
        ):
            module.register_forward_pre_hook(_also_as_layer_past, with_kwargs=True)


def _also_as_layer_past(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "layer_past": kwargs["cache"]} if kwargs.get("cache") is not None else kwargs


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


# What a bridge offers that would run without the images, count image positions as text, or change the neurons; and what
# to use instead.
REFUSED = {
    "forward": "model(batch)",
    "generate_stream": "model.generate(images, prompts)",
    "hf_generate": "model.generate(images, prompts)",
    "diffusion_generate": "model.generate(images, prompts)",
    "input_to_embed": "model.run_with_cache(batch, names_filter='hook_embed')",
    "encoder_output": "model.run_with_cache(batch, names_filter=...), hooks of model.hook_map()",
    "predict_next_sentence": "model(batch)",
    "loss_fn": "the logits of model(batch) at batch.mask('text')",
    "enable_compatibility_mode": "the model as it is, or other neurons would be read: norms would be folded in",
    "process_weights": "the model as it is, or other neurons would be read: norms would be folded in",
    "original_model": "model.bridge.original_model, with pixel_values and attention_mask given to it",
}


def handed_on(bridge: TransformerBridge, adapter: Adapter, name: str) -> Any:
    """An attribute of the bridge, for `HookedVLM.__getattr__`.

    Raises:
        AttributeError: there is none, or it is in `REFUSED`; the message says what to use instead.
        ValueError: it is a matrix of weights, and weights are quantised or have adapters beside them, or those of MLPs
            are not of one shape.
    """
    if name in REFUSED:
        raise AttributeError(
            f"model.{name} is not handed on from the TransformerBridge, since it knows nothing of the batch's images: "
            f"use {REFUSED[name]}. The bridge's own is model.bridge.{name}"
        )
    if name.startswith("W_"):
        check_readable(bridge.original_model)
    try:
        return getattr(bridge, name)
    except (AttributeError, RuntimeError) as error:
        if name not in _OF_MLPS or "has no such parameter" in str(error):  # a bias, which no layer has
            raise
        kind = AttributeError if isinstance(error, AttributeError) else ValueError
        raise kind(_not_stacked(bridge, adapter, name)) from error


_OF_MLPS = {"W_gate": "into", "W_in": "up", "W_out": "out", "b_in": "up", "b_out": "out"}


def _not_stacked(bridge: TransformerBridge, adapter: Adapter, name: str) -> str:
    """Why TransformerLens has no one tensor for the MLPs' weights, and where they are."""
    path = getattr(adapter.backbone, _OF_MLPS[name])
    kind = "weight" if name.startswith("W_") else "bias"
    layers = [module_at(bridge.original_model, one) for _, one in along(bridge.original_model, path)]
    shapes = dict.fromkeys(str(list(weight.shape)) for m in layers if (weight := getattr(m, kind)) is not None)
    why = f"layers have other shapes ({', '.join(shapes)})" if len(shapes) > 1 else "not every layer has such a matrix"
    if adapter.backbone.up == adapter.backbone.into:
        why = "TransformerLens knows no such matrices in these MLPs"
    own = path.replace(".{i}", "[i]").replace("?", "")
    found = f"model.{name} is one tensor of all layers, and {why}: take model.bridge.original_model.{own}.{kind}"
    if adapter.experts:
        experts = adapter.experts.replace(".{i}", "[i]").replace("?", "")
        found += f"; experts have {experts}.gate_up_proj and down_proj, layer by layer"
    return found


class OverBridge:
    """The attributes of a TransformerBridge, without what would run without the images."""

    bridge: TransformerBridge
    adapter: Adapter
    first_dead_layer: int
    _hook_points: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if name in ("bridge", "adapter"):  # not set yet: copying or unpickling
            raise AttributeError(name)
        return handed_on(self.bridge, self.adapter, name)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model, or change its data type, as `TransformerBridge.to`; in place. Frequencies of rotary positions
        stay as exact as they are, as in `from_pretrained(dtype=...)`.

        >>> model.to("cpu") is model
        True
        """
        before = rotary_frequencies(self.bridge.original_model)  # the bridge has not all of its modules
        self.bridge.to(*args, **{"print_details": False, **kwargs})
        for module, name, exact in before:
            module._buffers[name] = exact.to(module._buffers[name].device)  # type: ignore[union-attr]
        return self

    def bfloat16(self) -> Self:
        """As `to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)

    def half(self) -> Self:
        """As `to(torch.float16)`."""
        return self.to(torch.float16)

    def train(self, mode: bool = True) -> Self:
        """Training mode, as `torch.nn.Module.train`; in place."""
        self.bridge.train(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode, as `torch.nn.Module.eval`; in place."""
        return self.train(False)

    @property
    def n_layers(self) -> int:
        """Layers of the backbone."""
        return len(self.bridge.blocks)

    @property
    def device(self) -> torch.device:
        """Where the token embeddings are: batches go there."""
        return self.bridge.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the backbone."""
        return self.bridge.embed.weight.dtype

    def _watch(self, fwd_hooks: Sequence[guards.Hook]) -> guards.Watch:
        return guards.Watch(list(fwd_hooks), self._points(), self.first_dead_layer)

    def _points(self) -> dict[str, Any]:
        if self._hook_points is None:
            self._hook_points = dict(self.bridge.hook_dict)
        return self._hook_points

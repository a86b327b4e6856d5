"""A second module tree over the same weights, for scans: transformers' own forward pass with fused attention.

The bridge computes attention step by step, so that every step can be hooked. A scan looks at MLPs and at the residual
stream, and need not pay for that. The twin shares every parameter and buffer (it takes no memory), was made before
TransformerLens changed the model, and plain forward hooks on its modules see the same numbers. Its results differ from
the bridge's in last digits, as any other order of summation does.
"""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlm_neurons._heap import keep_freed
from vlm_neurons.models.adapters import Adapter, along, module_at
from vlm_neurons.models.batch import Batch, HookNeverFires
from vlm_neurons.models.experts import experts_of, open_experts
from vlm_neurons.models.guards import indexed_by_image
from vlm_neurons.models.heads import open_heads
from vlm_neurons.models.held import adapted, adapters_of
from vlm_neurons.models.passes import Pass, begin_pass, current_pass, running
from vlm_neurons.sites import named

_LAYER = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class Glance:
    """Tells in a fifth of the time of a close look whether modules or hooks came or went since. Of adapters, which are
    switched otherwise, it knows nothing."""

    held: list[tuple[Mapping[str, Any], list[Mapping[Any, Any]]]]
    filled: list[Mapping[Any, Any]]
    were: list[list[Any]]
    empty: list[Mapping[Any, Any]]

    @classmethod
    def at(cls, modules: Sequence[nn.Module]) -> Glance:
        """What they have now."""
        held: list[tuple[Mapping[str, Any], list[Mapping[Any, Any]]]] = [
            (m.__dict__, [m._modules, m._forward_hooks, m._forward_pre_hooks]) for m in modules
        ]
        every = [one for _, own in held for one in own]
        filled = [one for one in every if one]
        return cls(held, filled, [[*one.values()] for one in filled], [one for one in every if not one])

    @property
    def unchanged(self) -> bool:
        """Whether they still have it, in the same dictionaries."""
        return (
            all(
                now["_modules"] is modules and now["_forward_hooks"] is hooks and now["_forward_pre_hooks"] is before
                for now, (modules, hooks, before) in self.held
            )
            and not any(self.empty)
            and [[*one.values()] for one in self.filled] == self.were
        )


@dataclass(frozen=True)
class Twin:
    """A model that shares the weights of another.

    Attributes:
        model: the twin, with fused attention.
        adapter: of its family.
        pairs: modules of the original and their twins; weights and buffers are taken from the former.
        points: hook name -> module of the twin, and whether its output is meant; `remember` adds those of the bridge.
    """

    model: Any
    adapter: Adapter
    pairs: tuple[tuple[nn.Module, nn.Module], ...]
    points: dict[str, tuple[nn.Module, bool]]
    _seen: list[Any] = field(default_factory=list)
    _glances: list[Glance] = field(default_factory=list)

    def remember(self, bridge: nn.Module) -> None:
        """Keep what the bridge looks like now, before anybody hooks into it, and where the twin has its hooks."""
        self.points.update(_of_bridge(bridge, self.pairs))
        self._seen[:] = [_shape_of(bridge, _modules(bridge))]

    def stands_for(self, bridge: nn.Module) -> bool:
        """Whether the bridge is still the same model: no hooks added to it, no modules replaced. Asked before every
        batch, so that a glance has to do where it can."""
        if self._glances and self._glances[0].unchanged:
            return True
        modules = _modules(bridge)
        *_, adapters = shape = _shape_of(bridge, modules)
        same = self._seen == [shape]
        self._glances[:] = [Glance.at(modules)] if same and not adapters else []
        return same

    def observe(self, batch: Batch, hooks: Mapping[str, Callable[[Tensor], None]]) -> None:
        """Forward pass without the unembedding, and without the decoder layers behind the last that is looked at.

        Raises:
            HookNeverFires: a hook did not fire.
        """
        fired: set[str] = set()
        self._share()
        handles = [self._register(name, fn, fired) for name, fn in hooks.items()]
        try:
            with torch.no_grad(), running(batch):
                begin_pass(0, batch.attention_mask)  # the twin has no guard to say so
                if (behind := self._behind(hooks)) is not None:
                    handles.append(behind.register_forward_pre_hook(partial(_stop, current_pass())))
                with suppress(_Enough):
                    body = module_at(self.model, self.adapter.body)
                    body(**inputs_of(batch, self.adapter.causal), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        silent = sorted(n for n in set(hooks) - fired if len(batch.images) or not indexed_by_image(n))
        if silent:
            raise HookNeverFires(f"{', '.join(silent)} did not fire in this forward pass, so the result lacks it")

    def _behind(self, hooks: Mapping[str, Any]) -> nn.Module | None:
        """The decoder layer before which all hooks have fired; None if there is none, or it is not known. Projector and
        vision tower come before the first: to look at them alone takes a small part of the pass."""
        layers = [_LAYER.match(name) for name in hooks if not indexed_by_image(name)]
        if not hooks or None in layers:
            return None
        last = max((int(layer[1]) for layer in layers if layer), default=-1)
        return self.points.get(f"blocks.{last + 1}.hook_in", (None,))[0]

    def _share(self) -> None:
        """Weights may have been replaced, or moved to another device, in the original."""
        for original, twin in self.pairs:
            twin._parameters.update(original._parameters)
            twin._buffers.update(original._buffers)

    def _register(self, name: str, fn: Callable[[Tensor], None], fired: set[str]) -> Any:
        seen, is_output = self.points[name]

        def see(tensor: Tensor) -> None:
            fired.add(name)
            fn(tensor)

        if is_output:  # attention and some layers return more than their output
            return seen.register_forward_hook(
                lambda module, args, output: see(output[0] if isinstance(output, tuple) else output)
            )
        return seen.register_forward_pre_hook(lambda module, args: see(args[0]))


class _Enough(Exception):
    """Nothing that comes is looked at."""


def _stop(own: Pass | None, module: nn.Module, args: Any) -> None:
    if current_pass() is own:  # a hook function may run the model too
        raise _Enough


def inputs_of(batch: Batch, causal: bool = True) -> dict[str, Tensor]:
    """What transformers is given for a batch.

    Where attention is causal, padding on the right needs no mask: no token looks to its right, and what padding holds
    is never read. Without a mask attention can use its quickest form.
    """
    inputs = {"input_ids": batch.input_ids, **batch.model_inputs}
    mask = batch.attention_mask
    if not causal or bool((mask[:, 1:] > mask[:, :-1]).any()):  # padded on the left
        inputs["attention_mask"] = mask
    return inputs


def make_twin(model: Any, adapter: Adapter) -> Twin | None:
    """The twin of a Hugging Face model that nothing was done to yet.

    Returns:
        None for a model whose modules carry their own machinery (quantised, or spread by `device_map` with accelerate's
        hooks): its copy could not be vouched for, and the bridge is used instead.
    """
    if getattr(model, "is_quantized", False) or any(hasattr(m, "_hf_hook") for m in model.modules()):
        return None
    if next(model.parameters()).device.type == "cpu":
        keep_freed()
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    twin = copy.deepcopy(model, shared)
    twin.set_attn_implementation(_attention(twin))
    pairs = tuple(zip(model.modules(), twin.modules(), strict=True))
    return Twin(twin, adapter, pairs, _points(twin, adapter))


def _attention(model: Any) -> dict[str, str]:
    """The fused attention of each part that can have it: Gemma 2 caps scores, which is not fused."""
    parts = {"": model.config, **{name: getattr(model.config, name) for name in model.config.sub_configs}}
    return {
        name: "sdpa" if all(getattr(m, "_supports_sdpa", True) for m in model.modules() if _is_of(m, part)) else "eager"
        for name, part in parts.items()
    }


def _is_of(module: nn.Module, config: Any) -> bool:
    return getattr(module, "config", None) is config


def _points(model: nn.Module, adapter: Adapter) -> dict[str, tuple[nn.Module, bool]]:
    # `blocks.{i}.hook_in` shows attention sinks
    points = {f"blocks.{i}.hook_in": (module_at(model, path), False) for i, path in along(model, adapter.layers)}
    # what gates read: random units read it too
    points |= {f"blocks.{i}.mlp.hook_in": (module_at(model, p), False) for i, p in along(model, adapter.backbone.into)}
    points |= {f"blocks.{i}.mlp.hook_in": (module_at(model, adapter.beside_experts.format(i=i)), False)
               for i, _, _ in experts_of(model, adapter)}  # fmt: skip
    for site, (_, held, is_output) in adapter.sites.items():
        for i, path in along(model, held):
            points[named(site).place(i)] = module_at(model, path), is_output
    opened = open_experts(model, adapter) | open_heads(model, adapter, z=True)
    points |= {hook: (point, True) for hook, point in opened.items()}
    return points


# TransformerLens' names of the residual stream and of what is added to it; each family has them at modules of its own.
_RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out",
             "attn.hook_out", "mlp.hook_out")  # fmt: skip


def _of_bridge(bridge: Any, pairs: tuple[tuple[nn.Module, nn.Module], ...]) -> dict[str, tuple[nn.Module, bool]]:
    """The hooks of the residual stream and their other names, at the twins of the modules that the bridge wraps."""
    twins = {id(original): twin for original, twin in pairs}
    found: dict[int, tuple[nn.Module, bool]] = {}
    for component in bridge.modules():
        if (twin := twins.get(id(getattr(component, "original_component", None)))) is None:
            continue
        for side in ("hook_in", "hook_out"):
            if (point := getattr(component, side, None)) is not None:
                found[id(point)] = twin, side == "hook_out"
    named_so = {f"blocks.{i}.{hook}" for i in range(len(bridge.blocks)) for hook in _RESIDUAL}
    points = bridge.hook_dict
    chosen = {id(points[name]) for name in named_so & points.keys()}
    return {name: found[id(point)] for name, point in points.items() if id(point) in chosen & found.keys()}


def _shape_of(bridge: nn.Module, modules: Sequence[nn.Module]) -> tuple[Any, ...]:
    """Which modules there are, how many hooks, and which adapters are on: the twin's are those of its making."""
    hooks = sum(
        _stands(m, hook) for m in modules for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    )
    return [*map(id, modules)], hooks, adapters_of(bridge) if any(map(adapted, modules)) else ()


def _modules(root: nn.Module) -> list[nn.Module]:
    """As `modules()`, in another order, without its generators inside generators: of thousands it takes a third of the
    time."""
    found, left = {id(root): root}, [root]
    while left:
        for child in left.pop()._modules.values():
            if child is not None and id(child) not in found:
                found[id(child)] = child
                left.append(child)
    return [*found.values()]


def hooked(bridge: nn.Module) -> str | None:
    """What hooks the user left on the model, and a number drawn for this call: nobody can say whether hooks do the same
    the next time, so what is made under hooks is another thing every time."""
    found = standing_hooks(bridge)
    return f"by hooks on {', '.join(dict.fromkeys(found))} (call {secrets.token_hex(4)})" if found else None


def standing_hooks(bridge: nn.Module) -> list[str]:
    """Where hooks stand, one name a hook; but for those that the libraries and this one put on modules for themselves.

    >>> standing_hooks(model.bridge)
    []
    """
    return [
        getattr(module, "name", None) or name
        for name, module in bridge.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if _stands(module, hook)
    ]


def _stands(module: nn.Module, hook: Any) -> bool:
    from transformer_lens.hook_points import HookPoint

    return isinstance(module, HookPoint) or not _of_a_library(hook)


_LIBRARIES = ("transformers.", "transformer_lens.", "accelerate.", "vlm_neurons.models.")


def _of_a_library(hook: Any) -> bool:
    hook = getattr(hook, "func", hook)  # functools.partial
    return (getattr(hook, "__module__", None) or "").startswith(_LIBRARIES)

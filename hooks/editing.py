"""Changing activations: every function returns a new tensor and leaves the given one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import of_kind
from vlm_neurons.hooks.positions import HookPairs, Where, positions, real_positions
from vlm_neurons.hooks.selecting import Neurons, Target, targets
from vlm_neurons.models.passes import current_pass
from vlm_neurons.models.reading import together

Value = Callable[[Tensor, Target], Tensor]  # the old values [batch, pos, neuron] -> the new ones
Edit = Callable[[dict[str, Tensor]], Tensor | None]  # what hooks hold -> the edited hook's new tensor; None: as it was


def ablate(
    neurons: Neurons, to: float | str | Float[Tensor, "..."] = 0.0, where: Where = None, seed: int = 0
) -> HookPairs:
    """Set neurons to a value.

    Args:
        neurons: see `Neurons`. The negative pole is the same coordinate: its value is the negation, so `to=0` does
            the same for both poles and `to=v` puts -v into the tensor.
        to: a number; a tensor of one value per neuron in the order of `neurons`, or one that broadcasts to
            [batch, pos, neuron]; `"mean"`: the neuron's mean over the positions that are changed, padding left out;
            `"resample"`: its values at these positions, shuffled among them (all neurons, at all hooks, by the same
            shuffle, so that they stay together as they occurred). Both need positions of one forward pass: tokens
            that are generated come alone.
        where: see `Where`; default everywhere.
        seed: of the shuffle.

    Raises:
        ValueError: nothing is named, `to` is an unknown word or has not one value per neuron; when run: `where` does
            not fit, or `"mean"` or `"resample"` of a token that is generated.
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in ablate("L3N17, L4N2")]
    ['blocks.3.mlp.hook_act', 'blocks.4.mlp.hook_act']
    """
    found = targets(neurons, "ablate")
    if isinstance(to, str):
        if to not in ("mean", "resample"):
            raise ValueError(f"ablate: to={to!r}: give a number, a tensor, 'mean' or 'resample'")
        return [pair for t in found for pair in edits(t, _statistic(t, to, where, seed))]
    values = _per_neuron(to, found, "ablate", "to")

    def writer(target: Target) -> Value:
        def value(old: Tensor, target: Target) -> Tensor:
            new = torch.as_tensor(values[target], device=old.device, dtype=old.dtype)
            return new if target.neurons is None else new * target.sign(old)

        return value

    return [pair for t in found for pair in edits(t, _editor(t, writer(t), where, "ablate"))]


def scale(neurons: Neurons, by: float | Float[Tensor, "neuron"], where: Where = None) -> HookPairs:
    """Multiply neurons.

    Args:
        neurons: see `Neurons`.
        by: a number, or a tensor of one factor per neuron in the order of `neurons`.
        where: see `Where`; default everywhere.

    Raises:
        ValueError: nothing is named, or `by` has not one value per neuron; when run: `where` does not fit.
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in scale("post:L3N17", by=3.0)]
    ['blocks.3.mlp.hook_post']
    """
    found = targets(neurons, "scale")
    factors = _per_neuron(by, found, "scale", "by")

    def value(old: Tensor, target: Target) -> Tensor:
        return old * torch.as_tensor(factors[target], device=old.device, dtype=old.dtype)

    return [pair for t in found for pair in edits(t, _editor(t, value, where, "scale"))]


def patch(neurons: Neurons, source_cache: Mapping[str, Tensor], where: Where = None) -> HookPairs:
    """Put in the activations of another run, position by position.

    Args:
        neurons: see `Neurons`; a hook name patches the whole tensor.
        source_cache: an ActivationCache or dict with the hooks' tensors, or what `record` kept (under neuron ids).
        where: see `Where`; default everywhere. New tokens of a generation are left alone: the source is the prompt.

    Raises:
        ValueError: nothing is named; when run: the source has another shape than the run, or `where` does not fit.
        KeyError: the source lacks what is to be patched.
        IndexError: when run: the tensor has no such coordinate.

    >>> [name for name, _ in patch("L3N17", {"L3N17": torch.zeros(1, 4)})]
    ['blocks.3.mlp.hook_act']
    """
    pairs: HookPairs = []
    for target in targets(neurons, "patch"):
        source = _source(target, source_cache)
        pairs += edits(target, _editor(target, _from(source), where, "patch", prompt_only=True))
    return pairs


def add_direction(
    hook: str,
    direction: Float[Tensor, "*batch_pos d"] | Float[np.ndarray, "*batch_pos d"] | Sequence[float],
    by: float = 1.0,
    where: Where = None,
) -> HookPairs:
    """Add `by` times a direction: steering.

    Args:
        hook: name of any one hook whose tensor is [batch, pos, d] (or [image, patch, d]), such as
            `"blocks.2.hook_resid_post"`. Neurons are moved by `scale` and `ablate`.
        direction: [d], or what broadcasts to the tensor.
        by: factor.
        where: see `Where`; default everywhere, new tokens of a generation too.

    Raises:
        TypeError: `hook` is no name, such as a list of neurons.
        ValueError: the direction is a single number; when run: it has another width than the tensor, or `where` does
            not fit.

    >>> [name for name, _ in add_direction("blocks.2.hook_resid_post", torch.ones(8), by=4.0)]
    ['blocks.2.hook_resid_post']
    """
    example = "'blocks.2.hook_resid_post'"
    of_kind("add_direction: hook", hook, str, f"give the name of one hook, such as {example}; for neurons use scale")
    added = torch.as_tensor(direction)
    if added.dim() == 0:
        raise ValueError(f"add_direction: the direction is the number {added.item()}: give a tensor [d]")

    def value(old: Tensor, target: Target) -> Tensor:
        if added.shape[-1] != old.shape[-1]:
            raise ValueError(f"add_direction: {hook} has width {old.shape[-1]}, the direction {added.shape[-1]}")
        return old + by * added.to(old)

    target = Target(hook, None, (0,), (hook,))
    return edits(target, _editor(target, value, where, "add_direction"))


def edits(target: Target, fn: Edit) -> HookPairs:
    """Hook functions for all that an edit reads, and for the hook that it changes, which has to be the last to fire."""
    return [*together([*(hook for hook in target.hooks if hook != target.edited), target.edited], fn)]


def _editor(target: Target, value: Value, where: Where, caller: str, prompt_only: bool = False) -> Edit:
    def fn(tensors: dict[str, Tensor]) -> Tensor | None:
        layer = target.layer(tensors)
        read = target.of(layer)
        running = current_pass()
        if prompt_only and running is not None and running.past > 0:
            return None
        new = value(read[0], target)
        if read[1] is not None:  # a recording of where a unit is not defined: there it adds nothing
            new = new.masked_fill(new.isnan(), 0)
        return _put(tensors, target, read, new, positions(where, layer[0], target.image_hook, caller))

    return fn


def _put(
    tensors: dict[str, Tensor],
    target: Target,
    read: tuple[Tensor, Tensor | None],
    new: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """The edited hook's tensor with new values where the mask is True and the units are defined, else what was read."""
    old, defined = read
    if mask is not None:
        mask = mask.reshape(*mask.shape, *[1] * (old.dim() - mask.dim()))
    if defined is not None:
        mask = defined if mask is None else mask & defined
    new = (new if mask is None else torch.where(mask, new, old)).expand_as(old)
    if target.neurons is None:
        return target.edit(tensors, None, new.clone())
    index = target.index(old.device)
    last = {n.index: i for i, n in enumerate(target.neurons)}
    if len(last) < len(index):  # both poles of one unit: what was named last holds
        index, new = index[[*last.values()]], new[..., [*last.values()]]
    return target.edit(tensors, index, new)


def _statistic(target: Target, to: str, where: Where, seed: int) -> Edit:
    def fn(tensors: dict[str, Tensor]) -> Tensor | None:
        layer = target.layer(tensors)
        values, defined = target.of(layer)
        mask = real_positions(where, layer[0], target.image_hook, "ablate")
        if not bool(mask.any()):
            return None
        running = current_pass()
        if running is not None and running.past > 0:
            raise ValueError(
                f"ablate: to={to!r} while generating: a new token comes alone, so that nothing would change; give to= "
                "a number or a tensor of values measured before, or where= without new tokens, such as 'visual'"
            )
        everything, chosen = values.clone(), values[mask]  # the latter [position, neuron]
        there = None if defined is None else defined[mask]
        everything[mask] = _shuffled(chosen, there, seed) if to == "resample" else _mean(chosen, there)
        return _put(tensors, target, (values, defined), everything, None)

    return fn


def _mean(values: Tensor, defined: Tensor | None) -> Tensor:
    """The mean of every neuron over the positions [position, neuron] where it is defined, at each of them."""
    if defined is None:
        return values.mean(0, keepdim=True).expand_as(values)
    total = values.masked_fill(~defined, 0).sum(0)
    return (total / defined.sum(0).clamp(min=1)).to(values).expand_as(values)


def _shuffled(values: Tensor, defined: Tensor | None, seed: int) -> Tensor:
    """Values [position, neuron] in another order, the same for all neurons that are defined at the same positions."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).to(values.device)
    if defined is None:
        return values[order]
    # of every neuron the positions where it is defined come first, as they stand and as they are drawn
    places = (~defined).int().argsort(dim=0, stable=True)
    drawn = order[(~defined[order]).int().argsort(dim=0, stable=True)]
    return values.clone().scatter(0, places, values.gather(0, drawn))


def _per_neuron(value: Any, found: list[Target], caller: str, name: str) -> dict[Target, Any]:
    """The share of a value that each target gets: its own entries of the last dimension, or all of it."""
    try:
        torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{caller}: {name}={value!r}: give a number, or a tensor of one value per neuron") from None
    n = sum(len(t.places) for t in found)
    whole = any(t.neurons is None for t in found)
    if not isinstance(value, Tensor) or value.dim() == 0 or whole or value.shape[-1] == 1 != n:
        return dict.fromkeys(found, value)
    if value.shape[-1] != n:
        raise ValueError(f"{caller}: `{name}` has {value.shape[-1]} values in its last dimension for {n} neurons")
    return {t: value[..., list(t.places)] for t in found}


def _source(target: Target, cache: Mapping[str, Tensor]) -> Tensor:
    """Values [batch, pos, neuron] as they are in the tensor: the sign of negative poles undone."""
    lacking = [hook for hook in target.hooks if hook not in cache]
    if not lacking:
        return target.recorded(cache).detach()
    missing = [key for key in target.keys if key not in cache]
    if missing:
        raise KeyError(f"patch: the source has neither {lacking[0]!r} nor {missing[0]!r}; cache or record them")
    values = torch.stack([cache[key] for key in target.keys], -1)
    return (values * target.sign(values)).detach()


def _from(source: Tensor) -> Value:
    def value(old: Tensor, target: Target) -> Tensor:
        if source.shape != old.shape:
            what = "images" if target.image_hook else "[batch, pos]"
            raise ValueError(
                f"patch: the source at {target.place} is {tuple(source.shape)}, this run {tuple(old.shape)}: both runs "
                f"need the same {what}; give prompts of one length, or ablate(..., to=values) with values that fit"
            )
        return source.to(old)

    return value

"""Neuron-level activation patching between two batches, exact and by gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons.hooks.positions import Where, positions
from vlm_neurons.hooks.selecting import Target, select, targets
from vlm_neurons.interventions.caches import take_rows

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models import Batch, HookedVLM

Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, "batch"]]
Units = Any  # Neurons, or {name: Neurons}


def patch_neurons(
    model: HookedVLM,
    *,
    corrupted: Batch,
    clean: Batch,
    patching_metric: Metric,
    neurons: Units,
    where: Where = None,
    rows: int = 64,
) -> pd.DataFrame:
    """Run the corrupted batch with the clean activations of one unit after the other; many units share a forward pass.

    Args:
        model: the model.
        corrupted: the batch that is run.
        clean: the batch that activations come from; tokens of the same shape, images in the same places. Both by
            keyword only, under the names that TransformerLens has: swapped, they would answer another question.
        patching_metric: logits of the batch -> one number per row.
        neurons: neurons (each is patched alone), or `{name: neurons}` that are patched together, such as the classes of
            a layer (`class_groups(table, by_layer=True)`).
        where: positions that are patched, see `vlm_neurons.hooks.Where`; a bool tensor is [batch, pos].
        rows: rows per forward pass.

    Returns:
        One row per unit: `unit`, `n_neurons`, `effect` (metric - unpatched metric, mean over rows), `recovered` (share
        of the mean difference between clean and corrupted; NaN, with a warning, where there is none). `.attrs`:
        `effects` [unit, row], `clean`, `corrupted` (the unpatched metrics).

    Raises:
        ValueError: batches that do not fit each other, or a metric that does not give one number per row.

    >>> [model.tokenizer.decode(model(b)[0, -2].argmax()) for b in (clean, corrupted)]  # what comes after "a large"
    ['red', 'cyan']
    >>> units = {"layer 1": "blocks.1.mlp.hook_post", "layer 3": "blocks.3.mlp.hook_post"}
    >>> found = vn.patch_neurons(
    ...     model, corrupted=corrupted, clean=clean, patching_metric=answer, neurons=units, where="visual"
    ... ).set_index("unit")
    >>> bool(found.recovered["layer 1"] > 0.1), bool(found.recovered["layer 3"] < 0.01)  # too late: nothing reads it
    (True, True)
    """
    groups = _groups(neurons)
    hooks = sorted({t.hook for found in groups.values() for t in found})
    with torch.no_grad():
        goal, cache, before = _both(model, clean, corrupted, patching_metric, hooks)
        effects = torch.zeros(len(groups), len(corrupted))
        names, size = list(groups), max(1, rows // len(corrupted))
        for first in range(0, len(names), size):
            these = [groups[name] for name in names[first : first + size]]
            many = take_rows(corrupted, list(range(len(corrupted))) * len(these))
            pairs = [(hook, _patcher(hook, these, cache[hook], where, corrupted)) for hook in hooks]
            logits = model.run_with_hooks(many, fwd_hooks=pairs)
            for i, part in enumerate(logits.split(len(corrupted))):
                effects[first + i] = _checked(patching_metric(part), corrupted).float().cpu() - before
    return _table(groups, effects, goal, before, {hook: cache[hook].shape[-1] for hook in hooks})


def attribute_neurons(
    model: HookedVLM,
    *,
    corrupted: Batch,
    clean: Batch,
    patching_metric: Metric,
    neurons: Units,
    where: Where = None,
) -> pd.DataFrame:
    """Attribution patching: gradient of the metric in the corrupted run x (clean - corrupted activation), the linear
    approximation of `patch_neurons`, for all neurons from one forward and one backward pass.

    Arguments and result as for `patch_neurons`; `effect` is the approximation.

    >>> layer = table[table.layer == 1]
    >>> guessed = vn.attribute_neurons(
    ...     model, corrupted=corrupted, clean=clean, patching_metric=answer, neurons=layer, where="visual"
    ... )
    >>> best = guessed.nlargest(5, "effect").unit
    >>> exact = vn.patch_neurons(
    ...     model, corrupted=corrupted, clean=clean, patching_metric=answer, neurons=best, where="visual"
    ... )
    >>> bool((exact.effect > 0).all())
    True
    """
    groups = _groups(neurons)
    hooks = sorted({t.hook for found in groups.values() for t in found})
    goal, cache, before = _both(model, clean, corrupted, patching_metric, hooks)
    leaves: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    masks: dict[str, Tensor | None] = {}

    def watcher(hook_name: str) -> Callable[..., Tensor]:
        def fn(tensor: Tensor, hook: Any = None) -> Tensor:
            values[hook_name] = tensor.detach()
            masks[hook_name] = positions(where, tensor, hook_name, "attribute_neurons")
            leaves[hook_name] = torch.zeros_like(tensor, requires_grad=True)
            return tensor + leaves[hook_name]

        return fn

    with torch.enable_grad():
        logits = model.run_with_hooks(corrupted, fwd_hooks=[(hook, watcher(hook)) for hook in hooks])
        total = _checked(patching_metric(logits), corrupted).sum()
        gradients = torch.autograd.grad(total, [leaves[h] for h in hooks], allow_unused=True)
    shares: dict[str, Tensor] = {}
    for hook, gradient in zip(hooks, gradients, strict=True):
        change = cache[hook].to(values[hook]) - values[hook]
        product = torch.zeros_like(change) if gradient is None else gradient * change
        mask = masks[hook]
        product = product if mask is None else product * mask.reshape(*mask.shape, *[1] * (product.dim() - 2))
        shares[hook] = _by_row(product.flatten(1, -2).sum(1), hook, corrupted)
    effects = torch.zeros(len(groups), len(corrupted))
    for i, found in enumerate(groups.values()):
        for target in found:
            share = shares[target.hook]
            part = share if target.neurons is None else share[:, target.index(share.device)]
            effects[i] += part.sum(-1).float().cpu()
    return _table(groups, effects, goal, before, {hook: cache[hook].shape[-1] for hook in hooks})


def _groups(units: Units) -> dict[str, list[Target]]:
    if isinstance(units, Mapping):
        return {name: targets(neurons, "patch_neurons") for name, neurons in units.items()}
    return {key: targets(neuron if neuron is not None else key, "patch_neurons")
            for key, neuron in select(units, "patch_neurons")}  # fmt: skip


def _both(
    model: HookedVLM, clean: Batch, corrupt: Batch, metric: Metric, hooks: Sequence[str]
) -> tuple[Tensor, Any, Tensor]:
    if clean.kinds.shape != corrupt.kinds.shape or not torch.equal(clean.patch_index, corrupt.patch_index):
        raise ValueError(
            f"the clean batch {tuple(clean.kinds.shape)} and the corrupted one {tuple(corrupt.kinds.shape)} differ in "
            "shape or in where images are: prepare prompts (and responses) of the same lengths"
        )
    with torch.no_grad():
        logits, cache = model.run_with_cache(clean, names_filter=list(hooks))
        goal = _checked(metric(logits), clean).float().cpu()
        before = _checked(metric(model(corrupt)), corrupt).float().cpu()
    return goal, cache, before


def _checked(value: Any, batch: Batch) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (len(batch),):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the metric has to give one number per row, [{len(batch)}], got {shape}")
    return value


def _patcher(
    hook_name: str, units: list[list[Target]], source: Tensor, where: Where, corrupt: Batch
) -> Callable[..., Tensor]:
    """Part i of the tensor gets the clean activations of unit i."""

    def fn(tensor: Tensor, hook: Any = None) -> Tensor:
        result = tensor.clone()
        size = source.shape[0]
        # a tensor is about the batch; a name is resolved for all its copies
        given = where.repeat(len(units), 1) if isinstance(where, Tensor) else where
        mask = positions(given, tensor, hook_name, "patch_neurons")
        for i, found in enumerate(units):
            part = slice(i * size, (i + 1) * size)
            for target in (t for t in found if t.hook == hook_name):
                target.check(tensor)
                index = slice(None) if target.neurons is None else target.index(tensor.device)
                new = source[..., index].to(tensor)
                if mask is not None:
                    here = mask[part]
                    new = torch.where(here.reshape(*here.shape, *[1] * (new.dim() - 2)), new, tensor[part][..., index])
                result[part, ..., index] = new
        return result

    return fn


def _by_row(values: Float[Tensor, "item d"], hook: str, batch: Batch) -> Float[Tensor, "batch d"]:
    from vlm_neurons.models.guards import indexed_by_image

    if not indexed_by_image(hook):
        return values
    rows = batch.image_rows.to(values.device)
    return values.new_zeros(len(batch), values.shape[-1]).index_add(0, rows, values)


def _table(
    groups: dict[str, list[Target]], effects: Tensor, goal: Tensor, before: Tensor, widths: dict[str, int]
) -> pd.DataFrame:
    import pandas as pd

    gap = float((goal - before).mean())
    if gap == 0:
        warnings.warn(
            f"the metric is {float(goal.mean()):.6g} in the clean and in the corrupted run, so there is nothing to "
            "recover and `recovered` is NaN: give batches that differ, and a metric that tells them apart",
            stacklevel=3,
        )
    mean = effects.mean(1).numpy()
    table = pd.DataFrame(
        {
            "unit": list(groups),
            "n_neurons": [sum(len(t.neurons or range(widths[t.hook])) for t in found) for found in groups.values()],
            "effect": mean,
            "recovered": mean / gap if gap else np.full_like(mean, np.nan),
        }
    )
    table.attrs |= {"effects": effects.tolist(), "clean": goal.tolist(), "corrupted": before.tolist()}
    return table

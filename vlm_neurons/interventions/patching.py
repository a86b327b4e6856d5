"""Neuron-level activation patching between two batches, exact and by gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import of_kind
from vlm_neurons.hooks.editing import Edit, edits
from vlm_neurons.hooks.positions import Where, positions
from vlm_neurons.hooks.selecting import Neurons, Target, select, targets
from vlm_neurons.interventions.caches import take_rows
from vlm_neurons.models import batch as batches

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models import Batch, HookedVLM

Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, "batch"]]
Units: TypeAlias = Neurons | Mapping[str, Neurons]  # each alone, or those of a name together


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
    for name, batch in (("corrupted", corrupted), ("clean", clean)):
        of_kind(name, batch, batches.Batch, "give what model.prepare(images, prompts, responses) returns")
    groups = _groups(neurons)
    layers = _layers(groups)
    with torch.no_grad():
        goal, source, before = _both(model, clean, corrupted, patching_metric, groups)
        effects = torch.zeros(len(groups), len(corrupted))
        names, size = list(groups), max(1, rows // len(corrupted))
        for first in range(0, len(names), size):
            these = [groups[name] for name in names[first : first + size]]
            many = take_rows(corrupted, list(range(len(corrupted))) * len(these))
            pairs = [
                pair
                for place, layer in layers.items()
                for pair in edits(layer, _patcher(layer, these, source[place], where))
            ]
            logits = model.run_with_hooks(many, fwd_hooks=pairs)
            for i, part in enumerate(logits.split(len(corrupted))):
                effects[first + i] = _checked(patching_metric(part), corrupted).float().cpu() - before
    return _table(groups, effects, goal, before, source)


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
    layers = _layers(groups)
    goal, source, before = _both(model, clean, corrupted, patching_metric, groups)
    leaves: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}

    def watcher(layer: Target) -> Edit:
        def fn(tensors: dict[str, Tensor]) -> Tensor:
            values, defined = layer.read(tensors)
            change = source[layer.place].to(values) - values.detach()
            mask = _mask(positions(where, values, layer.image_hook, "attribute_neurons"), defined, values)
            changes[layer.place] = change if mask is None else change.masked_fill(~mask, 0)
            leaf = leaves[layer.place] = torch.zeros_like(values, requires_grad=True)
            return layer.edit(tensors, None, values + leaf)

        return fn

    with torch.enable_grad():
        pairs = [pair for layer in layers.values() for pair in edits(layer, watcher(layer))]
        logits = model.run_with_hooks(corrupted, fwd_hooks=pairs)
        total = _checked(patching_metric(logits), corrupted).sum()
        gradients = torch.autograd.grad(total, [leaves[place] for place in layers], allow_unused=True)
    shares: dict[str, Tensor] = {}
    for (place, layer), gradient in zip(layers.items(), gradients, strict=True):
        change = changes[place]
        product = torch.zeros_like(change) if gradient is None else gradient * change
        shares[place] = _by_row(product, layer.image_hook, corrupted)
    effects = torch.zeros(len(groups), len(corrupted))
    for i, found in enumerate(groups.values()):
        for target in found:
            effects[i] += target.chosen(shares[target.place]).sum(-1).float().cpu()
    return _table(groups, effects, goal, before, source)


def _groups(units: Units) -> dict[str, list[Target]]:
    if isinstance(units, Mapping):
        return {name: targets(neurons, "patch_neurons") for name, neurons in units.items()}
    return {key: targets(neuron if neuron is not None else key, "patch_neurons")
            for key, neuron in select(units, "patch_neurons")}  # fmt: skip


def _layers(groups: Mapping[str, list[Target]]) -> dict[str, Target]:
    """Every layer of a site that some unit is of, as a whole, by its place."""
    places = sorted({target.place for found in groups.values() for target in found})
    return {place: Target(place, None, (0,), (place,)) for place in places}


def _both(
    model: HookedVLM, clean: Batch, corrupt: Batch, metric: Metric, groups: Mapping[str, list[Target]]
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The metric in the clean run, its values of all units by place, and the metric in the corrupted run."""
    if clean.kinds.shape != corrupt.kinds.shape or not torch.equal(clean.patch_index, corrupt.patch_index):
        raise ValueError(
            f"the clean batch {tuple(clean.kinds.shape)} and the corrupted one {tuple(corrupt.kinds.shape)} differ in "
            "shape or in where images are: prepare prompts (and responses) of the same lengths"
        )
    layers = _layers(groups)
    with torch.no_grad():
        hooks = sorted({hook for layer in layers.values() for hook in layer.hooks})
        logits, cache = model.run_with_cache(clean, names_filter=hooks)
        goal = _checked(metric(logits), clean).float().cpu()
        before = _checked(metric(model(corrupt)), corrupt).float().cpu()
    source = {place: layer.recorded(cache) for place, layer in layers.items()}
    for target in (t for found in groups.values() for t in found):
        target.chosen(source[target.place])  # raises for what is not there
    return goal, source, before


def _checked(value: Any, batch: Batch) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (len(batch),):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the metric has to give one number per row, [{len(batch)}], got {shape}")
    return value


def _patcher(layer: Target, units: list[list[Target]], source: Tensor, where: Where) -> Edit:
    """Part i of the values gets the clean ones of unit i."""

    def fn(tensors: dict[str, Tensor]) -> Tensor:
        read, there = layer.read(tensors)
        # a tensor is about the batch; a name is resolved for all its copies
        given = where.repeat(len(units), 1) if isinstance(where, Tensor) else where
        mask = _mask(positions(given, read, layer.image_hook, "patch_neurons"), there, read)
        # copies stand one after the other, whatever the leading dimensions are
        values, clean = read.flatten(0, -2), source.flatten(0, -2)
        mask = None if mask is None else mask.flatten(0, -2)
        result, size = values.clone(), len(clean)
        for i, found in enumerate(units):
            part = slice(i * size, (i + 1) * size)
            for target in (t for t in found if t.place == layer.place):
                index = slice(None) if target.neurons is None else target.index(values.device)
                new = clean[:, index].to(values)
                if mask is not None:
                    new = torch.where(target.chosen(mask[part]), new, values[part][:, index])
                result[part, index] = new
        return layer.edit(tensors, None, result.view_as(read))

    return fn


def _mask(mask: Tensor | None, defined: Tensor | None, values: Tensor) -> Tensor | None:
    """Positions and units that are meant and defined, as one mask of the values' shape; None: all."""
    if mask is not None:
        mask = mask.reshape(*mask.shape, *[1] * (values.dim() - mask.dim())).expand_as(values)
    if mask is None or defined is None:
        return defined if mask is None else mask
    return mask & defined


def _by_row(values: Float[Tensor, "*item d"], image_hook: str | None, batch: Batch) -> Float[Tensor, "batch d"]:
    """The sum over the positions of every row."""
    if image_hook is None:
        return values.flatten(1, -2).sum(1)
    rows = batch.image_rows.cpu()[batch.rows_at(image_hook, values.shape).image].to(values.device)
    return values.new_zeros(len(batch), values.shape[-1]).index_add(0, rows, values.flatten(0, -2))


def _table(
    groups: dict[str, list[Target]], effects: Tensor, goal: Tensor, before: Tensor, source: dict[str, Tensor]
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
            "n_neurons": [
                sum(len(t.neurons or range(source[t.place].shape[-1])) for t in found) for found in groups.values()
            ],
            "effect": mean,
            "recovered": mean / gap if gap else np.full_like(mean, np.nan),
        }
    )
    table.attrs |= {"effects": effects.tolist(), "clean": goal.tolist(), "corrupted": before.tolist()}
    return table

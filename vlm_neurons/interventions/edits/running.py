"""Inputs through the model, each once, and how active neurons are at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.interventions.edits.trials import Row
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.protocols import Side
from vlm_neurons.sites import at
from vlm_neurons.tokens import TokenKind
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM

KINDS = {"picture": TokenKind.VISUAL, "text": TokenKind.TEXT}


def peaks(
    model: HookedVLM,
    made: Sequence[Callable[[], Row]],
    neurons: Sequence[Neuron],
    side: Side,
    batch_size: int,
    tick: Callable[[int], object],
) -> Float[np.ndarray, "input neuron"]:
    """The largest positive activation of every neuron over the patches of every input's first image, which is the one
    that is edited, or over the tokens of its text; 0 where it is nowhere positive, NaN where its site does not see that
    side.

    Args:
        model: any.
        made: functions that make the inputs.
        neurons: of any sites; negative poles are negated.
        side: patches of the first image, or tokens of the text.
        batch_size: inputs per forward pass.
        tick: is told how many inputs are done.
    """
    columns: dict[str, list[int]] = {}
    for i, neuron in enumerate(neurons):
        columns.setdefault(neuron.hook, []).append(i)
    signs = torch.tensor([-1.0 if n.pole == "-" else 1.0 for n in neurons])
    index = {hook: torch.tensor([neurons[i].index for i in mine]) for hook, mine in columns.items()}
    found = np.full((len(made), len(neurons)), np.nan, np.float32)
    for start in range(0, len(made), batch_size):
        rows = [make() for make in made[start : start + batch_size]]
        batch = model.prepare(
            [list(row.images) or None for row in rows],
            [row.prompt for row in rows],
            [row.response for row in rows] if side == "text" else None,
        ).to(model.device)

        def keep(place: str, values: Tensor, defined: Tensor | None, batch: Batch = batch, start: int = start) -> None:
            mine = columns[place]
            best = _largest(model, batch, place, values, defined, index[place].to(values.device), signs[mine], side)
            if best is not None:
                found[start : start + len(best), mine] = best.cpu().numpy()

        model.observe(batch, readers(columns, keep), fast=None)
        tick(len(rows))
    return found


def _largest(
    model: HookedVLM, batch: Batch, place: str, values: Tensor, defined: Tensor | None, index: Tensor, sign: Tensor,
    side: Side,
) -> Float[Tensor, "row unit"] | None:  # fmt: skip
    acts, there, patch = of_tokens(model, batch, place, values, defined)
    acts = acts[..., index].float() * sign.to(acts.device)
    if there is not None:
        acts = acts.masked_fill(~there[..., index], 0)
    edited = _of_first_images(batch).to(acts.device)
    if at(place)[0].indexed_by != "image":
        mask = batch.mask(KINDS[side]).to(acts.device)
        if side == "picture":
            mask = mask & edited[batch.patch_index.to(acts.device).clamp(min=0)]
        return acts.masked_fill(~mask[..., None], 0).amax(1).clamp(min=0)
    if side == "text" or patch is None:
        return None
    patch = patch.to(acts.device)
    home, seen = batch.row_of_patches.to(acts.device)[patch], acts[0] * edited[patch][:, None]
    best = torch.zeros(len(batch), acts.shape[-1], device=acts.device)
    return best.scatter_reduce(0, home[:, None].expand_as(seen), seen, "amax")


def _of_first_images(batch: Batch) -> Bool[Tensor, " patch"]:
    """Which patches are of the first image of their row."""
    rows = batch.image_rows.tolist()
    first = torch.tensor([rows.index(row) == i for i, row in enumerate(rows)], dtype=torch.bool)
    return first.repeat_interleave(torch.tensor(batch.patch_counts, dtype=torch.long))

"""Batches and caches by row, where vision tensors are indexed by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vlm_neurons.models import Batch
from vlm_neurons.sites import at


def images_of_row(batch: Batch, row: int) -> list[int]:
    """Which images a row has, in order: entries of vision and projector tensors. `batch.image_rows` is the inverse.

    Raises:
        IndexError: there is no such row.

    >>> a, b, c = (data[i].load_images()[0] for i in range(3))
    >>> batch = model.prepare([[a, b], None, c], "Could you describe the image?")
    >>> vn.interventions.images_of_row(batch, 0), vn.interventions.images_of_row(batch, 1), batch.image_rows.tolist()
    ([0, 1], [], [0, 0, 2])
    """
    if not 0 <= row < len(batch):
        raise IndexError(f"row {row}: this batch has the rows 0 to {len(batch) - 1}")
    return [i for i, home in enumerate(batch.image_rows.tolist()) if home == row]


def row_cache(cache: Mapping[str, Tensor], batch: Batch, row: int) -> dict[str, Tensor]:
    """The activations of one row, without the batch dimension.

    Args:
        cache: an ActivationCache, or a dict of tensors, of a run on `batch`.
        batch: that batch.
        row: which row.

    Returns:
        Tensors of backbone hooks [pos, ...] without padding. Of vision and projector hooks the rows of this row's
        images, [row of the tensor, ...]: none where it has no image. Tensors that do not have the batch's rows
        (rotary embeddings) are left as they are.

    Raises:
        IndexError: there is no such row.

    >>> a, b, c = (data[i].load_images()[0] for i in range(3))
    >>> batch = model.prepare([[a, b], c], "Could you describe the image?")
    >>> _, cache = model.run_with_cache(batch)
    >>> row = vn.interventions.row_cache(cache, batch, 1)
    >>> cache["projector.0.hook_post"].shape, row["projector.0.hook_post"].shape  # three images, one image
    (torch.Size([3, 64, 128]), torch.Size([64, 128]))
    >>> len(row["blocks.0.hook_resid_pre"]) == int(batch.attention_mask[1].sum())  # no padding
    True
    """
    images = images_of_row(batch, row)
    real = batch.attention_mask[row].bool()
    found: dict[str, Tensor] = {}
    for name, tensor in cache.items():
        if not isinstance(tensor, Tensor):
            continue
        if at(name)[0].indexed_by == "image":
            found[name] = _of_images(name, tensor, batch, images)
        elif tensor.dim() and tensor.shape[0] == len(batch) and not name.startswith("rotary_emb."):
            found[name] = _unpadded(tensor[row], real, name)
        else:
            found[name] = tensor
    return found


def _of_images(name: str, tensor: Tensor, batch: Batch, images: list[int]) -> Tensor:
    try:
        rows = batch.rows_at(name, tensor.shape)
    except ValueError:  # such as attention patterns
        return tensor[images] if tensor.dim() and tensor.shape[0] == len(batch.images) else tensor
    mine = torch.isin(rows.image, torch.tensor(images, dtype=torch.long))
    return tensor.flatten(0, rows.leading - 1)[mine.to(tensor.device)]


def _unpadded(tensor: Tensor, real: Tensor, name: str) -> Tensor:
    real = real.to(tensor.device)
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        return tensor[:, real][:, :, real]
    return tensor[real] if tensor.dim() and tensor.shape[0] == real.shape[0] else tensor


def take_rows(batch: Batch, rows: Sequence[int]) -> Batch:
    """A batch of some rows, repeats allowed, with their images.

    Raises:
        IndexError: there is no such row.

    Patches are numbered anew: `patches[k].image` counts the images of the new batch.

    >>> a, b, c = (data[i].load_images()[0] for i in range(3))
    >>> batch = model.prepare([[a, b], c], ["What are these?", "What is it?"])
    >>> turned = vn.interventions.take_rows(batch, [1, 0])
    >>> turned.prompts, turned.image_rows.tolist()
    (('What is it?', 'What are these?'), [0, 1, 1])
    """
    images = [images_of_row(batch, row) for row in rows]
    chosen = [i for of_row in images for i in of_row]
    sizes = batch.patch_counts
    index = torch.tensor(list(rows), device=batch.input_ids.device)
    patch_index = torch.full_like(batch.patch_index[index], -1)
    first = 0
    for new, (row, of_row) in enumerate(zip(rows, images, strict=True)):
        visual = batch.patch_index[row] >= 0
        patch_index[new, visual] = torch.arange(int(visual.sum()), device=index.device) + first
        first += sum(sizes[i] for i in of_row)
    picked: dict[str, Any] = {
        name: getattr(batch, name)[index] for name in ("input_ids", "attention_mask", "kinds", "spans")
    }
    picked |= {name: tuple(getattr(batch, name)[row] for row in rows) for name in ("prompts", "responses", "texts")}
    return replace(
        batch,
        **picked,
        **batch.take(chosen),
        row_inputs={name: value[index] for name, value in batch.row_inputs.items()},
        image_rows=torch.tensor([n for n, of in enumerate(images) for _ in of], dtype=torch.long, device=index.device),
        patch_index=patch_index,
    )

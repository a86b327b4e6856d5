"""`where`: which positions of an activation a hook changes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from vlm_neurons.models.batch import Batch
from vlm_neurons.models.passes import current_batch, current_pass
from vlm_neurons.tokens import TokenKind

Where = (
    str | TokenKind | Collection[str | TokenKind] | Bool[Tensor, "..."] | Callable[[Batch], Bool[Tensor, "..."]] | None
)
"""None (everywhere); a bool tensor [batch, pos] as `batch.mask("visual")`, or [image, patch] at hooks indexed by image;
inside HookedVLM calls also a token kind or its name, several of those in a tuple, or a function of the batch that
returns the tensor. While generating, kinds hold for new tokens too (they are TEXT); a tensor is about the prompt, and
leaves new tokens alone."""


def positions(where: Where, tensor: Tensor, by_image: bool, caller: str) -> Bool[Tensor, "batch pos"] | None:
    """`where` for one activation; None means everywhere.

    Args:
        where: see `Where`.
        tensor: the activation.
        by_image: whether its dimension 0 is the image, not the batch row.
        caller: starts error messages.

    Raises:
        ValueError: it does not fit the activation, or is about a batch that is not known here.
    """
    if where is None:
        return None
    mask, new = _mask(where, caller)
    mask = mask.to(tensor.device)
    if by_image:
        return _by_image(mask, tensor, caller)
    running = current_pass()
    after = running.past > 0 if running is not None else tensor.shape[1] == 1 != mask.shape[1]
    if after and tensor.shape[0] == mask.shape[0]:
        return torch.full(tensor.shape[:2], new, device=tensor.device)
    if mask.shape != tensor.shape[:2]:
        raise _misfit(mask, tensor, caller)
    return mask


def real_positions(where: Where, tensor: Tensor, by_image: bool, caller: str) -> Bool[Tensor, "batch pos"]:
    """As `positions`, without padding wherever the mask of the forward pass is known."""
    mask = positions(where, tensor, by_image, caller)
    if mask is None:
        mask = torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    running = current_pass()
    if by_image or running is None or running.attention_mask is None:
        return mask
    real = running.attention_mask[:, running.past : running.past + tensor.shape[1]].to(tensor.device).bool()
    return mask & real if real.shape == mask.shape else mask


def _mask(where: Where, caller: str) -> tuple[Tensor, bool]:
    """A mask [batch, pos], and whether new tokens of a generation belong to it."""
    if isinstance(where, Tensor):
        if where.dtype != torch.bool:
            raise TypeError(f"{caller}: where has to be a bool tensor, got {where.dtype}")
        return where, False
    batch = current_batch()
    if batch is None:
        raise ValueError(
            f"{caller}: where={where!r} needs to know the batch, which only calls of HookedVLM do; on a bare bridge "
            'pass a tensor such as batch.mask("visual")'
        )
    if callable(where):
        return where(batch), False
    kinds = where if isinstance(where, tuple | list | set | frozenset) else (where,)
    for kind in kinds:
        if not isinstance(kind, str | TokenKind):
            raise TypeError(
                f"{caller}: where={where!r}: a torch bool tensor [batch, pos], the name of a token kind, several in a "
                "tuple, or a function of the batch is needed"
            )
    masks = [batch.mask(kind) for kind in kinds]
    new = any(k == TokenKind.TEXT or (isinstance(k, str) and k.upper() == "TEXT") for k in kinds)
    return torch.stack(masks).any(0), new


def _by_image(mask: Tensor, tensor: Tensor, caller: str) -> Tensor:
    if mask.shape == tensor.shape[:2]:
        return mask
    batch = current_batch()
    if batch is None or mask.shape != batch.kinds.shape:
        raise _misfit(mask, tensor, caller)
    return mask_by_image(batch, mask, tensor.shape[1])


def mask_by_image(batch: Batch, mask: Bool[Tensor, "batch pos"], n: int) -> Bool[Tensor, "image n"]:
    """A mask over positions as one over the patches of every image.

    Args:
        n: entries per image at the hook; what comes before the patches (CLIP's CLS token) is False.
    """
    found = torch.zeros(len(batch.images), n, dtype=torch.bool, device=mask.device)
    visual = batch.patch_index >= 0
    sizes = [rows * columns for rows, columns in batch.grids]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    flat = torch.zeros(sum(sizes), dtype=torch.bool, device=mask.device)
    flat[batch.patch_index[visual].to(mask.device)] = mask[visual.to(mask.device)]
    for image, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        found[image, n - size :] = flat[start : start + size]
    return found


def _misfit(mask: Tensor, tensor: Tensor, caller: str) -> ValueError:
    return ValueError(
        f"{caller}: where {tuple(mask.shape)} does not fit activations {tuple(tensor.shape)}: it has to be "
        "their first two dimensions ([image, patch] at hooks indexed by image)"
    )


Hook = tuple[str, Callable[..., Any]]
HookPairs = list[Hook]

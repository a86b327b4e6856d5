"""`where`: which positions of an activation a hook changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
"""None (everywhere); a bool tensor [batch, pos] as `batch.mask("visual")`, or of the activation's leading dimensions at
hooks indexed by image; inside HookedVLM calls also a token kind or its name, several of those in a tuple, or a function
of the batch that returns the tensor. While generating, kinds hold for new tokens too (they are TEXT); a tensor is about
the prompt, and leaves new tokens alone."""


def positions(where: Where, tensor: Tensor, image_hook: str | None, caller: str) -> Bool[Tensor, "*item"] | None:
    """`where` for one activation; None means everywhere.

    Args:
        where: see `Where`.
        tensor: the activation.
        image_hook: the hook, where its leading dimensions are not the batch's rows and positions but those of images.
        caller: starts error messages.

    Raises:
        ValueError: it does not fit the activation, or is about a batch that is not known here.
    """
    if where is None:
        return None
    mask, new = _mask(where, caller)
    mask = mask.to(tensor.device)
    if image_hook is not None:
        return _by_image(mask, tensor, image_hook, caller)
    running = current_pass()
    after = running.past > 0 if running is not None else tensor.shape[1] == 1 != mask.shape[1]
    if after and tensor.shape[0] == mask.shape[0]:
        return torch.full(tensor.shape[:2], new, device=tensor.device)
    if mask.shape != tensor.shape[:2]:
        raise _misfit(mask, tensor, caller)
    return mask


def real_positions(where: Where, tensor: Tensor, image_hook: str | None, caller: str) -> Bool[Tensor, "*item"]:
    """As `positions`, without padding and class tokens wherever these are known."""
    mask = positions(where, tensor, image_hook, caller)
    if mask is None:
        mask = torch.ones(tensor.shape[: 1 if tensor.dim() == 2 else 2], dtype=torch.bool, device=tensor.device)
    if image_hook is not None:
        batch = current_batch()
        if batch is None:
            return mask
        return mask & mask_by_image(batch, batch.mask("visual"), image_hook, tensor.shape).to(mask.device)
    running = current_pass()
    if running is None or running.attention_mask is None:
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


def _by_image(mask: Tensor, tensor: Tensor, hook: str, caller: str) -> Tensor:
    if mask.shape == tensor.shape[: mask.dim()]:
        return mask
    batch = current_batch()
    if batch is None or mask.shape != batch.kinds.shape:
        raise _misfit(mask, tensor, caller)
    return mask_by_image(batch, mask, hook, tensor.shape)


def mask_by_image(
    batch: Batch, mask: Bool[Tensor, "batch pos"], hook: str, shape: Sequence[int]
) -> Bool[Tensor, "*item"]:
    """A mask over positions as one over the leading dimensions of a vision or projector hook's tensor; rows that are no
    patch (CLIP's CLS token, padding) are False."""
    rows, visual = batch.rows_at(hook, shape), batch.patch_index >= 0
    # the last entry is for rows that are no patch, whose number is -1; patches that no position is about are False too
    chosen = torch.zeros(len(batch.patches) + 1, dtype=torch.bool, device=mask.device)
    chosen[batch.patch_index[visual].to(mask.device)] = mask[visual.to(mask.device)]
    return chosen[rows.patch.to(mask.device)].view(*shape[: rows.leading])


def _misfit(mask: Tensor, tensor: Tensor, caller: str) -> ValueError:
    return ValueError(
        f"{caller}: where {tuple(mask.shape)} does not fit activations {tuple(tensor.shape)}: it has to be "
        "their first two dimensions (at hooks indexed by image: all but the last)"
    )


Hook = tuple[str, Callable[..., Any]]
HookPairs = list[Hook]

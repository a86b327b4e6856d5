"""Running a model beside the plain forward pass: without logits, and greedy generation; and what a batch has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlm_neurons.models import guards
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.passes import running
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.models.hooked import HookedVLM


def checked(vlm: HookedVLM, batch: Batch) -> Batch:
    """The batch on the model's device.

    Raises:
        TypeError: it is no batch.
        ValueError: it was put together wrongly.
    """
    if not isinstance(batch, Batch):
        raise TypeError(
            f"a Batch from prepare() is needed here, got {type(batch).__name__}; bare tokens run without images "
            "and mask (model.bind(batch) is for tools that pass tokens)"
        )
    if batch.pixel_values is None and bool((batch.input_ids == vlm.words.image_id).any()):
        raise ValueError("the batch has image tokens but no pixel_values: make it with prepare()")
    if batch.attention_mask is None or bool((batch.attention_mask.bool() != (batch.kinds != TokenKind.PAD)).any()):
        raise ValueError("attention_mask does not fit kinds: it has to be 0 at PAD and 1 elsewhere; use prepare()")
    return batch.to(vlm.device)


def observe(vlm: HookedVLM, batch: Batch, hooks: Mapping[str, Callable[[Tensor], None]]) -> None:
    """See `HookedVLM.observe`."""
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    tokens, inputs = vlm.bind(batch).inputs()
    watch = vlm._watch([(name, _observer(fn)) for name, fn in hooks.items()])

    def stop(tensor: Tensor, hook: Any) -> None:
        raise StopAtLayerException(tensor)  # the bridge catches it, as for stop_at_layer

    # Straight to the hook points: building the bridge's table of aliases anew costs milliseconds for every batch.
    points = vlm._points()
    wanted = [(points[name], fn) for name, fn in watch.hooks if isinstance(name, str)]
    wanted.append((points["unembed.hook_in"], stop))
    handles = [(point, point.add_hook(fn)) for point, fn in wanted]
    try:
        with torch.no_grad(), running(batch.to(vlm.device)):
            vlm.bridge(tokens, **inputs)
    finally:
        for point, handle in handles:
            vlm.bridge._remove_temporary_hook(point, "fwd", handle)
    watch.check(len(batch.images) > 0)


def _observer(fn: Callable[[Tensor], None]) -> Callable[..., None]:
    def hook_fn(tensor: Tensor, hook: Any) -> None:
        fn(tensor)

    return hook_fn


def generate_tokens(vlm: HookedVLM, batch: Batch, max_new_tokens: int) -> Tensor:
    """See `HookedVLM.generate_tokens`. transformers' own greedy search over the wrapped modules, so that hooks fire and
    the end-of-text tokens are the checkpoint's (TransformerLens' loop knows only one)."""
    guards.check_mode(vlm.bridge)
    batch = checked(vlm, continuable(vlm, batch, None))
    hf: Any = vlm.bridge.original_model
    own = hf.generation_config
    config = type(own)(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=own.eos_token_id,
        bos_token_id=own.bos_token_id,
        pad_token_id=vlm.words.pad_id,
    )
    inputs = {"attention_mask": batch.attention_mask}
    if batch.pixel_values is not None:
        inputs["pixel_values"] = batch.pixel_values
    with torch.no_grad(), running(batch):
        out = hf.generate(input_ids=batch.input_ids, generation_config=config, **inputs)
    return out[:, batch.input_ids.shape[1] :]


def continuable(vlm: HookedVLM, images: Any, prompts: Any) -> Batch:
    """A batch whose last position is the last token of every row.

    Raises:
        ValueError: a batch that is padded on the right, or prompts that are missing or given twice.
    """
    if not isinstance(images, Batch):
        if prompts is None:
            raise ValueError("generate(images, prompts): prompts are missing")
        return vlm.prepare(images, prompts, padding_side="left")
    if prompts is not None:
        raise ValueError("generate(batch): the batch has its prompts already")
    if not bool(images.attention_mask[:, -1].all()):
        raise ValueError("a batch padded on the right cannot be continued: prepare(..., padding_side='left')")
    return images

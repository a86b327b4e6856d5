"""A bridge with the images of one batch bound to it; and running it without logits, or to generate.

Tools of TransformerLens (`transformer_lens.patching`, logit lens, attribution) pass tokens only, so on a bare bridge
they run without the image. Given this object instead of the bridge, they run with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from vlm_neurons.models import guards
from vlm_neurons.models.adapters import Adapter
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.caches import unfolded
from vlm_neurons.models.passes import running
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from vlm_neurons.models.template import Words


class Runnable(Protocol):
    """What is needed of a HookedVLM to run it: the class itself is above this file."""

    adapter: Adapter
    bridge: TransformerBridge
    config: Any
    words: Words

    @property
    def device(self) -> torch.device: ...
    def prepare(self, images: Any, prompts: Any, responses: Any = None, padding_side: Any = None) -> Batch: ...
    def hooks(self, fwd_hooks: Any = (), bwd_hooks: Any = (), **kwargs: Any) -> AbstractContextManager[Any]: ...
    def _watch(self, fwd_hooks: Sequence[guards.Hook]) -> guards.Watch: ...
    def _points(self) -> dict[str, Any]: ...


def checked(vlm: Runnable, batch: Batch) -> Batch:
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
    if not batch.image_inputs and bool((batch.input_ids == vlm.words.image_id).any()):
        raise ValueError("the batch has image tokens but no pixel_values: make it with prepare()")
    needed = vlm.adapter.row_inputs(vlm.config, batch.kinds, batch.image_rows)  # transformers may do without in silence
    if missing := sorted(set(needed) - set(batch.row_inputs)):
        raise ValueError(f"the batch lacks {', '.join(missing)}, which this model needs: make it with prepare()")
    if batch.attention_mask is None or bool((batch.attention_mask.bool() != (batch.kinds != TokenKind.PAD)).any()):
        raise ValueError("attention_mask does not fit kinds: it has to be 0 at PAD and 1 elsewhere; use prepare()")
    return batch.to(vlm.device)


class BoundVLM:
    """Behaves as the bridge does, with `batch`'s pixels and mask added to every forward pass.

    Tokens may differ from the batch's (a corrupted prompt), but not in shape nor in where the images are.
    """

    def __init__(self, vlm: Runnable, batch: Batch) -> None:
        self.vlm = vlm
        self.batch = checked(vlm, batch)

    def __getattr__(self, name: str) -> Any:
        if name in ("vlm", "batch"):  # not set yet: copying or unpickling
            raise AttributeError(name)
        return getattr(self.vlm.bridge, name)

    def inputs(
        self, tokens: Tensor | None = None, kwargs: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Token ids and keywords for the bridge.

        Raises:
            ValueError: the tokens do not fit the batch.
            RuntimeError: the bridge is in compatibility mode.
        """
        guards.check_mode(self.vlm.bridge)
        batch = self.batch
        if tokens is None:
            tokens = batch.input_ids
        if not isinstance(tokens, Tensor):
            raise TypeError(
                f"tokens are a tensor [batch, pos] here, got {type(tokens).__name__}; use prepare() for text"
            )
        tokens = tokens.to(batch.input_ids.device)
        if tokens.dim() == 1:
            tokens = tokens[None]
        image_id = self.vlm.words.image_id
        if tokens.shape != batch.input_ids.shape or not torch.equal(tokens == image_id, batch.input_ids == image_id):
            raise ValueError(
                f"tokens {tuple(tokens.shape)} do not fit the bound batch {tuple(batch.input_ids.shape)}: the shape "
                "and the image positions have to be the same. Bind the batch that the tokens come from"
            )
        inputs: dict[str, Any] = {"attention_mask": batch.attention_mask, "use_cache": False}
        return tokens, {**inputs, **batch.model_inputs, **(kwargs or {})}

    @property
    def _n_images(self) -> int:
        return len(self.batch.images)

    def __call__(self, tokens: Tensor | None = None, **kwargs: Any) -> Any:
        """Forward pass; keywords as `TransformerBridge.forward`."""
        tokens, inputs = self.inputs(tokens, kwargs)
        with running(self.batch):
            return self.vlm.bridge(tokens, **inputs)

    forward = __call__

    def run_with_hooks(
        self,
        tokens: Tensor | None = None,
        fwd_hooks: Sequence[guards.Hook] = (),
        bwd_hooks: Sequence[guards.Hook] = (),
        **kwargs: Any,
    ) -> Any:
        """`TransformerBridge.run_with_hooks` with the images; raises if a hook named in `fwd_hooks` does not fire."""
        tokens, inputs = self.inputs(tokens, kwargs)
        watch = self.vlm._watch(fwd_hooks)
        if kwargs.get("remove_batch_dim"):
            guards.check_image_indexed(watch.names, self._n_images, "remove_batch_dim")
        with running(self.batch):
            output = self.vlm.bridge.run_with_hooks(tokens, fwd_hooks=watch.hooks, bwd_hooks=list(bwd_hooks), **inputs)
        watch.check(self._n_images > 0)
        return output

    def run_with_cache(
        self,
        tokens: Tensor | None = None,
        names_filter: str | Sequence[str] | Callable[[str], bool] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """`TransformerBridge.run_with_cache` with the images; `hook_embed` holds the embeddings after the merge.

        Raises:
            KeyError: `names_filter` names a hook that does not exist.
            HookNeverFires: it names one that did not fire.
            ValueError: `pos_slice` or `remove_batch_dim` would cut a tensor that is indexed by image.
        """
        tokens, inputs = self.inputs(tokens, kwargs)
        points = self.vlm._points()
        named = [names_filter] if isinstance(names_filter, str) else names_filter
        asked = [] if named is None or callable(named) else list(named)
        for name in asked:
            if name not in points:
                raise guards.unknown_hook(name, points)
        chosen = names_filter if callable(names_filter) else (lambda n: named is None or n in asked)
        self._check_cuts([n for n in points if chosen(n)], kwargs)
        merged: list[Tensor] = []
        repair = any(chosen(n) for n in guards.BEFORE_MERGE) and self._n_images > 0
        with self._merged_embedding(merged if repair else None), running(self.batch):
            output, cache = self.vlm.bridge.run_with_cache(
                tokens, names_filter=asked if asked else names_filter, **inputs
            )
        entries = cache if isinstance(cache, dict) else cache.cache_dict
        if merged:
            guards.repair_embedding(entries, self._cut(merged[0], entries, kwargs))
        silent = [n for n in asked if n not in entries and (self._n_images or not guards.indexed_by_image(n))]
        if silent:
            raise guards.never_fired(silent, points)
        return output, cache if isinstance(cache, dict) else unfolded(cache, self.vlm)

    def _check_cuts(self, names: list[str], kwargs: dict[str, Any]) -> None:
        if kwargs.get("pos_slice") is not None and self._n_images:
            guards.check_image_indexed(names, self._n_images, "pos_slice")
        if kwargs.get("remove_batch_dim") and self._n_images:
            guards.check_image_indexed(names, self._n_images, "remove_batch_dim")

    def _cut(self, merged: Tensor, entries: dict[str, Tensor], kwargs: dict[str, Any]) -> Tensor:
        """Cut the merged embedding as `run_with_cache` cut its own entries."""
        if kwargs.get("pos_slice") is not None:
            from transformer_lens.utilities import Slice

            merged = Slice.unwrap(kwargs["pos_slice"]).apply(merged, dim=1)
        return merged[0] if kwargs.get("remove_batch_dim") and merged.shape[0] == 1 else merged

    @contextmanager
    def _merged_embedding(self, into: list[Tensor] | None) -> Iterator[None]:
        if into is None:
            yield
            return

        def keep(tensor: Tensor, hook: Any) -> None:
            into[:] = [tensor.detach().clone()]

        with self.vlm.bridge.hooks(fwd_hooks=[(guards.MERGED, keep)]):
            yield

    @contextmanager
    def hooks(
        self, fwd_hooks: Sequence[guards.Hook] = (), bwd_hooks: Sequence[guards.Hook] = (), **kwargs: Any
    ) -> Iterator[BoundVLM]:
        """As `HookedVLM.hooks`, yielding this object."""
        with self.vlm.hooks(fwd_hooks, bwd_hooks, **kwargs):
            yield self


def observe(vlm: Runnable, batch: Batch, hooks: Mapping[str, Callable[[Tensor], None]]) -> None:
    """See `HookedVLM.observe`."""
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    tokens, inputs = BoundVLM(vlm, batch).inputs()
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

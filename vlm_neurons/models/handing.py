"""What a HookedVLM hands on from its TransformerBridge, what it refuses, and what it knows of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch

from vlm_neurons.models import guards

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# What a bridge offers that would run without the images, count image positions as text, or change the neurons; and what
# to use instead.
REFUSED = {
    "forward": "model(batch)",
    "generate_stream": "model.generate(images, prompts)",
    "hf_generate": "model.generate(images, prompts)",
    "diffusion_generate": "model.generate(images, prompts)",
    "input_to_embed": "model.run_with_cache(batch, names_filter='hook_embed')",
    "encoder_output": "model.run_with_cache(batch, names_filter=...), hooks of model.hook_map()",
    "predict_next_sentence": "model(batch)",
    "loss_fn": "the logits of model(batch) at batch.mask('text')",
    "enable_compatibility_mode": "the model as it is, or other neurons would be read: norms would be folded in",
    "process_weights": "the model as it is, or other neurons would be read: norms would be folded in",
    "original_model": "model.bridge.original_model, with pixel_values and attention_mask given to it",
}


def handed_on(bridge: TransformerBridge, name: str) -> Any:
    """An attribute of the bridge, for `HookedVLM.__getattr__`.

    Raises:
        AttributeError: there is none, or it is in `REFUSED`; the message says what to use instead.
    """
    if name in REFUSED:
        raise AttributeError(
            f"model.{name} is not handed on from the TransformerBridge, since it knows nothing of the batch's images: "
            f"use {REFUSED[name]}. The bridge's own is model.bridge.{name}"
        )
    return getattr(bridge, name)


class OverBridge:
    """The attributes of a TransformerBridge, without what would run without the images."""

    bridge: TransformerBridge
    first_dead_layer: int
    _hook_points: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "bridge":  # not set yet: copying or unpickling
            raise AttributeError(name)
        return handed_on(self.bridge, name)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model, or change its data type, as `TransformerBridge.to`; in place.

        >>> model.to("cpu") is model
        True
        """
        self.bridge.to(*args, **{"print_details": False, **kwargs})
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, as `torch.nn.Module.train`; in place."""
        self.bridge.train(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode, as `torch.nn.Module.eval`; in place."""
        return self.train(False)

    @property
    def n_layers(self) -> int:
        """Layers of the backbone."""
        return len(self.bridge.blocks)

    @property
    def device(self) -> torch.device:
        """Where the token embeddings are: batches go there."""
        return self.bridge.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the backbone."""
        return self.bridge.embed.weight.dtype

    def _watch(self, fwd_hooks: Sequence[guards.Hook]) -> guards.Watch:
        return guards.Watch(list(fwd_hooks), self._points(), self.first_dead_layer)

    def _points(self) -> dict[str, Any]:
        if self._hook_points is None:
            self._hook_points = dict(self.bridge.hook_dict)
        return self._hook_points

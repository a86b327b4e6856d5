"""Text that a model writes: greedy, or drawn; and what a checkpoint's own settings must not do to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_neurons._checks import amount, check_seed, whole
from vlm_neurons.models import guards
from vlm_neurons.models.batch import Batch
from vlm_neurons.models.bound import Runnable, checked
from vlm_neurons.models.passes import running
from vlm_neurons.tokens import TokenKind


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the likeliest, unless one of these is given; then it is drawn.

    Attributes:
        temperature: of the probabilities; 0 takes the likeliest. 1 if only another one is given.
        top_p: draw from the likeliest tokens that together have this probability; all of them if not given.
        seed: of the draw; torch's own state if not given.

    Raises:
        ValueError: a number out of its range.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        amount(**{name: getattr(self, name) for name in ("temperature", "top_p") if getattr(self, name) is not None})
        if self.seed is not None:
            check_seed(self.seed)
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: a number from 0, which takes the likeliest token")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: a probability above 0, up to 1")

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn."""
        return self != Sampling() and self.temperature != 0

    def settings(self) -> dict[str, Any]:
        """As transformers takes them; all tokens may be drawn, where transformers would take 50."""
        if not self.draws:
            return {"do_sample": False}
        own = {"temperature": 1.0 if self.temperature is None else float(self.temperature), "top_p": self.top_p or 1.0}
        return {"do_sample": True, "top_k": 0, **own}


@contextmanager
def neutral(hf_model: Any) -> Iterator[None]:
    """Generation without the settings that came with the checkpoint, but for its end-of-text tokens.

    transformers fills whatever a call leaves open from `model.generation_config`: penalties, bans of n-grams and
    tokens, beams, stop strings would change what is called greedy, and its log probabilities. A wrapper (PEFT's) may
    hand the call on to a model with settings of its own, or give it its own: what each of them holds is emptied in
    place, and filled again.
    """
    held = {id(own): own for one in hf_model.modules() if (own := vars(one).get("generation_config")) is not None}
    before = [(own, dict(vars(own))) for own in held.values()]
    try:
        for own in held.values():
            kept = {name: getattr(own, name) for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
            _replace(own, vars(type(own)(**kept)))
        yield
    finally:
        for own, values in before:
            _replace(own, values)


def _replace(settings: Any, values: dict[str, Any]) -> None:
    vars(settings).clear()
    vars(settings).update(values)


def generate_tokens(vlm: Runnable, batch: Batch, max_new_tokens: int, sampling: Sampling) -> Tensor:
    """See `HookedVLM.generate_tokens`. transformers' own search over the wrapped modules, so that hooks fire and the
    end-of-text tokens are the checkpoint's (TransformerLens' loop knows only one)."""
    guards.check_mode(vlm.bridge)
    guards.check_evaluating(vlm.bridge)
    whole(1, max_new_tokens=max_new_tokens)
    batch = checked(vlm, continuable(vlm, batch, None))
    hf: Any = vlm.bridge.original_model
    inputs = {"attention_mask": batch.attention_mask, **batch.model_inputs}
    settings = {"max_new_tokens": max_new_tokens, "pad_token_id": vlm.words.pad_id, **sampling.settings()}
    if hasattr(hf.get_decoder(), "first_kv_shared_layer_idx"):
        # Gemma 4's last layers read the keys of others: transformers runs them at the last position of the prompt
        # alone (findings/gemma4_layers_without_the_prompt.sh), where it is told by a number which logits are needed
        settings["logits_to_keep"] = torch.tensor([-1], device=vlm.device)
    with torch.no_grad(), running(batch), neutral(hf), _seeded(sampling, vlm.device):
        out = hf.generate(input_ids=batch.input_ids, **inputs, **settings)
    return out[:, batch.input_ids.shape[1] :]


def _seeded(sampling: Sampling, device: torch.device) -> Any:
    """torch's generators with a seed, and as they were afterwards."""
    if sampling.seed is None or not sampling.draws:
        return nullcontext()
    return _forked(sampling.seed, device)


@contextmanager
def _forked(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


def continuable(vlm: Runnable, images: Any, prompts: Any) -> Batch:
    """A batch whose last position is the last token of every row, none of which has ended.

    Raises:
        ValueError: a batch that is padded on the right or has ended, or prompts that are missing or given twice.
    """
    if not isinstance(images, Batch):
        if prompts is None:
            raise ValueError("generate(images, prompts): prompts are missing")
        return vlm.prepare(images, prompts, padding_side="left")
    if prompts is not None:
        raise ValueError("generate(batch): the batch has its prompts already")
    if not bool(images.attention_mask[:, -1].all()):
        raise ValueError("a batch padded on the right cannot be continued: prepare(..., padding_side='left')")
    last, ids = images.kinds[:, -1].tolist(), images.input_ids[:, -1].tolist()
    for row, response in enumerate(images.responses):
        closed = last[row] == TokenKind.TEMPLATE and (response or "").strip() != ""
        if response is not None and (closed or ids[row] in end_ids(vlm.bridge.original_model)):
            raise ValueError(
                f"row {row}: its response has ended, what follows would stand behind the end; "
                "prepare(..., end=False) makes it a beginning that goes on"
            )
    return images


def end_ids(hf_model: Any) -> list[int]:
    """Tokens that end what a model of transformers writes."""
    ends = hf_model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [ends]

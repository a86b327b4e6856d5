"""A model that is called inside a hook function, and passes that fail, leave nothing behind."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.hooks import ablate
from vlm_neurons.models.passes import current_batch, current_pass


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


FIRST = "blocks.0.hook_in"


@pytest.mark.parametrize("how", ["call", "generate", "observe", "fast", "bare", "failing", "bare failing"])
@torch.no_grad()
def test_a_run_inside_a_hook_leaves_the_outer_pass_as_it_was(model: vn.HookedVLM, how: str) -> None:
    """`to="mean"` leaves out padding, which only the outer pass's mask tells."""
    batch = model.prepare([tiny.image(), None], tiny.PROMPTS[:2], tiny.RESPONSES[:2])
    assert not batch.attention_mask.all()
    expected = model.run_with_hooks(batch, fwd_hooks=ablate("L1N3, L1N4", to="mean"))
    tok = tiny.tokenizer()
    other = vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))
    short = other.prepare([tiny.image()], "Hi")
    seen: list[Any] = []

    def inside(tensor: Tensor, hook: Any) -> None:
        before = current_batch(), current_pass()
        _run(other, short, how, seen)
        assert (current_batch(), current_pass()) == before
        assert before[0] is not None and before[1] is not None

    logits = model.run_with_hooks(batch, fwd_hooks=[(FIRST, inside), *ablate("L1N3, L1N4", to="mean")])
    assert torch.equal(logits, expected)
    assert seen, "the inner run did not happen"
    assert current_batch() is None and current_pass() is None


def _run(other: vn.HookedVLM, short: vn.Batch, how: str, seen: list[Any]) -> None:
    def look(tensor: Tensor, hook: Any = None) -> None:
        seen.append(current_batch())
        if "failing" in how:
            raise ZeroDivisionError

    if how in ("observe", "fast"):
        other.observe(short, {FIRST: look}, fast=how == "fast")
    elif how == "generate":
        with other.hooks([(FIRST, look)]):
            other.generate(short, max_new_tokens=2)
    elif how.startswith("bare"):
        inputs = {"attention_mask": short.attention_mask, "pixel_values": short.pixel_values}
        with contextlib.suppress(ZeroDivisionError):
            other.bridge.run_with_hooks(short.input_ids, fwd_hooks=[(FIRST, look)], **inputs)
        other.bridge.reset_hooks()
    else:
        with contextlib.suppress(ZeroDivisionError):
            other.run_with_hooks(short, fwd_hooks=[(FIRST, look)])
    for batch in seen:  # the inner pass knows its own batch; a bare bridge knows none, above all not the outer one
        assert batch is None if how.startswith("bare") else len(batch) == 1


@torch.no_grad()
def test_a_pass_that_fails_leaves_nothing(model: vn.HookedVLM) -> None:
    batch = model.prepare([tiny.image()], "Hi")

    def fail(tensor: Tensor, hook: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(batch, fwd_hooks=[(FIRST, fail)])
    assert current_batch() is None and current_pass() is None
    with pytest.raises(ValueError, match="no pixels"):
        model.bridge(batch.input_ids)
    assert current_pass() is None

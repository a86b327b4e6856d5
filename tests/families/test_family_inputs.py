"""Nothing that the processor returns is left out in silence."""

from __future__ import annotations

from dataclasses import replace

import builders
import tiny
import torch

from vlm_neurons.models import Batch


def batch_of(family: builders.Made) -> Batch:
    pictures = [[tiny.image(70, 41), tiny.image(35, 60)], [], [tiny.image(64, 100)]]
    return family.model.prepare(pictures, tiny.PROMPTS, tiny.RESPONSES)


def without(batch: Batch, name: str) -> Batch:
    """The batch without one input."""
    kinds = ("image_inputs", "row_inputs")
    return replace(batch, **{k: {n: v for n, v in getattr(batch, k).items() if n != name} for k in kinds})


def test_a_batch_has_what_the_processor_returns_and_the_model_takes(family: builders.Made):
    batch = batch_of(family)
    returned = family.own(batch.texts[0], batch.images[:2]) or {}
    taken = set(builders.parameters(family.reference))
    assert set(batch.model_inputs) >= (set(returned) & taken) - {"input_ids", "attention_mask", "labels"}


def test_an_input_that_is_dropped_raises_or_changes_nothing(family: builders.Made):
    batch = batch_of(family)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        whole = family.model(batch)[real]
    silent = []
    for name in batch.model_inputs:
        try:
            with torch.no_grad():
                logits = family.model(without(batch, name))[real]
        except Exception:
            continue
        if not torch.allclose(logits, whole, atol=1e-4 * float(whole.abs().max())):
            silent.append(name)
    assert not silent

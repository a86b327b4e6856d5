"""HookedVLM hands on what the bridge offers, and refuses by name what would run without the images."""

from __future__ import annotations

import copy
import inspect

import pytest
import tiny
import torch
from torch import nn

import vlm_neurons as vn
from vlm_neurons.models.bridge import REFUSED, OverBridge

TAKES = ("input", "tokens", "frames", "sentence_a", "text", "logits")  # first parameters: tokens or text
HARMLESS = {  # they take tokens or text, and run no forward pass
    "prepare_multimodal_inputs",
    "to_sentence_pair_tokens",
    "to_str_tokens",
    "to_string",
    "to_tokens",
    "tokens_to_residual_directions",
}


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


def test_attributes_of_the_bridge_are_the_models(model: vn.HookedVLM) -> None:
    assert model.cfg is model.bridge.cfg and model.blocks is model.bridge.blocks
    assert torch.equal(model.W_out, model.bridge.W_out) and torch.equal(model.W_U, model.bridge.W_U)
    assert torch.equal(model.to_tokens("Hi"), model.bridge.to_tokens("Hi"))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.no_such_thing
    assert model.eval() is model and model.train() is model and model.bridge.training
    assert model.eval() is model and not model.bridge.training
    assert model.to("cpu") is model and model.to(torch.float32) is model


@torch.no_grad()
def test_hooks_added_as_in_transformer_lens_hold(model: vn.HookedVLM) -> None:
    batch = model.prepare([tiny.image()], "Hi")
    plain = model(batch)
    model.add_hook("blocks.0.mlp.hook_act", lambda tensor, hook: torch.zeros_like(tensor))
    assert not torch.equal(model(batch), plain)
    model.reset_hooks()
    assert torch.equal(model(batch), plain)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_run_without_images_is_refused_with_the_remedy(model: vn.HookedVLM, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"(?s)model\.{name} is not handed on.*use .*model"):
        getattr(model, name)
    assert hasattr(model.bridge, name)


def test_every_call_of_the_bridge_that_takes_tokens_or_text_is_decided_here(model: vn.HookedVLM) -> None:
    """A new release of TransformerLens may bring others."""
    undecided = []
    for name in dir(type(model.bridge)):
        static = inspect.getattr_static(type(model.bridge), name)
        if name.startswith("_") or hasattr(nn.Module, name) or not inspect.isfunction(static):
            continue
        first = [p for p in inspect.signature(static).parameters if p != "self"][:1]
        decided = name in REFUSED or name in HARMLESS or name in vars(vn.HookedVLM) | vars(OverBridge)
        undecided += [name] * (first != [] and first[0] in TAKES and not decided)
    assert undecided == []


def test_bare_text_and_tokens_are_refused_by_the_models_own_calls(model: vn.HookedVLM) -> None:
    tokens = model.to_tokens("Hi")
    for call in (model, model.run_with_cache, model.run_with_hooks):
        for bare in ("Hi", tokens):
            with pytest.raises(TypeError, match=r"Batch from prepare\(\)"):
                call(bare)  # type: ignore[operator]
    with pytest.raises(ValueError, match="prompts are missing"):
        model.generate("Hi")


def test_a_model_can_be_wrapped_again_and_copied(model: vn.HookedVLM) -> None:
    assert vn.HookedVLM(model, model.processor).bridge is model.bridge  # type: ignore[arg-type]
    assert copy.copy(model).bridge is model.bridge

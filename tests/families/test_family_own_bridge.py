"""A bridge that TransformerLens made with an adapter of its own is extended in place, and does what ours does."""

from __future__ import annotations

import copy
from typing import Any

import builders
import pytest
import tiny
import torch
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import vlm_neurons as vn
from vlm_neurons.hooks import ablate
from vlm_neurons.models.adapters import adapter_of

REFUSED = ("glm4v",)  # its adapter computes the gate by itself
UNMADE = ("pixtral",)  # TransformerLens' adapter of LLaVA looks for CLIP's embeddings


def known(name: str) -> bool:
    hf, _ = builders.FAMILIES[name]()
    return adapter_of(hf.config).architecture in SUPPORTED_ARCHITECTURES and name not in UNMADE


def own_bridge(family: builders.Made) -> Any:
    hf, tokenizer = copy.deepcopy(family.reference), copy.deepcopy(family.processor.tokenizer)
    tokenizer.init_kwargs.update(name_or_path="x", add_bos_token=True)  # or TransformerLens loads it anew, by its name
    return build_bridge_from_module(hf, family.model.adapter.architecture, hf_config=hf.config, tokenizer=tokenizer)


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens' Qwen adapters ask for torchvision, which only its loading of image processors would use."""
    monkeypatch.setattr(ArchitectureAdapter, "_check_required_libraries", lambda self: None)


@pytest.mark.parametrize("name", [name for name in builders.FAMILIES if known(name) and name not in REFUSED])
@torch.no_grad()
def test_a_bridge_by_transformer_lens_own_adapter_gives_the_same(name: str, without_torchvision: None) -> None:
    family = builders.made(name)
    ours, theirs = family.model, vn.HookedVLM(own_bridge(family), family.processor)
    batch = ours.prepare([[tiny.image(70, 41)], [tiny.image(64, 100)]], tiny.PROMPTS[:2], tiny.RESPONSES[:2])
    hooks = [h for site in ours.adapter.sites for h in ours.site_hooks(site) if ".experts." not in h]
    logits, cache = ours.run_with_cache(batch, names_filter=hooks)
    again, own = theirs.run_with_cache(batch, names_filter=hooks)
    largest = logits.abs().max()
    assert torch.allclose(logits, again, rtol=0, atol=1e-5 * float(largest)), (logits - again).abs().max() / largest
    for hook in hooks:
        assert torch.allclose(cache[hook], own[hook], rtol=0, atol=1e-5 * float(cache[hook].abs().max())), hook
    ablated = ablate("post:L0N1")
    edited, expected = theirs.run_with_hooks(batch, fwd_hooks=ablated), ours.run_with_hooks(batch, fwd_hooks=ablated)
    assert torch.allclose(edited, expected, rtol=0, atol=1e-5 * float(largest)) and not torch.equal(edited, again)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bridge_that_computes_mlps_by_itself_is_refused_with_the_remedy(name: str, without_torchvision: None) -> None:
    family = builders.made(name)
    with pytest.raises(ValueError, match=r"computes the gates of its MLPs by itself.*HookedVLM\(hf_model, processor"):
        vn.HookedVLM(own_bridge(family), family.processor)

"""What is read out of the residual stream adds up to the model's own logits, in every family."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import builders
import pytest
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.models.lens import output_weights
from vlm_neurons.models.readout import norm_before, norm_weight, post_norm, unembedding
from vlm_neurons.planted.weights import rows_of


@torch.no_grad()
def test_shares_of_all_neurons_and_of_all_else_are_the_logit(family: builders.Made):
    model = family.model
    batch = model.prepare([[tiny.image(70, 41)]], "What is it?", "A dog.")
    logits, cache = model.run_with_cache(batch)
    norm, unembed = family.reference.get_decoder().norm, family.reference.lm_head.weight
    final = cache["ln_final.hook_in"][:, -1]
    uncapped = norm(final) @ unembed.T
    assert torch.allclose(_capped(family, uncapped), logits[:, -1], atol=1e-3)
    shares = []
    before = cache["blocks.0.hook_in"][:, -1]
    for layer in range(model.n_layers):
        hooks = [hook for hook in model.site_hooks("gate") if hook.startswith(f"blocks.{layer}.")]
        ids = [vn.Neuron(hook, i) for hook in hooks for i in range(cache[hook].shape[-1])]
        shares.append(vn.interventions.direct_logit_attribution(model, batch, ids, 9, 12))
        before = _behind(family, cache, layer, before)
    rest = _linear(norm, before, final) @ (unembed[9] - unembed[12])
    difference = uncapped[:, 9] - uncapped[:, 12]
    assert torch.allclose(torch.cat(shares, -1).sum(-1) + rest, difference, atol=1e-3)
    assert all(of_layer.abs().max() > 0.01 for of_layer in shares)


def _capped(family: builders.Made, logits: torch.Tensor) -> torch.Tensor:
    """Gemma 2's logits go no further than a cap."""
    cap = getattr(family.reference.config.text_config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


def _behind(family: builders.Made, cache: Any, layer: int, before: torch.Tensor) -> torch.Tensor:
    """What a layer makes of a part of the residual stream, with all that it adds but for its MLP."""
    block = f"blocks.{layer}."
    into, out = (cache[block + name][:, -1] for name in ("hook_in", "hook_out"))
    if family.model.adapter.parallel:
        return before + cache[block + "hook_attn_out"][:, -1]
    middle = cache[block + "hook_resid_mid"][:, -1]
    scale = getattr(family.reference.get_decoder().layers[layer], "layer_scalar", torch.ones(1))
    more = out / scale - middle - cache[block + "hook_mlp_out"][:, -1] if hasattr(
        family.reference.get_decoder().layers[layer], "per_layer_projection") else 0  # fmt: skip
    return (before + middle - into + more) * scale


def _linear(norm: Any, vector: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """A norm held at its scale at a point: its derivative were that scale constant. One of Cohere's centres."""
    if "LayerNorm" in type(norm).__name__:
        vector, at = vector - vector.mean(-1, keepdim=True), at - at.mean(-1, keepdim=True)
    return norm(at) / at * vector


@torch.no_grad()
def test_words_of_a_neuron_are_read_by_the_familys_own_norm(family: builders.Made):
    norm, unembed = family.reference.get_decoder().norm, family.reference.lm_head.weight
    for hook in (family.model.site_hooks("gate")[0], family.model.site_hooks("post")[-1]):
        neuron = vn.Neuron(hook, 3)
        written = output_weights(family.model, [neuron])[0]
        at = torch.tensor([1.0, -1.0]).repeat(len(written) // 2)  # where a norm divides by 1
        expected = (_linear(norm, written, at) @ unembed.T).sort().values
        found = vn.interventions.logit_lens(family.model, [neuron], k=4).iloc[0]
        for told, there in ((found.raised, expected.flip(0)[:4]), (found.lowered, expected[:4])):
            assert torch.allclose(torch.tensor(told), there, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava-clip", "gemma3", "aya_vision"])  # RMS; with offsets, and behind MLPs; centred
def test_a_unit_that_writes_a_word_is_explained_by_it_through_every_kind_of_norm(name: str):
    model = builders.made(name).model
    weights = rows_of(model, "post", 1, 3)["out"]
    before, behind = weights.clone(), post_norm(model, 1)
    token = max(i for i in range(len(model.tokenizer)) if model.tokenizer.decode([i]).strip().isalpha())
    word = model.tokenizer.decode([token]).strip().lower()
    row = unembedding(model)[token] / norm_weight(model, norm_before(model, None))
    try:
        weights.copy_(row if behind is None else row / norm_weight(model, behind))
        explainer = vn.VocabularyExplainer(model, n_null=100, level=0.9)
        found = vn.explain({"post:L1N3": vn.Evidence("post:L1N3", 1.0, ())}, explainer, progress=False)["post:L1N3"]
    finally:
        weights.copy_(before)
    assert found.support[0]["direction"] == "raised" and found.support[0]["words"][0] == word
    assert found.support[0]["cosines"][0] > 0.5


@torch.no_grad()
def test_tools_of_the_cache_give_the_logits(family: builders.Made):
    batch = family.model.prepare([[tiny.image(70, 41)], []], ["What is it?", "Hi"], "A dog.")
    logits, cache = family.model.run_with_cache(batch)
    real = batch.attention_mask.bool()
    middle = "blocks.1.hook_in" if family.model.adapter.parallel else "blocks.1.hook_resid_mid"
    parts, into_mlp = (cache[place][None] for place in ("ln_final.hook_in", middle))
    odd = ("deepstack", "linear_attn", "per_layer_projection")
    lacks = any(part in name for name, _ in family.reference.named_modules() for part in odd)
    told = pytest.raises((ValueError, KeyError), match=r"between layers too|hook_attn_out.*linear attention")
    with told if lacks else nullcontext():
        parts, into_mlp = cache.decompose_resid(layer=-1), cache.decompose_resid(layer=1, mlp_input=True)
    found = (cache.apply_ln_to_stack(parts) @ family.model.W_U).sum(0)
    assert torch.allclose(_capped(family, found[real]), logits[real], atol=1e-3)
    found = cache.apply_ln_to_stack(into_mlp, layer=1, mlp_input=True).sum(0)  # the input of an MLP, through its norm
    assert torch.allclose(found[real], cache["blocks.1.mlp.hook_in"][real], atol=1e-3)


@torch.no_grad()
def test_shares_of_single_neurons_and_heads_by_the_cache_add_up_or_are_refused(family: builders.Made):
    batch = family.model.prepare([None], "Hi", "A dog.")
    _, cache = family.model.run_with_cache(batch)
    direction = family.model.W_U[:, 9]
    with pytest.raises(ValueError, match="leaves out the weight of the norm"):
        cache.stack_neuron_results(layer=2, apply_ln=True, project_output_onto=direction)
    adds_up = True
    try:
        found = cache.get_neuron_results(0).sum(-2)
    except ValueError as error:
        adds_up = "a norm stands between" not in str(error) and "layers with experts" not in str(error)
        found = cache["blocks.0.hook_mlp_out"]
    odd = {"post_feedforward_layernorm", "post_mlp_layernorm", "experts"}
    assert adds_up == odd.isdisjoint(
        name.split(".")[-1] for layer in family.reference.get_decoder().layers for name, _ in layer.named_modules()
    )
    assert torch.allclose(found, cache["blocks.0.hook_mlp_out"], atol=1e-3)

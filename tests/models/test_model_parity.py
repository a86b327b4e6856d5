"""A HookedVLM computes what transformers computes, and its four sites are transformers' own tensors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch

from vlm_neurons import HookedVLM
from vlm_neurons.hooks import ablate, record
from vlm_neurons.sites.mlp import MLPS

COMBINATIONS = [
    ("clip", "llama", "bpe", torch.float32),
    ("clip", "mistral", "unigram", torch.bfloat16),
    ("siglip", "qwen2", "bpe", torch.float32),
    ("siglip", "qwen2", "bpe", torch.bfloat16),
    ("clip", "llama", "unigram", torch.bfloat16),
]


def pair(tower: str, backbone: str, kind: str, dtype: torch.dtype) -> tuple[HookedVLM, Any]:
    """A HookedVLM and an untouched copy of the same random model."""
    tok = tiny.tokenizer(kind)
    hf = tiny.in_dtype(tiny.llava(tok, tower=tower, backbone=backbone), dtype)
    reference = copy.deepcopy(hf)
    reference.set_attn_implementation("eager")
    return HookedVLM(hf, tiny.processor(tok, tower=tower)), reference


@pytest.fixture(scope="module", params=COMBINATIONS, ids=lambda c: f"{c[0]}-{c[1]}-{str(c[3])[6:]}")
def models(request: pytest.FixtureRequest) -> tuple[HookedVLM, Any]:
    return pair(*request.param)


def images() -> list[Any]:
    return [[tiny.image(), tiny.image(50, 20)], None, tiny.image(20, 60)]


def positions(batch: Any) -> torch.Tensor:
    """Position ids that count real tokens only."""
    return (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)


def raw(reference: Any, batch: Any, **kwargs: Any) -> torch.Tensor:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        return reference(**inputs, pixel_values=batch.pixel_values, use_cache=False, **kwargs).logits


def raw_sites(reference: Any, batch: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    """The four sites by plain forward hooks on transformers' modules."""
    found: dict[str, torch.Tensor] = {}
    handles = []

    def keep_input(name: str) -> Any:
        return lambda module, args: found.__setitem__(name, args[0].detach().clone())

    def keep_output(name: str) -> Any:
        return lambda module, args, output: found.__setitem__(name, output.detach().clone())

    for path, module in reference.named_modules():
        layer = next((p for p in path.split(".") if p.isdigit()), "")
        if path.endswith("mlp.act_fn"):
            handles.append(module.register_forward_hook(keep_output(f"blocks.{layer}.mlp.hook_act")))
        elif path.endswith("mlp.down_proj"):
            handles.append(module.register_forward_pre_hook(keep_input(f"blocks.{layer}.mlp.hook_post")))
        elif path.endswith("multi_modal_projector.linear_2"):
            handles.append(module.register_forward_pre_hook(keep_input("projector.0.hook_post")))
        elif path.endswith("mlp.fc2") and layer:  # SigLIP has a pooling head with an MLP, too
            name = f"vision.{layer}.mlp.hook_post"
            handles.append(module.register_forward_pre_hook(keep_input(name)))
    raw(reference, batch, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def all_sites(model: HookedVLM) -> list[str]:
    return [hook for site in MLPS for hook in model.site_hooks(site.name)]


def test_unpadded_logits_and_all_four_sites_are_transformers_bit_for_bit(models: tuple[HookedVLM, Any]) -> None:
    model, reference = models
    batch = model.prepare([[tiny.image(), tiny.image()]] * 2, "What colour is the train?", "It is blue.")
    assert bool(batch.attention_mask.all())
    hooks = all_sites(model)
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch, names_filter=hooks)
    assert torch.equal(logits, raw(reference, batch))
    expected = raw_sites(reference, batch)
    assert set(expected) == set(hooks)
    for hook in hooks:
        assert torch.equal(cache[hook], expected[hook]), hook


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_logits_and_sites_are_transformers(models: tuple[HookedVLM, Any], side: str) -> None:
    model, reference = models
    batch = model.prepare(images(), tiny.PROMPTS, tiny.RESPONSES, padding_side=side)
    real = batch.attention_mask.bool()
    assert not bool(real.all())
    # transformers counts positions from the padding unless it is told; the bridge counts real tokens.
    told = {"position_ids": positions(batch)} if side == "left" else {}
    with torch.no_grad():
        logits, cache = model.run_with_cache(batch, names_filter=all_sites(model))
    assert torch.equal(logits[real], raw(reference, batch, **told)[real])
    for hook, expected in raw_sites(reference, batch, **told).items():
        same = cache[hook] == expected
        assert bool((same[real] if hook.startswith("blocks") else same).all()), hook


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_a_row_no_more_than_in_transformers(models: tuple[HookedVLM, Any], side: str) -> None:
    model, reference = models
    batch = model.prepare(images(), tiny.PROMPTS, tiny.RESPONSES, padding_side=side)
    ours, theirs = [], []
    with torch.no_grad():
        together, raw_together = model(batch), raw(reference, batch)
        told = raw(reference, batch, position_ids=positions(batch)) if side == "left" else raw_together
        for row in range(3):
            pictures = [im for im, r in zip(batch.images, batch.image_rows.tolist(), strict=True) if r == row]
            alone = model.prepare([pictures], [tiny.PROMPTS[row]], [tiny.RESPONSES[row]])
            real = batch.attention_mask[row].bool()
            ours.append(float((model(alone)[0] - together[row][real]).abs().max()))
            raw_alone = raw(reference, alone)[0]
            theirs.append(max(float((raw_alone - t[row][real]).abs().max()) for t in (raw_together, told)))
    if model.dtype == torch.float32:
        assert max(ours) <= 1e-5
    assert all(a <= b for a, b in zip(ours, theirs, strict=True))


WEIGHTS = {
    "L1N3": "model.language_model.layers.1.mlp.down_proj",
    "post:L0N7": "model.language_model.layers.0.mlp.down_proj",
    "P0N5": "model.multi_modal_projector.linear_2",
    "V1N2": "encoder.layers.1.mlp.fc2",
}


@pytest.mark.parametrize("neuron", WEIGHTS)
def test_zeroing_a_neuron_by_hook_is_the_weight_edit(models: tuple[HookedVLM, Any], neuron: str) -> None:
    model, reference = models
    batch = model.prepare(images(), tiny.PROMPTS, tiny.RESPONSES)
    real = batch.attention_mask.bool()
    edited = copy.deepcopy(reference)
    weight = next(m for path, m in edited.named_modules() if path.endswith(WEIGHTS[neuron])).weight
    with torch.no_grad():
        weight[:, int(neuron.rpartition("N")[2])] = 0
        logits = model.run_with_hooks(batch, fwd_hooks=ablate(neuron))
        untouched = model(batch)
    assert torch.equal(logits[real], raw(edited, batch)[real])
    assert not torch.equal(logits[real], untouched[real])


def test_recording_leaves_the_logits_bit_identical(models: tuple[HookedVLM, Any]) -> None:
    model, _ = models
    batch = model.prepare(images(), tiny.PROMPTS, tiny.RESPONSES)
    into: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        plain = model(batch)
        recorded = model.run_with_hooks(batch, fwd_hooks=record([*all_sites(model), "L0N1", "P0N2"], into))
    assert torch.equal(plain, recorded)
    assert torch.equal(into["L0N1"], into["blocks.0.mlp.hook_act"][..., 1])


def test_generation_is_transformers_greedy_search(models: tuple[HookedVLM, Any]) -> None:
    model, reference = models
    prompts = ["Could you describe the image?", "Hi", "What colour is the train?"]
    pictures = images()
    batch = model.prepare(pictures, prompts)
    assert not bool(batch.attention_mask[:, 0].all()), "left-padded"
    # Random models go on for ever: end the text where a token of the first row would come anyway.
    first = int(model.generate_tokens(batch, 5)[0, -1])
    for hf in (model.bridge.original_model, reference):
        hf.generation_config.eos_token_id = [model.tokenizer.eos_token_id, first]
    with torch.no_grad():
        expected = reference.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=batch.pixel_values,
            do_sample=False,
            max_new_tokens=10,
            pad_token_id=model.words.pad_id,
        )[:, batch.input_ids.shape[1] :]
    assert torch.equal(model.generate_tokens(batch, 10), expected)
    texts = [t.strip() for t in model.tokenizer.batch_decode(expected, skip_special_tokens=True)]
    assert model.generate(pictures, prompts, max_new_tokens=10) == texts == model.generate(batch, max_new_tokens=10)


@torch.no_grad()
def test_generation_reads_the_prompt_whatever_a_release_calls_the_cache() -> None:
    """transformers 5.24 gives layers `cache` where 5.23 gives `past_key_values`; here all are given the former."""
    model, reference = pair("clip", "llama", "bpe", torch.float32)

    def rename(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        given = {("cache" if name == "past_key_values" else name): value for name, value in kwargs.items()}
        return args, given

    attention = [m for m in model.bridge.original_model.modules() if hasattr(m, "_update_kv_cache")]
    handles = [m.register_forward_pre_hook(rename, with_kwargs=True, prepend=True) for m in attention]
    batch = model.prepare(images(), ["Could you describe the image?", "Hi", "What colour is the train?"])
    found = model.generate_tokens(batch, 8)
    for handle in handles:
        handle.remove()
    assert attention and torch.equal(found, model.generate_tokens(batch, 8))
    expected = reference.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=batch.pixel_values,
        do_sample=False, max_new_tokens=8, pad_token_id=model.words.pad_id,
    )[:, batch.input_ids.shape[1] :]  # fmt: skip
    assert torch.equal(found, expected)

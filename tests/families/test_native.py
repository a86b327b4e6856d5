"""Towers that read images at their own shape: what the tests of all families do not look at."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import builders
import built_native
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.hooks import ablate
from vlm_neurons.models.adapters import adapter_of
from vlm_neurons.planted.weights import rows_of
from vlm_neurons.scanning.nulls import random_units

PICTURES: list[Any] = [[tiny.image(70, 41), tiny.image(35, 60)], [], [tiny.image(160, 30)]]


@pytest.mark.parametrize("name", [*built_native.FAMILIES, "gemma4"])
def test_generated_tokens_are_transformers_own(name: str) -> None:
    family = builders.made(name)
    batch = family.model.prepare(PICTURES, tiny.PROMPTS)
    found = family.model.generate_tokens(batch, 6)
    with torch.no_grad():
        expected = family.reference.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **batch.model_inputs, do_sample=False,
            max_new_tokens=6, pad_token_id=family.model.words.pad_id,
        )  # fmt: skip
    assert torch.equal(found, expected[:, batch.input_ids.shape[1] :])


@pytest.mark.parametrize("name", built_native.FAMILIES)
def test_a_picture_that_fits_is_seen_as_it_is(name: str) -> None:
    picture = tiny.image(56, 42) if name.startswith(("qwen", "glm")) else tiny.image(16, 12)
    batch = builders.made(name).model.prepare([picture, tiny.image(90, 30)], "Hi")
    assert batch.seen_image(0).tobytes() == picture.convert("RGB").tobytes()
    assert batch.grids[0] == (3, 4)
    assert {patch.original_box == patch.box for patch in batch.patches if patch.image == 0} == {True}


def test_evidence_of_a_merger_in_the_order_of_windows_is_row_by_row(tmp_path: Path) -> None:
    family = builders.made("qwen2_5_vl")
    model, picture = family.model, tiny.image(84, 70)
    data = vn.ImageTextData.from_samples([{"image": picture, "prompt": "What?", "response": "A dog."}] * 3)
    run = vn.scan(model, data, "projector", top_n=3, out=tmp_path / "run", progress=False)
    evidence = vn.gather_evidence(model, data, run, neurons=["P0N5"], progress=False)["P0N5"]
    batch = model.prepare([picture], ["What?"], ["A dog."])
    visual = family.reference.model.visual
    kept: list[Tensor] = []
    handle = visual.merger.mlp[2].register_forward_pre_hook(lambda module, args: kept.append(args[0].detach()))
    with torch.no_grad():
        family.reference(input_ids=batch.input_ids, **batch.model_inputs)
    handle.remove()
    from transformers.vision_utils import get_vision_window_index

    order, _ = get_vision_window_index(batch.image_inputs["image_grid_thw"], 2, visual.window_size, visual.patch_size)
    assert order.tolist() != sorted(order.tolist())
    expected = kept[0][order.argsort()][:, 5].reshape(5, 6)  # as Qwen2.5-VL itself brings back the order
    shown = torch.as_tensor(evidence.exemplars[0].patch_acts[0])
    assert torch.allclose(shown, expected, atol=1e-4)


def test_deepstack_mergers_are_projector_neurons_with_numbers_of_their_own() -> None:
    family = builders.made("qwen3_vl")
    model = family.model
    assert model.site_hooks("projector") == [f"projector.{k}.hook_post" for k in range(3)]
    mergers = family.reference.model.visual.deepstack_merger_list
    assert torch.equal(rows_of(model, "projector", 2, 6)["out"], mergers[1].linear_fc2.weight[:, 6])
    batch = model.prepare(PICTURES, tiny.PROMPTS, tiny.RESPONSES)
    edited = copy.deepcopy(family.reference)
    with torch.no_grad():
        edited.model.visual.deepstack_merger_list[1].linear_fc2.weight[:, 6] = 0
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.model_inputs}
        expected, before = edited(**inputs).logits, family.reference(**inputs).logits
        found = model.run_with_hooks(batch, fwd_hooks=ablate("P2N6"))
    real = batch.attention_mask.bool()
    assert torch.allclose(found[real], expected[real], atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(before[real], expected[real], atol=1e-2)


def test_an_edit_of_attention_patterns_that_changes_nothing_is_told() -> None:
    model = builders.made("qwen2_5_vl").model
    batch = model.prepare(PICTURES[0][:1], "Hi")
    with pytest.warns(UserWarning, match=r"edit is discarded and does not affect the model's output"):
        edited = model.run_with_hooks(batch, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda t, hook: 0 * t)])
    assert torch.equal(edited, model(batch))


def test_other_squares_than_the_models_are_refused() -> None:
    family = builders.made("qwen2_5_vl")
    processor = copy.deepcopy(family.processor)
    processor.image_processor.merge_size = 1
    model = vn.HookedVLM(copy.deepcopy(family.reference), processor)
    with pytest.raises(ValueError, match=r"merge_size is 1 in the image processor, and the model merges 2 x 2"):
        model.prepare([tiny.image(70, 41)], "Hi")


def test_a_pixtral_tower_is_told_from_the_other_towers_of_llava() -> None:
    assert builders.made("pixtral").model.adapter.name == "pixtral"
    assert builders.made("llava-clip").model.adapter.name == "llava"
    config = copy.deepcopy(builders.made("pixtral").reference.config)
    config.vision_feature_select_strategy = "default"
    with pytest.raises(ValueError, match="leaves out the first patch"):
        adapter_of(config)


def test_a_picture_of_one_token_is_refused_for_mistral() -> None:
    model = builders.made("mistral3").model
    with pytest.raises(vn.models.RowError, match=r"row 1: .* 3 x 2 pixels are a single visual token"):
        model.prepare([tiny.image(20, 20), tiny.image(3, 2)], "Hi")


def test_a_processor_of_other_patches_than_the_models_is_refused() -> None:
    family = builders.made("mistral3")
    processor = copy.deepcopy(family.processor)
    processor.spatial_merge_size = 1
    model = vn.HookedVLM(copy.deepcopy(family.reference), processor)
    with pytest.raises(ValueError, match="spatial_merge_size is 1 in the processor and 2 in the model"):
        model.prepare([tiny.image(70, 41)], "Hi")


def test_videos_are_refused_by_name() -> None:
    model = builders.made("qwen2_5_vl").model
    with pytest.raises(ValueError, match=r"'some/clip\.mp4' is a video, and videos are not read: give some of its fr"):
        model.prepare(["some/clip.mp4"], "Hi")
    with pytest.raises(TypeError, match=r"got Tensor \(videos are not read: give some of their frames, as a list\)"):
        model.prepare([torch.zeros(4, 3, 56, 56)], "Hi")
    frames = model.prepare([[Image.new("RGB", (56, 42)), Image.new("RGB", (56, 42))]], "Hi")
    assert len(frames.images) == 2


@torch.no_grad()
def test_gates_that_share_a_matrix_are_drawn_alone_and_their_random_units_are_of_both_halves() -> None:
    family = builders.made("glm4v")
    fused = family.reference.model.language_model.layers[1].mlp.gate_up_proj.weight
    n, held = len(fused) // 2, family.model.bridge.original_model.model.language_model.layers[1].mlp.gate_up_proj.weight
    with vn.interventions.random_gates(family.model):
        assert torch.equal(held[n:], fused[n:]) and not torch.isclose(held[:n], fused[:n]).any(1).all()
        torch.testing.assert_close(held[:n].norm(dim=1), fused[:n].norm(dim=1))
    assert torch.equal(held, fused)
    held[n:] *= 1000  # so that the halves cannot be taken for one another
    try:
        gate, post = random_units(family.model, ["blocks.1.mlp.hook_act", "blocks.1.mlp.hook_post"], 50)
    finally:
        held[n:] /= 1000
    assert gate.up is None and post.up is not None
    assert gate.gate.norm(dim=0).max() < 10 and post.gate.norm(dim=0).max() < 10 < 100 < post.up.norm(dim=0).min()

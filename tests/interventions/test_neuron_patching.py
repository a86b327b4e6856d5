"""Neuron patching, attribution and readouts equal what is done by hand, one neuron at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons import HookedVLM
from vlm_neurons.hooks import ablate, patch

GATE, POST, PROJECTOR = "blocks.0.mlp.hook_act", "blocks.1.mlp.hook_post", "projector.0.hook_post"
UNITS = ["L0N3", "post:L1N7", "P0N2", "L1N40", "L0N5"]


def metric(logits: Tensor) -> Tensor:
    return logits[:, -4:].logsumexp((1, 2)) - logits[:, -3, 11]


def by_hand(model: HookedVLM, clean: Any, corrupt: Any, hook: str, index: int, where: Tensor | None) -> Tensor:
    _, cache = model.run_with_cache(clean, names_filter=hook)

    def fn(tensor: Tensor, hook: Any) -> Tensor:
        new = tensor.clone()
        source = next(iter(cache.values()))
        for a, b in torch.ones(tensor.shape[:2]).nonzero().tolist():
            if where is None or bool(where[a, b]):
                new[a, b, index] = source[a, b, index]
        return new

    return metric(model.run_with_hooks(corrupt, fwd_hooks=[(hook, fn)])) - metric(model(corrupt))


@torch.no_grad()
@pytest.mark.parametrize("where", [None, "visual", "text"])
def test_exact_patching_of_many_units_at_once_equals_one_after_the_other(
    model: HookedVLM, batch: Any, other: Any, where: Any
) -> None:
    units = [u for u in UNITS if where != "text" or not u.startswith("P")]
    found = vn.patch_neurons(
        model, corrupted=other, clean=batch, patching_metric=metric, neurons=units, where=where, rows=7
    )  # two units at a time
    for unit, effects in zip(found["unit"], found.attrs["effects"], strict=True):
        neuron = vn.Neuron.parse(unit)
        mask = None if where is None or unit.startswith("P") else batch.mask(where)
        expected = by_hand(model, batch, other, neuron.hook, neuron.index, mask)
        assert torch.allclose(torch.tensor(effects), expected, atol=1e-4), unit
    gap = torch.tensor(found.attrs["clean"]).mean() - torch.tensor(found.attrs["corrupted"]).mean()
    assert found["recovered"].to_numpy() * float(gap) == pytest.approx(found["effect"].to_numpy(), rel=1e-2, abs=1e-5)


@torch.no_grad()
def test_a_group_is_patched_together_and_a_whole_layer_restores_the_clean_run(
    model: HookedVLM, batch: Any, other: Any
) -> None:
    everything = {"all": ["vision_projector.hook_out"], "two": ["L0N3", "P0N2"], "one": ["L0N3"]}
    found = vn.patch_neurons(model, corrupted=other, clean=batch, patching_metric=metric, neurons=everything).set_index(
        "unit"
    )
    assert found.loc["all", "recovered"] == pytest.approx(1, abs=1e-3)  # images differ, nothing else does
    pairs = [*patch("L0N3, P0N2", model.run_with_cache(batch, names_filter=[GATE, PROJECTOR])[1])]
    expected = (metric(model.run_with_hooks(other, fwd_hooks=pairs)) - metric(model(other))).mean()
    assert found.loc["two", "effect"] == pytest.approx(float(expected), abs=1e-4)
    assert list(found["n_neurons"]) == [32, 2, 1], "a whole hook has as many as it is wide"


def test_attribution_is_the_derivative_of_exact_patching(model: HookedVLM, batch: Any, other: Any) -> None:
    """Exact patching by a small step to either side gives the slope."""
    double = HookedVLM(*_double(model))
    units = ["L0N3", "L1N7", "P0N2"]
    for where in (None, "visual"):
        fast = vn.attribute_neurons(
            double, corrupted=other, clean=batch, patching_metric=metric, neurons=units, where=where
        )
        for unit, effects in zip(fast["unit"], fast.attrs["effects"], strict=True):
            neuron = vn.Neuron.parse(unit)
            with torch.no_grad():
                clean, dirty = (
                    double.run_with_cache(b, names_filter=neuron.hook)[1][neuron.hook] for b in (batch, other)
                )
                step, sides = 0.02, []
                for share in (step, -step):
                    values = (dirty + share * (clean - dirty))[..., neuron.index][..., None]
                    hooks = ablate(neuron, to=values, where=where)
                    sides.append(metric(double.run_with_hooks(other, fwd_hooks=hooks)))
                slope = (sides[0] - sides[1]) / (2 * step)
            assert torch.allclose(torch.tensor(effects).double(), slope, rtol=0.03, atol=1e-3), (unit, where)


def _double(model: HookedVLM) -> Any:
    import tiny

    tok = tiny.tokenizer()
    hf = tiny.llava(tok, image_size=14).double()
    return hf, model.processor


@torch.no_grad()
def test_direct_logit_attribution_of_all_neurons_are_the_share_of_their_mlp(model: HookedVLM, batch: Any) -> None:
    hf = model.bridge.original_model
    last = model.n_layers - 1
    _, cache = model.run_with_cache(batch)
    for layer in range(model.n_layers):
        ids = [f"L{layer}N{i}" for i in range(44)]
        found = vn.interventions.direct_logit_attribution(model, batch, ids, token=9, against=12, position=3)
        resid = cache[f"blocks.{last}.hook_resid_post"][:, 3]
        scale = (resid.pow(2).mean(-1, keepdim=True) + model.config.text_config.rms_norm_eps).sqrt()
        out = cache[f"blocks.{layer}.hook_mlp_out"][:, 3] / scale * hf.model.language_model.norm.weight
        expected = out @ (hf.lm_head.weight[9] - hf.lm_head.weight[12])
        assert torch.allclose(found.sum(1), expected, atol=1e-4)
        assert torch.equal(
            found, vn.interventions.direct_logit_attribution(model, batch, {"post": _only(model, layer)}, 9, 12, 3)
        )


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_direct_logit_attribution_count_back_from_the_last_token_of_each_row(model: HookedVLM, side: str) -> None:
    prompts, answers = ["a red circle", "a", "the blue ring is at the top"], ["red", "a circle", "top left"]
    batch = model.prepare([None] * 3, prompts, answers, padding_side=side)
    ids = [f"L1N{i}" for i in range(44)]
    for position in (-1, -2):
        found = vn.interventions.direct_logit_attribution(model, batch, ids, token=9, against=12, position=position)
        alone = [
            vn.interventions.direct_logit_attribution(
                model, model.prepare(None, p, a), ids, token=9, against=12, position=position
            )
            for p, a in zip(prompts, answers, strict=True)
        ]
        assert torch.allclose(found, torch.cat(alone), atol=1e-4)
    with pytest.raises(ValueError, match=r"position=(-1000|1000): row 0 has \d+ tokens, and none there"):
        vn.interventions.direct_logit_attribution(
            model, batch, ids, token=9, position=1000 if side == "left" else -1000
        )


def _only(model: HookedVLM, layer: int) -> Tensor:
    mask = torch.zeros(model.n_layers, 44, dtype=torch.bool)
    mask[layer] = True
    return mask


@torch.no_grad()
def test_the_vocabulary_of_a_neuron_is_what_its_output_weights_raise(model: HookedVLM) -> None:
    hf = model.bridge.original_model
    found = vn.interventions.logit_lens(model, ["L1N4", "post:L1N4-", "P0N3"], k=3)
    column = hf.model.language_model.layers[1].mlp.down_proj.weight[:, 4]
    logits = hf.lm_head.weight @ (column * hf.model.language_model.norm.weight)
    assert found.loc[0, "raised"] == pytest.approx(logits.topk(3).values.tolist(), rel=1e-4)
    assert found.loc[0, "raises"] == found.loc[1, "lowers"] and found.loc[0, "lowers"] == found.loc[1, "raises"]
    assert found.loc[0, "raises"][0] == (
        model.tokenizer.decode([int(logits.argmax())]).strip() or repr(model.tokenizer.decode([int(logits.argmax())]))
    )


@torch.no_grad()
def test_mistakes_are_named(model: HookedVLM, batch: Any) -> None:
    short = model.prepare([None, None, None], "Hi", "A")
    with pytest.raises(ValueError, match="differ in shape or in where images are"):
        vn.patch_neurons(model, corrupted=batch, clean=short, patching_metric=metric, neurons="L0N1")
    with pytest.raises(ValueError, match="one number per row"):
        vn.patch_neurons(
            model, corrupted=batch, clean=batch, patching_metric=lambda logits: logits.sum(), neurons="L0N1"
        )
    with pytest.raises(ValueError, match="does not write to the backbone"):
        vn.interventions.logit_lens(model, "V0N1")
    with pytest.raises(ValueError, match="sites gate and post"):
        vn.interventions.direct_logit_attribution(model, batch, "P0N1", 3)
    with pytest.raises(ValueError, match=r"is \d+ tokens"):
        vn.interventions.direct_logit_attribution(model, batch, "L0N1", "Boxkämpfer and cats")


@torch.no_grad()
def test_rows_and_caches_are_taken_with_their_own_images(model: HookedVLM, batch: Any) -> None:
    logits, cache = model.run_with_cache(batch)
    assert [vn.interventions.images_of_row(batch, r) for r in range(3)] == [[0, 1], [2], []]
    many = vn.interventions.take_rows(batch, [1, 0, 2, 0])
    assert torch.allclose(model(many), logits[[1, 0, 2, 0]], atol=1e-5)
    assert many.image_rows.tolist() == [0, 1, 1, 3, 3] and [p.image for p in many.patches[::4]] == [0, 1, 2, 3, 4]
    for row in range(3):
        alone, own = vn.interventions.take_rows(batch, [row]), vn.interventions.row_cache(cache, batch, row)
        real = batch.attention_mask[row].bool()
        assert own["projector.0.hook_post"].shape[0] == 4 * len(vn.interventions.images_of_row(batch, row))
        assert torch.equal(own["blocks.0.mlp.hook_act"], cache["blocks.0.mlp.hook_act"][row][real])
        assert own["blocks.0.attn.hook_pattern"].shape[1:] == (int(real.sum()),) * 2
        _, single = model.run_with_cache(alone, names_filter=["projector.0.hook_post", "blocks.1.mlp.hook_post"]
                                         if row < 2 else ["blocks.1.mlp.hook_post"])  # fmt: skip
        assert torch.allclose(single["blocks.1.mlp.hook_post"][0][real], own["blocks.1.mlp.hook_post"], atol=1e-5)
        if row < 2:
            both = single["projector.0.hook_post"].flatten(0, 1), own["projector.0.hook_post"]
            assert torch.allclose(*both, atol=1e-5)
    with pytest.raises(IndexError, match="rows 0 to 2"):
        vn.interventions.row_cache(cache, batch, 3)


def test_batches_are_given_by_name_so_that_they_cannot_be_swapped(model, batch, other):
    for function in (vn.patch_neurons, vn.attribute_neurons):
        with pytest.raises(TypeError, match="positional"):
            function(model, batch, other, lambda logits: logits[:, -1].max(-1).values, "L0N1")

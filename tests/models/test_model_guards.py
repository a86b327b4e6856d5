"""Every guard: the wrong number that a bare bridge gives in silence, and what HookedVLM does instead."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from vlm_neurons import HookedVLM
from vlm_neurons.hooks import ablate, record
from vlm_neurons.models import HookNeverFires
from vlm_neurons.models.adapters import adapter_of
from vlm_neurons.models.bridge import extend, wrap

WRONG = 0.05  # differences that count as a wrong number; parity is 1e-5 at worst


@pytest.fixture(scope="module")
def models() -> tuple[HookedVLM, Any]:
    """A HookedVLM, and a bare bridge over the same weights with our hook points but without guards."""
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    bare = wrap(copy.deepcopy(hf), tok, adapter_of(hf.config), "bare")
    extend(bare, adapter_of(hf.config))
    return HookedVLM(hf, tiny.processor(tok)), bare


@pytest.fixture
def batch(models: tuple[HookedVLM, Any]) -> Any:
    return models[0].prepare([[tiny.image(), tiny.image()], tiny.image()], [tiny.PROMPTS[0], "Hi"], padding_side="left")


def inputs(batch: Any) -> dict[str, Tensor]:
    return {"attention_mask": batch.attention_mask, "pixel_values": batch.pixel_values}


def zero(tensor: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(tensor)


def in_place(tensor: Tensor, hook: Any) -> None:
    tensor.mul_(0)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def test_image_tokens_without_pixels_are_refused(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, bare = models
    real = batch.attention_mask.bool()
    true = model(batch)
    wrong = bare(batch.input_ids, attention_mask=batch.attention_mask)  # no error, no image
    assert apart(wrong[real], true[real]) > WRONG
    with pytest.raises(ValueError, match="image tokens, but no pixels"):
        model.bridge(batch.input_ids, attention_mask=batch.attention_mask)
    with pytest.raises(ValueError, match="no pixel_values"):
        model(dataclasses.replace(batch, image_inputs={}))
    with pytest.raises(TypeError, match="a Batch from prepare"):
        model(batch.input_ids)  # type: ignore[arg-type]


@torch.no_grad()
def test_padded_ids_without_mask_are_refused(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, bare = models
    true = model(batch)
    wrong = bare(batch.input_ids, pixel_values=batch.pixel_values)
    row = int(batch.attention_mask.sum(1).argmin())
    assert apart(wrong[row, -1], true[row, -1]) > WRONG
    with pytest.raises(ValueError, match="no attention_mask"):
        model.bridge(batch.input_ids, pixel_values=batch.pixel_values)
    with pytest.raises(ValueError, match="no attention_mask"):  # one row alone, cut from the batch
        model.bridge(model.prepare([None, None], ["Hi", "What colour?"]).input_ids[:1])
    with pytest.raises(ValueError, match="attention_mask does not fit kinds"):
        model(dataclasses.replace(batch, attention_mask=torch.ones_like(batch.attention_mask)))
    # text without padding needs neither
    model.bridge(model.prepare([None, None], "Hi").input_ids)


@torch.no_grad()
def test_a_hook_that_never_fires_is_an_error_that_names_its_neighbours(
    models: tuple[HookedVLM, Any], batch: Any
) -> None:
    model, bare = models
    dead = "vision_projector.hook_projected"
    unhooked = bare.run_with_hooks(batch.input_ids, fwd_hooks=[(dead, zero)], **inputs(batch))
    assert torch.equal(unhooked, bare(batch.input_ids, **inputs(batch)))  # the ablation did nothing, in silence
    with pytest.raises(HookNeverFires, match=r"hook_projected.*vision_projector\.hook_out"):
        model.run_with_hooks(batch, fwd_hooks=[(dead, zero)])
    with pytest.raises(HookNeverFires, match="hook_projected"):
        model.run_with_cache(batch, names_filter=["blocks.0.mlp.hook_act", dead])
    with pytest.raises(HookNeverFires, match="hook_projected"), model.hooks([(dead, zero)]):
        model(batch)
    with pytest.raises(HookNeverFires, match="hook_projected"):
        model.observe(batch, {dead: lambda tensor: None})
    with pytest.raises(HookNeverFires, match="hook_act"):
        model.run_with_hooks(batch, fwd_hooks=[("blocks.1.mlp.hook_act", zero)], stop_at_layer=1)
    with model.hooks([(dead, zero)]):
        pass  # nothing was run: nothing to say


@torch.no_grad()
def test_hooks_that_do_not_exist_are_refused_with_what_does(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, _ = models
    for run in (
        lambda name: model.run_with_hooks(batch, fwd_hooks=[(name, zero)]),
        lambda name: model.run_with_cache(batch, names_filter=name),
        lambda name: model.observe(batch, {name: print}),
        lambda name: model.hooks([(name, zero)]).__enter__(),
    ):
        with pytest.raises(KeyError, match="no layer 9 at site 'gate'; layers 0 to 1"):
            run("blocks.9.mlp.hook_act")
        with pytest.raises(KeyError, match=r"Close: .*blocks\.0\.mlp\.hook_post"):
            run("blocks.0.mlp.hook_pots")
    with pytest.raises(IndexError, match=r"L0N44: .* has 44 neurons, 0 to 43"):
        model.run_with_hooks(batch, fwd_hooks=ablate("L0N44"))
    with pytest.raises(IndexError, match="has 44 neurons"):
        model.run_with_hooks(batch, fwd_hooks=record("L0N99", {}))


@torch.no_grad()
def test_cached_embeddings_are_those_after_the_merge(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, bare = models
    visual = batch.mask("visual")
    _, wrong = bare.run_with_cache(batch.input_ids, **inputs(batch))
    assert apart(wrong["hook_embed"][visual], wrong["blocks.0.hook_in"][visual]) > WRONG
    stack, _ = wrong.decompose_resid(return_labels=True)
    assert apart(stack.sum(0)[visual], wrong["blocks.1.hook_out"][visual]) > WRONG  # the parts do not add up
    _, cache = model.run_with_cache(batch)
    for name in ("hook_embed", "embed.hook_out"):
        assert torch.equal(cache[name], cache["blocks.0.hook_in"])
    stack, _ = cache.decompose_resid(return_labels=True)
    assert apart(stack.sum(0)[visual], cache["blocks.1.hook_out"][visual]) < 1e-4
    _, few = model.run_with_cache(batch, names_filter="hook_embed")
    assert torch.equal(few["hook_embed"], cache["blocks.0.hook_in"])
    assert "blocks.0.hook_in" not in few
    _, cut = model.run_with_cache(batch, names_filter="hook_embed", pos_slice=slice(2, 5))
    assert torch.equal(cut["hook_embed"], cache["blocks.0.hook_in"][:, 2:5])


@torch.no_grad()
def test_an_edit_before_the_merge_warns_that_images_overwrite_it(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, bare = models
    visual = batch.mask("visual")

    def at_images(tensor: Tensor, hook: Any) -> Tensor:
        return torch.where(visual[..., None], 0.0, tensor)

    real = batch.attention_mask.bool()
    wrong = bare.run_with_hooks(batch.input_ids, fwd_hooks=[("hook_embed", at_images)], **inputs(batch))
    assert torch.equal(wrong[real], bare(batch.input_ids, **inputs(batch))[real])  # the edit did nothing
    with pytest.warns(UserWarning, match=r"overwritten at image positions.*blocks\.0\.hook_in"):
        model.run_with_hooks(batch, fwd_hooks=[("hook_embed", at_images)])
    reached = model.run_with_hooks(batch, fwd_hooks=[("blocks.0.hook_in", at_images)])
    assert apart(reached[real], model(batch)[real]) > WRONG


@torch.no_grad()
def test_options_about_rows_and_positions_are_refused_for_image_hooks(
    models: tuple[HookedVLM, Any], batch: Any
) -> None:
    model, bare = models
    hook = "projector.0.hook_post"
    _, wrong = bare.run_with_cache(batch.input_ids, names_filter=hook, pos_slice=slice(0, 5), **inputs(batch))
    assert wrong[hook].shape == (3, 5, 32)  # patches 0..4 of three images, not positions 0..4 of two rows
    with pytest.raises(ValueError, match=r"pos_slice.*batch\.image_rows"):
        model.run_with_cache(batch, names_filter=hook, pos_slice=slice(0, 5))
    with pytest.raises(ValueError, match="pos_slice"):
        model.run_with_cache(batch, pos_slice=slice(0, 5))
    _, rows = model.run_with_cache(batch, names_filter="blocks.0.mlp.hook_act", pos_slice=slice(0, 5))
    assert rows["blocks.0.mlp.hook_act"].shape == (2, 5, 44)
    two = model.prepare([[tiny.image(), tiny.image()]], ["Hi"])
    with pytest.raises(ValueError, match="remove_batch_dim"):
        model.run_with_cache(two, names_filter=hook, remove_batch_dim=True)
    with pytest.raises(ValueError, match="remove_batch_dim"):
        model.run_with_hooks(two, fwd_hooks=record(hook, {}), remove_batch_dim=True)
    one = model.prepare([tiny.image()], ["Hi"])
    _, single = model.run_with_cache(one, names_filter=[hook, "hook_embed"], remove_batch_dim=True)
    assert single[hook].shape == (16, 32) and single["hook_embed"].shape == (one.input_ids.shape[1], 32)


@torch.no_grad()
def test_the_map_from_image_to_row_and_patch_to_position_is_right(models: tuple[HookedVLM, Any], batch: Any) -> None:
    """Projected patch k of image i is what the backbone gets at the position whose patch_index says so."""
    model, _ = models
    _, cache = model.run_with_cache(batch, names_filter=["vision_projector.hook_out", "blocks.0.hook_in"])
    projected, patches = batch.by_patch("vision_projector.hook_out", cache["vision_projector.hook_out"])
    for row, at in batch.mask("visual").nonzero().tolist():
        number = int(batch.patch_index[row, at])
        patch = batch.patches[number]
        assert patches[number] == number and torch.equal(cache["blocks.0.hook_in"][row, at], projected[number])
        columns = batch.grids[patch.image][1]
        first = sum(rows * across for rows, across in batch.grids[: patch.image])
        assert number == first + patch.row * columns + patch.column
        assert int(batch.image_rows[patch.image]) == row


@torch.no_grad()
def test_compatibility_mode_is_refused(batch: Any) -> None:
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    model = HookedVLM(hf, tiny.processor(tok))
    batch = model.prepare([tiny.image()], ["Hi"])
    hook = "blocks.0.mlp.hook_act"
    model.run_with_cache(batch, names_filter=hook)
    model.bridge.enable_compatibility_mode(disable_warnings=True)
    fired: list[Tensor] = []
    keep = (hook, lambda tensor, hook: fired.append(tensor))
    model.bridge.run_with_hooks(batch.input_ids, fwd_hooks=[keep], **inputs(batch))
    assert not fired  # the paper's neuron is gone, in silence
    for run in (
        lambda: model(batch),
        lambda: model.run_with_cache(batch),
        lambda: model.observe(batch, {}),
        lambda: model.generate(batch),
        lambda: model.hooks([]).__enter__(),
        lambda: HookedVLM(model.bridge, model.processor),
    ):
        with pytest.raises(RuntimeError, match="enable_compatibility_mode"):
            run()


@torch.no_grad()
def test_edits_in_vision_layers_that_cannot_matter_warn(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, bare = models
    last, before = "vision.2.mlp.hook_post", "vision.1.mlp.hook_post"
    unhooked = bare(batch.input_ids, **inputs(batch))
    wrong = bare.run_with_hooks(batch.input_ids, fwd_hooks=[(last, zero)], **inputs(batch))
    assert torch.equal(unhooked, wrong)  # "this layer does nothing" would be the wrong conclusion
    with pytest.warns(UserWarning, match="cannot change the logits"):
        model.run_with_hooks(batch, fwd_hooks=[(last, zero)])
    with pytest.warns(UserWarning, match="cannot change the logits"):
        model.run_with_hooks(batch, fwd_hooks=[(last, in_place)])
    with pytest.warns(UserWarning, match="cannot change the logits"):
        model.run_with_hooks(batch, fwd_hooks=ablate("V2N1"))
    real = batch.attention_mask.bool()
    assert apart(model.run_with_hooks(batch, fwd_hooks=[(before, zero)])[real], model(batch)[real]) > WRONG
    model.run_with_hooks(batch, fwd_hooks=record("V2N1", {}))  # reading it is no mistake


@torch.no_grad()
def test_bound_tokens_have_to_fit_the_batch(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, _ = models
    bound = model.bind(batch)
    for tokens in (batch.input_ids[:1], batch.input_ids[:, 1:], batch.input_ids.flip(1)):
        with pytest.raises(ValueError, match="do not fit the bound batch"):
            bound(tokens)
    with pytest.raises(TypeError, match="tokens are a tensor"):
        bound("some text")


@torch.no_grad()
def test_what_is_recorded_survives_a_later_edit_in_place(models: tuple[HookedVLM, Any], batch: Any) -> None:
    model, bare = models
    hook = "blocks.0.mlp.hook_post"
    _, clean = model.run_with_cache(batch, names_filter=hook)

    def spoil(tensor: Tensor, hook: Any) -> None:
        tensor.mul_(0)

    kept: dict[str, Tensor] = {}
    bare.run_with_hooks(
        batch.input_ids, fwd_hooks=[(hook, lambda t, hook: kept.update(x=t.detach())), (hook, spoil)], **inputs(batch)
    )
    assert float(kept["x"].abs().max()) == 0  # detached, not copied: the recording is gone
    into: dict[str, Tensor] = {}
    model.run_with_hooks(batch, fwd_hooks=[*record(hook, into), (hook, spoil)])
    assert torch.equal(into[hook], clean[hook])


def test_image_hooks_on_a_batch_without_images_are_no_error(models: tuple[HookedVLM, Any]) -> None:
    model, _ = models
    batch = model.prepare([None, None], ["Hi", "What colour is the train?"])
    seen: list[str] = []
    model.observe(
        batch,
        {"projector.0.hook_post": lambda t: seen.append("p"), "blocks.0.mlp.hook_act": lambda t: seen.append("g")},
    )
    assert seen == ["g"]
    model.run_with_hooks(batch, fwd_hooks=ablate("P0N1"))
    with model.hooks(ablate("P0N1")):
        model.generate(batch, max_new_tokens=2)

"""scale, patch, add_direction, ablate to mean and resample: equal to edits by hand, to 0, on random LLaVAs and on the
embedded one; neurons as masks and table rows; positions by name, padding, several images, generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from torch import Tensor

from vlm_neurons import HookedVLM, Neuron, zoo
from vlm_neurons.hooks import ablate, add_direction, patch, record, scale

GATE, POST, PROJECTOR, VISION = (
    "blocks.1.mlp.hook_act",
    "blocks.0.mlp.hook_post",
    "projector.0.hook_post",
    "vision.1.mlp.hook_post",
)
SITES = (GATE, POST, PROJECTOR, VISION, "blocks.1.hook_resid_pre")


# the side of the padding and where the weights come from are independent of each other
@pytest.fixture(scope="module", params=["random-left", "random-right", "embedded-left"])
def held(request: Any) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(held: str) -> HookedVLM:
    if held.startswith("embedded"):
        if zoo.path("tiny-llava-scenes") is None:
            pytest.skip("no embedded model")
        return HookedVLM.from_pretrained("tiny-llava-scenes")
    tok = tiny.tokenizer()
    return HookedVLM(tiny.llava(tok), tiny.processor(tok))


@pytest.fixture(scope="module")
def batch(model: HookedVLM, held: str) -> Any:
    """Two images, one, none; three lengths."""
    images = [[tiny.image(), tiny.image()], tiny.image(), None]
    return model.prepare(images, ["a red circle", "a", "the blue ring is at the top"], ["red", "a circle", "top left"],
                         padding_side=held.rpartition("-")[2])  # fmt: skip


def sites(model: HookedVLM) -> list[str]:
    return [s for s in SITES if s != VISION or model.first_dead_layer > 1]


def as_it_was(model: HookedVLM, batch: Any, hook: str) -> Tensor:
    return model.run_with_cache(batch, names_filter=hook)[1][hook]


def by_hand(model: HookedVLM, batch: Any, hook: str, new: Tensor) -> Tensor:
    """Logits with a tensor put in the place of an activation."""
    return model.run_with_hooks(batch, fwd_hooks=[(hook, lambda tensor, hook: new)])


def coordinates(tensor: Tensor, n: int = 5) -> list[int]:
    return torch.randperm(tensor.shape[-1])[:n].tolist()


def on_patches(batch: Any, where: Tensor, tensor: Tensor) -> Tensor:
    """A mask over positions as one over [image, patch], patch by patch."""
    found = torch.zeros(tensor.shape[:2], dtype=torch.bool)
    for row, at in where.nonzero().tolist():
        if (k := int(batch.patch_index[row, at])) >= 0:
            p = batch.patches[k]
            skipped = tensor.shape[1] - batch.grids[p.image][0] * batch.grids[p.image][1]
            found[p.image, skipped + p.row * batch.grids[p.image][1] + p.column] = True
    return found


@torch.no_grad()
def test_every_edit_equals_the_edit_by_hand_at_every_site_and_position_kind(model: HookedVLM, batch: Any) -> None:
    real = batch.attention_mask.bool()
    for hook in sites(model):
        old = as_it_was(model, batch, hook)
        i = coordinates(old)
        neurons = [Neuron(hook, j) for j in i]
        source, factors, direction = torch.randn_like(old), torch.randn(5), torch.randn(old.shape[-1])
        for where in (None, "visual", ("visual", "text"), batch.mask("visual") & (torch.rand(real.shape) < 0.5)):
            mask = torch.ones_like(real) if where is None else where
            if isinstance(where, str | tuple):
                kinds = (where,) if isinstance(where, str) else where
                mask = torch.stack([batch.mask(k) for k in kinds]).any(0)
            if hook.startswith(("vision", "projector")):
                everywhere = torch.ones(old.shape[:2], dtype=torch.bool)
                mask = everywhere if where is None else on_patches(batch, mask, old)
            # the mean is over patches and tokens: not over class tokens and padding
            patches = hook.startswith(("vision", "projector"))
            counted = mask & (on_patches(batch, batch.mask("visual"), old) if patches else real)
            m = mask[..., None]
            scaled, patched, mean = old.clone(), old.clone(), old.clone()
            scaled[..., i] = torch.where(m, old[..., i] * factors, old[..., i])
            patched[..., i] = torch.where(m, source[..., i], old[..., i])
            mean[..., i] = torch.where(counted[..., None], old[counted][:, i].mean(0), old[..., i])
            cases = [
                (scale(neurons, factors, where), scaled),
                (patch(neurons, {hook: source}, where), patched),
                (ablate(neurons, "mean", where), mean),
                (ablate(hook, 0.25, where), torch.where(m, torch.tensor(0.25), old)),
                (add_direction(hook, direction, 0.5, where), torch.where(m, old + 0.5 * direction, old)),
                (add_direction(hook, direction.numpy(), 1.0, where), torch.where(m, old + direction, old)),
            ]
            for pairs, new in cases:
                into: dict[str, Tensor] = {}
                logits = model.run_with_hooks(batch, fwd_hooks=[*pairs, *record(hook, into)])
                assert torch.equal(into[hook], new), (hook, where)
                assert torch.equal(logits[real], by_hand(model, batch, hook, new)[real]), (hook, where)


@torch.no_grad()
def test_edits_of_a_neuron_equal_edits_of_its_weights(model: HookedVLM, batch: Any) -> None:
    """Removing, doubling and negating a gate neuron are exact edits of its column of down_proj."""
    weight = model.bridge.original_model.model.language_model.layers[1].mlp.down_proj.weight
    clean, kept = model(batch), weight.data.clone()
    for factor, pairs in ((0.0, ablate("L1N3")), (2.0, scale("L1N3", 2.0)), (-1.0, scale("L1N3", -1.0))):
        weight.data[:, 3] *= factor
        edited = model(batch)
        weight.data.copy_(kept)
        assert torch.equal(model.run_with_hooks(batch, fwd_hooks=pairs), edited)
    assert torch.equal(model(batch), clean)


@torch.no_grad()
def test_resampling_puts_the_values_of_other_selected_positions_together(model: HookedVLM, batch: Any) -> None:
    neurons = [Neuron(GATE, 1), Neuron(GATE, 4)]
    old = as_it_was(model, batch, GATE)
    for where in (None, "visual"):
        mask = batch.attention_mask.bool() if where is None else batch.mask(where)
        into: dict[str, Tensor] = {}
        model.run_with_hooks(batch, fwd_hooks=[*ablate(neurons, "resample", where, seed=3), *record(GATE, into)])
        new = into[GATE]
        pairs = [sorted(map(tuple, t[mask][:, [1, 4]].tolist())) for t in (old, new)]
        assert pairs[0] == pairs[1] and not torch.equal(old, new)
        new[..., [1, 4]] = torch.where(mask[..., None], old[..., [1, 4]], new[..., [1, 4]])
        assert torch.equal(new, old), "padding, other positions and other neurons stay"


@torch.no_grad()
def test_ids_masks_table_rows_and_neurons_select_the_same(model: HookedVLM, batch: Any) -> None:
    d = as_it_was(model, batch, GATE).shape[-1]
    mask = torch.rand(model.n_layers, d) < 0.1
    mask[0, 0] = True
    ids = [f"L{layer}N{i}" for layer, i in mask.nonzero().tolist()]
    table = pd.DataFrame({"neuron": ids, "label": "visual", "pole": "+"})
    expected = model.run_with_hooks(batch, fwd_hooks=ablate(ids))
    forms: list[Any] = [", ".join(ids), [Neuron.parse(i) for i in ids], mask, mask.numpy(), {"gate": mask}, table]
    forms += [table["neuron"], np.array(ids), list(table.itertuples()), [table.iloc[i] for i in range(len(table))]]
    for same in forms:
        assert torch.equal(model.run_with_hooks(batch, fwd_hooks=ablate(same)), expected)
    width = as_it_was(model, batch, PROJECTOR).shape[-1]
    some = torch.rand(width) < 0.5
    assert torch.equal(
        model.run_with_hooks(batch, fwd_hooks=scale({"projector": some}, 0.5)),
        model.run_with_hooks(batch, fwd_hooks=scale([f"P0N{i}" for i in some.nonzero().flatten().tolist()], 0.5)),
    )


@torch.no_grad()
def test_edits_compose_in_order_with_each_other_and_with_any_hook(model: HookedVLM, batch: Any) -> None:
    """On HookedVLM and, by tensors, on its bare bridge."""
    visual = batch.mask("visual")
    own = (GATE, lambda tensor, hook: tensor + 1)
    old = as_it_was(model, batch, GATE)
    new = old.clone()
    new[..., 2] = torch.where(visual, 3.0, old[..., 2])
    new = new + 1
    new[..., 2] *= 2
    into: dict[str, Tensor] = {}
    pairs = [*ablate("L1N2", 3.0, where=visual), own, *scale("L1N2", 2.0), *record(GATE, into)]
    logits = model.run_with_hooks(batch, fwd_hooks=pairs)
    assert torch.equal(into[GATE], new) and torch.equal(logits, by_hand(model, batch, GATE, new))
    inputs = {"attention_mask": batch.attention_mask, "pixel_values": batch.pixel_values, "use_cache": False}
    assert torch.equal(model.bridge.run_with_hooks(batch.input_ids, fwd_hooks=pairs, **inputs), logits)
    named = [*ablate("L1N2", 3.0, where="visual"), own, *scale("L1N2", 2.0)]
    with model.hooks(named):
        assert torch.equal(model(batch), logits)
    assert torch.equal(model.bind(batch).run_with_hooks(batch.input_ids, fwd_hooks=named), logits)


@torch.no_grad()
def test_recording_changes_nothing_and_patching_back_restores(model: HookedVLM, batch: Any) -> None:
    clean, into = model(batch), {}
    keys = ["L1N2", "post:L0N3-", "P0N1", *sites(model)]
    assert torch.equal(model.run_with_hooks(batch, fwd_hooks=record(keys, into)), clean)
    broken = ablate("L1N2, post:L0N3, P0N1", to=9.0)
    assert not torch.equal(model.run_with_hooks(batch, fwd_hooks=broken), clean)
    restored = [*broken, *patch(["L1N2", "post:L0N3-", "P0N1"], {k: into[k] for k in keys[:3]})]
    assert torch.equal(model.run_with_hooks(batch, fwd_hooks=restored), clean)


@torch.no_grad()
def test_while_generating_kinds_hold_for_new_tokens_and_sources_are_the_prompt(model: HookedVLM) -> None:
    prompts = ["a red circle", "What is the shape of the blue ring?"]
    batch = model.prepare([tiny.image(), None], prompts)
    n = batch.input_ids.shape[1]

    def passes(pairs: Any) -> list[Tensor]:
        into: dict[str, Any] = {}
        with model.hooks([*pairs, *record("L0N3", into, append=True)]):
            model.generate_tokens(batch, max_new_tokens=3)
        assert into["L0N3"][0].shape[1] == n and len(into["L0N3"]) > 1 and into["L0N3"][1].shape == (2, 1)
        return into["L0N3"]

    prompt, *steps = passes(ablate("L0N3", 7.0, where="visual"))
    assert torch.equal(prompt == 7, batch.mask("visual")) and not any(bool((s == 7).any()) for s in steps)
    prompt, *steps = passes(ablate("L0N3", 7.0, where="text"))
    assert not bool((prompt == 7).any()) and all(bool((s == 7).all()) for s in steps)
    prompt, *steps = passes(patch("L0N3", {"L0N3": torch.full((2, n), 7.0)}))
    assert bool((prompt == 7).all()) and not any(bool((s == 7).any()) for s in steps)
    prompt, *steps = passes(ablate("L0N3", "mean", where=("visual", "template")))
    assert not any(bool((s == prompt[0, -1]).any()) for s in steps)
    assert len(prompt[batch.attention_mask.bool()].unique()) == 1


@torch.no_grad()
def test_the_mean_of_a_token_that_is_generated_alone_is_refused_and_of_patches_it_holds(
    model: HookedVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a random model may end at once, and then no token is generated alone
    monkeypatch.setattr(model.bridge.original_model.generation_config, "eos_token_id", None)
    batch = model.prepare(tiny.image(), "a red circle")
    plain = model.generate_tokens(batch, max_new_tokens=3)
    for to in ("mean", "resample"):
        for where in (None, "text", ("text", "template")):
            with (
                pytest.raises(ValueError, match=f"to='{to}' while generating: .*'visual'"),
                model.hooks(ablate(POST, to=to, where=where)),
            ):
                model.generate_tokens(batch, max_new_tokens=3)
        with model.hooks(ablate(POST, to=to, where="visual")):
            assert model.generate_tokens(batch, max_new_tokens=3).shape[0] == len(plain)


def test_generating_with_an_edit_equals_running_it_without_a_cache(model: HookedVLM) -> None:
    batch = model.prepare([tiny.image(), tiny.image()], ["What is the shape?", "a"])
    pairs = [*scale("blocks.0.mlp.hook_act", 3.0, where=("visual", "text")), *ablate("P0N1")]
    with model.hooks(pairs):
        new = model.generate_tokens(batch, max_new_tokens=3)
    ids, mask = batch.input_ids, batch.attention_mask
    edit = batch.mask("visual")
    for step in range(new.shape[1]):
        inputs = {"attention_mask": mask, "pixel_values": batch.pixel_values, "use_cache": False}
        by_mask = [*scale("blocks.0.mlp.hook_act", 3.0, where=edit), *ablate("P0N1")]
        logits = model.bridge.run_with_hooks(ids, fwd_hooks=by_mask, **inputs)[:, -1]
        done = (new[:, :step] == model.tokenizer.eos_token_id).any(1)
        assert torch.equal(logits.argmax(-1)[~done], new[~done, step])
        ids, mask = torch.cat([ids, new[:, step : step + 1]], 1), torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        edit = torch.cat([edit, torch.ones_like(edit[:, :1])], 1)


@torch.no_grad()
def test_mistakes_name_what_there_is(model: HookedVLM, batch: Any) -> None:
    inputs = {"attention_mask": batch.attention_mask, "pixel_values": batch.pixel_values}
    last = model.n_layers - 1
    with pytest.raises(ValueError, match="only calls of HookedVLM do"):
        model.bridge.run_with_hooks(batch.input_ids, fwd_hooks=ablate("L0N1", where="visual"), **inputs)
    with pytest.raises(ValueError, match=r"choose from .*visual"):
        model.run_with_hooks(batch, fwd_hooks=ablate("L0N1", where="pictures"))
    with pytest.raises(TypeError, match="bool tensor"):
        model.run_with_hooks(batch, fwd_hooks=scale("L0N1", 2.0, where=batch.kinds))
    with pytest.raises(KeyError, match=f"layers 0 to {last}"):
        model.run_with_hooks(batch, fwd_hooks=scale("L77N1", 2.0))
    with pytest.raises(IndexError, match="neurons, 0 to"):
        model.run_with_hooks(batch, fwd_hooks=scale("P0N9999", 2.0))
    with pytest.raises(ValueError, match="both runs need the same"):
        model.run_with_hooks(batch, fwd_hooks=patch("L0N1", {"L0N1": torch.zeros(3, 2)}))
    with pytest.raises(ValueError, match="the direction 3"):
        model.run_with_hooks(batch, fwd_hooks=add_direction("blocks.0.hook_resid_pre", torch.ones(3)))
    for hook in (["L0N1", "L0N2"], [], None, Neuron.parse("L0N1")):
        with pytest.raises(TypeError, match=r"hook=.*: give the name of one hook, such as .*; for neurons use scale"):
            add_direction(hook, torch.ones(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the direction is the number 2.0: give a tensor \[d\]"):
        add_direction("blocks.0.hook_resid_pre", torch.tensor(2.0))
    with pytest.raises(KeyError, match="cache or record them"):
        patch("L0N1", {})
    with pytest.raises(ValueError, match="'mean' or 'resample'"):
        ablate("L0N1", to="median")
    with pytest.raises(ValueError, match="2 values in its last dimension for 1"):
        scale("L0N1", torch.ones(2))
    with pytest.raises(ValueError, match=r"has the shape \[layer, neuron\]"):
        ablate(torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="a mask of neurons is bool"):
        ablate(torch.ones(3, 4))

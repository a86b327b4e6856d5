"""Bridge, fused forward pass and transformers agree, at the logits and at every site; and so do their edits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import builders
import pytest
import tiny
import torch
from torch import Tensor

from vlm_neurons.hooks import ablate
from vlm_neurons.models import Batch
from vlm_neurons.models.adapters import along, module_at
from vlm_neurons.models.guards import cannot_matter

SAME = 1e-4  # of the largest value: other orders of summation


def pictures() -> list[Any]:
    """For rows with two images, none and one."""
    return [[tiny.image(70, 41), tiny.image(35, 60)], [], [tiny.image(64, 100)]]


def padded(family: builders.Made, side: Any) -> Batch:
    batch = family.model.prepare(pictures(), tiny.PROMPTS, tiny.RESPONSES, padding_side=side)
    assert not bool(batch.attention_mask.all())
    return batch


def raw(model: Any, batch: Batch) -> Tensor:
    """Logits by transformers alone."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.model_inputs}
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def places(family: builders.Made) -> dict[str, tuple[Any, bool]]:
    """Hook -> the module of transformers that holds it, and whether as its output; but for neurons of experts."""
    found = {}
    for site, (_, path, is_output) in family.model.adapter.sites.items():
        hooks = [hook for hook in family.model.site_hooks(site) if ".experts." not in hook]
        for hook, (_, place) in zip(hooks, along(family.reference, path), strict=True):
            found[hook] = module_at(family.reference, place), is_output
    return found


def experts_of(model: Any) -> dict[int, Any]:
    """The mixtures of experts of a backbone by layer, as transformers has them."""
    found = {}
    for i, layer in enumerate(model.get_decoder().layers):
        for name, module in layer.named_modules():
            if name.split(".")[-1] == "experts":
                found[i] = module
    return found


def routed(layer: int, experts: Any, shape: Any, read: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """The neurons of every expert from what a mixture reads, by its weights: NaN where it was not chosen."""
    found = {}
    for e, (gates_and_ups, mine) in enumerate(
        zip(experts.gate_up_proj, (chosen == k for k in range(99)), strict=False)
    ):
        gate, up = (read @ gates_and_ups.T).chunk(2, -1)
        absent = ~mine.any(-1, keepdim=True)
        for name, values in (("hook_act", experts.act_fn(gate)), ("hook_post", experts.act_fn(gate) * up)):
            found[f"blocks.{layer}.mlp.experts.{e}.{name}"] = values.masked_fill(absent, torch.nan).view(*shape, -1)
    return found


def raw_sites(family: builders.Made, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and every site by plain forward hooks on transformers' modules."""
    found: dict[str, Tensor] = {}

    def keep(hook: str, is_output: bool) -> Callable[..., None]:
        def fn(module: Any, args: Any, output: Any) -> None:
            found[hook] = (output if is_output else args[0]).detach().clone()

        return fn

    def keep_routed(layer: int) -> Callable[..., None]:
        def fn(module: Any, args: Any) -> None:
            found.update(routed(layer, module, batch.input_ids.shape, *args[:2]))

        return fn

    handles = [m.register_forward_hook(keep(hook, out)) for hook, (m, out) in places(family).items()]
    handles += [m.register_forward_pre_hook(keep_routed(i)) for i, m in experts_of(family.reference).items()]
    try:
        return raw(family.reference, batch), found
    finally:
        for handle in handles:
            handle.remove()


def off(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value; NaN has to be at the same places."""
    if not torch.equal(a.isnan(), b.isnan()):
        return torch.inf
    a, b = a.nan_to_num(), b.nan_to_num()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-9))


def all_sites(family: builders.Made) -> list[str]:
    return [hook for site in family.model.adapter.sites for hook in family.model.site_hooks(site)]


def by_rows(hook: str) -> bool:
    return hook.startswith("blocks")


def test_without_padding_logits_and_sites_are_transformers_own(family: builders.Made):
    batch = family.model.prepare([pictures()[0]] * 2, tiny.PROMPTS[0], tiny.RESPONSES[0])
    assert bool(batch.attention_mask.all())
    with torch.no_grad():
        logits, cache = family.model.run_with_cache(batch, names_filter=all_sites(family))
    expected, sites = raw_sites(family, batch)
    assert off(logits, expected) <= family.rounding
    assert set(sites) == set(all_sites(family))
    for hook, value in sites.items():
        assert off(cache[hook], value) <= family.rounding, hook


@pytest.mark.parametrize("side", ["left", "right"])
def test_with_padding_logits_and_sites_are_transformers_own(family: builders.Made, side: str):
    batch = padded(family, side)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        logits, cache = family.model.run_with_cache(batch, names_filter=all_sites(family))
    expected, sites = raw_sites(family, batch)
    assert off(logits[real], expected[real]) <= SAME
    for hook, value in sites.items():
        mine = cache[hook][real] if by_rows(hook) else cache[hook]
        assert off(mine, value[real] if by_rows(hook) else value) <= SAME, hook


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_is_the_same_beside_others_and_alone(family: builders.Made, side: str):
    batch = padded(family, side)
    with torch.no_grad():
        together = family.model(batch)
        for row in range(len(batch)):
            mine = [im for im, r in zip(batch.images, batch.image_rows.tolist(), strict=True) if r == row]
            alone = family.model.prepare([mine], tiny.PROMPTS[row], tiny.RESPONSES[row])
            assert off(together[row][batch.attention_mask[row].bool()], family.model(alone)[0]) <= SAME


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_fused_forward_pass_sees_the_same(family: builders.Made, side: str):
    batch = padded(family, side)
    real = batch.attention_mask.bool()
    hooks = sorted(set(all_sites(family)) & family.model.fast_hooks)
    assert hooks == sorted(all_sites(family))
    seen = observed(family, batch, hooks)
    with torch.no_grad():
        _, cache = family.model.run_with_cache(batch, names_filter=hooks)
    for hook in hooks:
        both = [t[real] if by_rows(hook) else t for t in (seen[hook], cache[hook])]
        assert off(*both) <= SAME, hook


def test_a_pass_that_need_not_go_to_the_end_sees_the_same(family: builders.Made):
    batch, every = padded(family, "right"), all_sites(family)
    early = [hook for hook in every if not by_rows(hook)]
    first = [hook for hook in every if hook.startswith("blocks.0.")]
    whole = observed(family, batch, every)
    for chosen in (early, [*early, *first], first):
        for hook, value in observed(family, batch, chosen).items():
            assert torch.equal(value.nan_to_num(), whole[hook].nan_to_num()), hook


def observed(family: builders.Made, batch: Batch, hooks: list[str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    family.model.observe(batch, {h: (lambda t, h=h: seen.__setitem__(h, t.clone())) for h in hooks}, fast=True)
    assert seen.keys() == set(hooks)
    return seen


def test_an_edit_is_the_weight_edit_and_has_an_effect(family: builders.Made):
    batch = padded(family, "left")
    real = batch.attention_mask.bool()
    with torch.no_grad():
        untouched = family.model(batch)[real]
    for site, (mlps, _, _) in family.model.adapter.sites.items():
        hook, (_, path) = family.model.site_hooks(site)[0], next(along(family.reference, mlps.out))
        edited = copy.deepcopy(family.reference)
        weight = dict(module_at(edited, path).named_parameters())
        with torch.no_grad():
            next(value for name, value in weight.items() if name.endswith("weight"))[:, :6] = 0
            logits = family.model.run_with_hooks(batch, fwd_hooks=ablate([f"{hook}:{k}" for k in range(6)]))[real]
        assert off(logits, raw(edited, batch)[real]) <= SAME, site
        assert off(logits, untouched) > 10 * off(logits, raw(edited, batch)[real]), site


def test_an_edit_of_an_expert_is_the_weight_edit_and_has_an_effect(family: builders.Made):
    batch = padded(family, "left")
    real = batch.attention_mask.bool()
    with torch.no_grad():
        untouched = family.model(batch)[real]
    for layer in experts_of(family.reference):
        edited = copy.deepcopy(family.reference)
        with torch.no_grad():
            experts_of(edited)[layer].down_proj[1, :, :6] = 0
            ids = [f"post:L{layer}E1N{k}" for k in range(6)]
            logits = family.model.run_with_hooks(batch, fwd_hooks=ablate(ids))[real]
        assert off(logits, raw(edited, batch)[real]) <= SAME, layer
        assert off(logits, untouched) > 10 * off(logits, raw(edited, batch)[real]), layer


def test_only_what_cannot_change_the_logits_is_said_to(family: builders.Made):
    table = family.model.hook_map()
    said = table[[cannot_matter(hook, family.model.first_dead_layer) for hook in table["hook"]]]
    assert not said["affects_logits"].any()


def test_hooks_see_the_whole_prompt_in_every_layer_while_the_model_writes(family: builders.Made):
    batch = family.model.prepare([[tiny.image(70, 41)], []], ["What is it?", "Hi"], padding_side="left")
    seen: dict[str, list[int]] = {}

    def look(tensor: torch.Tensor, hook: Any) -> None:
        seen.setdefault(hook.name, []).append(tensor.shape[1])

    names = family.model.site_hooks("gate")
    plain = family.model.generate_tokens(batch, 3)
    with family.model.hooks(fwd_hooks=[(name, look) for name in names]):
        assert torch.equal(family.model.generate_tokens(batch, 3), plain)
    passes = [batch.input_ids.shape[1]] + [1] * (plain.shape[1] - 1)
    assert list(seen.values()) == [passes] * len(names)

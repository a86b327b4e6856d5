"""The quick forward pass of a scan sees the bridge's neurons, follows its weights, and stands aside where it must."""

from __future__ import annotations

import copy

import brute_force as brute
import pytest
import tiny
import torch
from scanning.test_end_to_end import batches_of, random_data

from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import scan

HEADS = ["attn.hook_products", "attn.hook_z"]
FOUR = ["gate", "post", "projector", "vision"]
# what transformers' own layers hold of the residual stream, by all names that TransformerLens has for it
RESIDUAL = [
    "hook_resid_pre", "hook_in", "hook_resid_mid", "ln2.hook_in", "hook_resid_post", "hook_out", "hook_attn_out",
    "attn.hook_out", "hook_mlp_out", "mlp.hook_out", "mlp.hook_in",
]  # fmt: skip


def make(tower="clip", backbone="llama"):
    processor = tiny.processor(tower=tower)
    return HookedVLM(tiny.llava(processor.tokenizer, tower=tower, backbone=backbone), processor)


def seen(model, batch, hooks, fast):
    found = {}
    model.observe(batch, {h: lambda a, h=h: found.__setitem__(h, a.clone()) for h in hooks}, fast=fast)
    return found


def batch_of(model, n=3):
    data = random_data(n)
    samples = [(s.load_images(), s.prompt or "Hi", s.response) for s in data]
    samples.append(([tiny.image()], "Which?", "a cat"))
    return model.prepare(*map(list, zip(*samples, strict=True)))


def assert_alike(model, batch, a, b):
    for hook in a:
        x, y = a[hook], b[hook]
        if not hook.startswith(("vision", "projector")) and not hook.endswith("products"):
            x, y = (t[batch.attention_mask.bool()] for t in (x, y))
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tower", "backbone"), [("clip", "llama"), ("siglip", "qwen2"), ("clip", "mistral")])
def test_every_site_is_that_of_the_bridge_but_for_last_digits(tower, backbone):
    model = make(tower, backbone)
    hooks = [h for site in FOUR for h in model.site_hooks(site)]
    hooks += [f"blocks.{layer}.{hook}" for layer in range(model.n_layers) for hook in RESIDUAL + HEADS]
    assert set(hooks) == model.fast_hooks
    batch = batch_of(model)
    assert_alike(model, batch, seen(model, batch, hooks, True), seen(model, batch, hooks, False))
    left = model.prepare([tiny.image(), tiny.image()], ["Hi", "What colour is the train?"], padding_side="left")
    assert_alike(model, left, seen(model, left, hooks, True), seen(model, left, hooks, False))


def test_it_takes_no_memory_and_follows_edited_and_replaced_weights():
    model = make()
    twin = model._twin.model
    assert {p.data_ptr() for p in twin.parameters()} == {p.data_ptr() for p in model.bridge.original_model.parameters()}
    batch, hooks = batch_of(model), model.site_hooks("gate")
    before = seen(model, batch, hooks, True)
    down = model.bridge.blocks[0].mlp.out.original_component
    with torch.no_grad():
        down.weight.mul_(1.5)  # in place
    edited = seen(model, batch, hooks, True)
    assert not torch.equal(edited[hooks[1]], before[hooks[1]])
    down.weight = torch.nn.Parameter(down.weight / 1.5)  # another tensor
    assert_alike(model, batch, seen(model, batch, hooks, True), before)
    model.bridge.original_model.to(torch.bfloat16)
    assert seen(model, batch, hooks, True)[hooks[0]].dtype == torch.bfloat16


def test_with_hooks_or_a_bridge_of_the_users_the_scan_runs_on_the_bridge(tmp_path):
    model, data = make(), random_data(5)
    plain = scan(model, data, "gate", out=tmp_path / "plain", progress=False)
    assert plain.info["model"]["forward"] == "transformers, fused attention"

    def silence(tensor, hook):
        return tensor * 0

    with model.hooks(fwd_hooks=[("blocks.0.hook_in", silence)]):
        assert not model.fast_hooks
        ablated = scan(model, data, "gate", out=tmp_path / "ablated", progress=False)
    assert ablated.info["model"]["forward"] == "bridge"
    assert (ablated.top("blocks.0.mlp.hook_act").peak == 0).all()
    assert model.fast_hooks
    assert not HookedVLM(model.bridge, model.processor).fast_hooks
    with pytest.raises(KeyError, match="hook_scale"):
        model.observe(batch_of(model), {"blocks.0.ln1.hook_scale": print}, fast=True)
    for hook, forward in (("ln1.hook_out", "bridge"), ("hook_mlp_out", "transformers, fused attention")):
        run = scan(model, data, f"blocks.0.{hook}", out=tmp_path / hook, progress=False)
        assert run.info["model"]["forward"] == forward


def test_a_hook_or_module_that_comes_between_two_batches_ends_the_quick_way():
    model = make()
    batch, hooks = batch_of(model), {"blocks.0.mlp.hook_act": lambda acts: None}
    layer = model.bridge.blocks[1]
    norm, kept = layer.ln1, []
    inner, other = norm.original_component, copy.deepcopy(norm.original_component)

    def swap(old, new):
        for module in [*model.bridge.modules()]:
            module._modules.update({name: new for name, child in module._modules.items() if child is old})

    for come, go in (
        (lambda: kept.append(norm.register_forward_hook(lambda *given: None)), lambda: kept.pop().remove()),
        (lambda: kept.append(norm.register_forward_pre_hook(lambda *given: None)), lambda: kept.pop().remove()),
        (lambda: layer.add_module("more", torch.nn.Identity()), lambda: layer._modules.pop("more")),
        (lambda: swap(inner, other), lambda: swap(other, inner)),
        (lambda: norm.__dict__.update(_forward_hooks={0: print}), lambda: norm.__dict__.update(_forward_hooks={})),
        (lambda: layer.mlp.hook_out.add_hook(lambda acts, hook: acts * 0), lambda: model.bridge.reset_hooks()),
    ):
        model.observe(batch, hooks, fast=True)
        come()
        with pytest.raises(KeyError, match="fast=True cannot observe"):
            model.observe(batch, hooks, fast=True)
        go()
        model.observe(batch, hooks, fast=True)


def test_the_quick_way_is_taken_where_it_serves_all_hooks_if_it_is_left_to_the_model():
    model, place = make(), "blocks.0.mlp.hook_act"
    batch = batch_of(model)

    def seen(more, **how):
        acts = []
        model.observe(batch, {place: lambda t: acts.append(t.clone()), **{name: print for name in more}}, **how)
        return acts[0]

    quick, slow = seen([], fast=True), seen([], fast=False)
    assert not torch.equal(quick, slow)  # other digits
    silent = "blocks.0.ln1.hook_scale"  # of the bridge alone
    assert torch.equal(seen([], fast=None), quick) and torch.equal(seen([silent], fast=None), slow)
    with model.hooks(fwd_hooks=[("blocks.1.hook_in", lambda t, hook: None)]):
        assert torch.equal(seen([], fast=None), slow)
    over = HookedVLM(model.bridge, model.processor)
    over.observe(batch_of(over), {}, fast=None)
    with pytest.raises(KeyError, match="no_such_hook"):
        model.observe(batch, {"no_such_hook": print}, fast=None)


def test_a_hook_function_may_run_the_model_further_than_its_own_pass_goes():
    model = make()
    batch, seen = batch_of(model), []

    def deeper(acts):
        if not seen:
            seen.append("outer")
            model.observe(batch, {"blocks.1.mlp.hook_act": lambda inner: seen.append("inner")}, fast=True)

    model.observe(batch, {"blocks.0.mlp.hook_act": deeper}, fast=True)
    assert seen == ["outer", "inner"]


def test_layers_behind_the_last_that_is_looked_at_are_not_run():
    model = make()
    batch, run = batch_of(model), []
    layers = [model._twin.points[f"blocks.{i}.hook_in"][0] for i in range(model.n_layers)]
    handles = [layer.register_forward_hook(lambda *given, i=i: run.append(i)) for i, layer in enumerate(layers)]

    def run_for(*hooks):
        run.clear()
        model.observe(batch, {hook: lambda acts: None for hook in hooks}, fast=True)
        return run

    last = model.n_layers - 1
    try:
        assert run_for("projector.0.hook_post", "vision.0.mlp.hook_post") == []
        assert run_for("vision.0.mlp.hook_post", "blocks.0.mlp.hook_act") == [0]
        assert run_for("blocks.0.hook_resid_post") == [0]
        assert run_for(f"blocks.{last}.mlp.hook_act") == [*range(last + 1)]
        assert run_for() == [*range(last + 1)]
        with pytest.raises(ZeroDivisionError):
            model.observe(batch, {"blocks.0.mlp.hook_act": lambda acts: 1 / 0}, fast=True)
        assert run_for() == [*range(last + 1)], "no stop stays behind"
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_quick_scan_equals_brute_force_at_equal_batches_and_moments_too(tmp_path, dtype):
    processor = tiny.processor()
    model, data = HookedVLM(tiny.llava(processor.tokenizer), processor).to(dtype), random_data(14)
    run = scan(model, data, FOUR, 3, 2, 2, batch_size=3, block_size=4, out=tmp_path, progress=False)
    everything = {}
    for ids in batches_of(data, 3, 4):
        samples = [data[i] for i in ids]
        batch = model.prepare(
            [list(s.images) for s in samples],
            [s.prompt or "Could you describe the image?" for s in samples],
            [s.response for s in samples],
        )
        hooks = [
            h for h, _ in run.columns if batch.pixel_values is not None or not h.startswith(("vision", "projector"))
        ]
        for hook, values in seen(model, batch, hooks, True).items():
            for row, i in enumerate(ids):
                if hook.startswith(("vision", "projector")):
                    patches = batch.by_patch(hook, values)[0][batch.row_of_patches == row]
                    everything.setdefault(hook, {})[i] = patches.double(), [2] * len(patches)
                else:
                    keep = batch.attention_mask[row].bool()
                    everything.setdefault(hook, {})[i] = values[row][keep].double(), batch.kinds[row][keep].tolist()
    for hook, pole in run.columns:
        found, sign = run.top(hook, pole), 1 if pole == "+" else -1
        for j in range(0, len(found.sample_ids), 7):
            recordings = [brute.Recording(i, (sign * v[:, j]).tolist(), k) for i, (v, k) in everything[hook].items()]
            best = brute.top(recordings, 3)
            assert found.sample_ids[j].tolist() == [r.id for r in best]
            assert found.visual[j].tolist() == [brute.kept(r, 2, 2) for r in best]
            assert found.text[j].tolist() == [brute.kept(r, 3, 2) for r in best]
            assert found.peak_all[j].item() == brute.peak(recordings, 1, 2, 3)
            if hook.startswith(("vision", "projector")):
                continue
            both = [r for r in recordings if r.of(2) and r.of(3)]
            v = [sum(max(x, 0) for x in r.of(2)) / len(r.of(2)) for r in both]
            assert run.moments(hook, pole).sums[j, 0].item() == pytest.approx(sum(v), rel=1e-5, abs=1e-9)
            assert set(run.moments(hook, pole).n_images.tolist()) == {len(both)}
    with pytest.raises(KeyError, match="sees images only"):
        run.moments("projector.0.hook_post")

"""Attention heads are units like neurons: scanned, classified, looked at and edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.hooks import ablate, record, scale
from vlm_neurons.models.heads import products_of
from vlm_neurons.sites import AttentionHeads, named


def test_a_head_has_an_id_and_the_site_a_name() -> None:
    head = vn.Neuron.parse("L5H7")
    assert (head.hook, head.index, head.id, head.site, head.layer) == ("heads:L5", 7, "L5H7", "heads", 5)
    assert named("heads") == AttentionHeads()
    with pytest.raises(ValueError, match="is no site that was registered"):
        vn.sites.forget("heads")


def test_edits_have_the_norm_that_is_asked_for_and_the_old_direction() -> None:
    weight, z = torch.randn(12, 6), torch.randn(2, 5, 2, 3)
    z[0, 0, 1] = 0  # adds nothing: has no direction
    site, hooks = AttentionHeads(), AttentionHeads().hooks([0])

    def written(z: Tensor) -> Tensor:
        return torch.stack([z[:, :, h] @ weight[:, 3 * h : 3 * h + 3].T for h in range(2)], 2)

    tensors = dict(zip(hooks, (products_of(weight, 3).expand(2, -1, -1, -1), z), strict=True))
    old, _ = site.read(tensors)
    torch.testing.assert_close(old, written(z).norm(dim=-1))
    assert torch.equal(site.edit(tensors, None, old)[hooks[1]], z)
    new = written(site.edit(tensors, torch.tensor([1]), torch.full((2, 5, 1), 7.0))[hooks[1]])
    expected = written(z)
    expected[:, :, 1] *= (7 / old[..., 1].clamp(min=1e-9))[..., None]
    torch.testing.assert_close(new, expected)
    z.requires_grad_()
    values, _ = site.read(tensors)
    site.edit(tensors, None, values * 2)[hooks[1]].sum().backward()
    assert bool(z.grad.isfinite().all())
    z = z.detach()
    half = {hooks[0]: tensors[hooks[0]], hooks[1]: z.bfloat16()}
    values, _ = site.read(half)
    assert values.dtype == torch.float32 and torch.equal(site.edit(half, None, values)[hooks[1]], z.bfloat16())


def test_everything_that_neurons_can_be_asked_heads_can(tmp_path: Path) -> None:
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(10, seed=3)
    run = vn.scan(model, data, AttentionHeads(), 5, batch_size=10, out=tmp_path / "run", progress=False)
    table = vn.classify(run)
    run.save(table)
    heads = table
    assert heads.neuron.tolist() == [f"L{i}H{h}" for i in range(4) for h in range(4)]
    assert (heads.peak > 0).all() and "heads" in set(vn.modality_test(run).site)
    chosen = ["L1H2", "L2H0"]
    evidence = vn.gather_evidence(model, data, run, chosen, n_top=3, n_spare=3, n_pool=0, out=run, progress=False)
    values = values_of(model, data, chosen)
    for one in chosen:
        for exemplar in evidence[one].exemplars:
            kinds, found = values[exemplar.seen.sample]
            torch.testing.assert_close(
                torch.as_tensor(exemplar.patch_acts[0]).float().ravel(), found[one][kinds == 2], rtol=1e-2, atol=1e-2
            )
    explanations = vn.explain(evidence, explainer="dissection")
    assert set(explanations) == set(chosen)
    assert "L1H2" in vn.show_neuron(evidence["L1H2"])._repr_html_()
    assert "L1H2" in Path(vn.report(run, n_neurons=16, out=tmp_path / "page.html")).read_text(encoding="utf-8")
    effects = vn.causal_effects(model, data, table, groups={"heads": chosen}, controls=2, where=[None], progress=False)
    assert set(effects.group) == {"heads"}


@torch.no_grad()
def values_of(model: vn.HookedVLM, data: Any, ids: list[str]) -> dict[int, tuple[Tensor, dict[str, Tensor]]]:
    found = {}
    for i, sample in enumerate(data):
        batch, seen = model.prepare([sample.load_images()], [sample.prompt], [sample.response]), dict[str, Any]()
        model.run_with_hooks(batch, fwd_hooks=record(ids, seen))
        found[i] = batch.kinds[0], {one: seen[one][0] for one in ids}
    return found


@torch.no_grad()
def test_a_head_that_is_ablated_writes_nothing_and_one_that_is_not_changes_nothing() -> None:
    model, scene = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(1, seed=3)[0]
    batch = model.prepare([scene.load_images()], [scene.prompt], [scene.response])
    z = "blocks.2.attn.hook_z"

    def zero(tensor: Tensor, hook: Any) -> Tensor:
        tensor = tensor.clone()
        tensor[:, :, 1] = 0
        return tensor

    assert torch.equal(
        model.run_with_hooks(batch, fwd_hooks=ablate("L2H1")), model.run_with_hooks(batch, fwd_hooks=[(z, zero)])
    )
    assert torch.equal(model.run_with_hooks(batch, fwd_hooks=scale("L2H1", by=1.0)), model(batch))
    with pytest.raises(IndexError, match="L2H4: heads:L2 has 4 neurons, 0 to 3"):
        model.run_with_hooks(batch, fwd_hooks=ablate("L2H4"))
    with pytest.raises(ValueError, match="another direction at every position"):
        vn.interventions.logit_lens(model, "L2H1")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_silent_head(broken: float) -> None:
    z, products = torch.zeros(1, 2, 1, 3), torch.eye(3).expand(1, 1, 3, 3)
    z[0, 1, 0, 0] = broken
    site = AttentionHeads()
    values, _ = site.read(dict(zip(site.hooks([0]), (products, z.flatten(2)), strict=True)))
    assert values[0, 0, 0] == 0 and not torch.isfinite(values[0, 1, 0])

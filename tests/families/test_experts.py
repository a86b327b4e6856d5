"""Neurons of experts are where their expert was chosen, and nowhere else: against transformers' own modules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
import tiny
import torch
from banks import Means
from scanning.test_concepts import fold_sums, reference
from test_family_parity import experts_of, raw_sites
from test_family_scan import observed, some_data
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.autointerp.asked import Asking
from vlm_neurons.autointerp.explainers.output import output_of
from vlm_neurons.evidence import Exemplar, load
from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.hooks import record, scale
from vlm_neurons.models import Batch
from vlm_neurons.models.lens import output_weights
from vlm_neurons.models.readout import written_by
from vlm_neurons.scanning.nulls import random_units
from vlm_neurons.scanning.viewing import views_of

NAMES = [name for name in builders.FAMILIES if name.endswith("moe")]


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest) -> builders.Made:
    return builders.made(request.param)


def prepared(family: builders.Made, data: vn.ImageTextData, i: int) -> Batch:
    sample = data[i]
    return family.model.prepare([sample.load_images()], [sample.prompt], [sample.response])


def own(family: builders.Made, batch: Batch, neuron: str) -> Tensor:
    """Values [batch, pos] by transformers' modules; NaN where the expert was not chosen."""
    at = vn.Neuron.parse(neuron)
    return raw_sites(family, batch)[1][at.hook][..., at.index]


def test_ids_of_experts_are_read_and_written(family: builders.Made):
    for text in ("L3E5N17", "post:L3E15N7-", "L0E0N0-"):
        assert vn.Neuron.parse(text).id == text
    assert vn.Neuron.parse("L3E5N17") == vn.Neuron("blocks.3.mlp.experts.5.hook_act", 17)
    for wrong in ("V1E2N3", "L3E5", "L3EN7"):
        with pytest.raises(ValueError, match="is not a neuron id: write L3N17"):
            vn.Neuron.parse(wrong)


def test_an_expert_or_neuron_that_is_not_there_is_named(family: builders.Made):
    batch = family.model.prepare([None], "Hi", "A dog.")
    with pytest.raises(KeyError, match=r"experts.99.hook_act': this model has no expert 99 in layer 1"):
        family.model.run_with_hooks(batch, fwd_hooks=record("L1E99N0", {}))
    with pytest.raises(IndexError, match=r"L1E0N999: blocks.1.mlp.experts.0.hook_act has \d+ neurons"):
        family.model.run_with_hooks(batch, fwd_hooks=record("L1E0N999", {}))


def test_ids_of_layers_with_and_without_experts_are_told_apart(tmp_path: Path):
    model = builders.made("qwen3_vl_moe").model
    batch = model.prepare([None], "Hi", "A dog.")
    has = "; it has layer 0, with ids such as {0}L0N3 and layers 1-2 of experts, with ids such as {0}L1E0N3"
    for neuron, said in (
        ("L0E0N3", "layer 0 of this model has no experts"), ("L9E0N3", "layer 9 of this model has no experts"),
        ("L1N3", "layer 1 of this model has experts"), ("L7N3", "this model has no layer 7 at site 'gate'"),
        ("post:L7N3", "this model has no layer 7 at site 'post'"),
    ):  # fmt: skip
        with pytest.raises(KeyError, match=said + has.format("post:" if neuron.startswith("post") else "")):
            model.run_with_hooks(batch, fwd_hooks=record(neuron, {}))
    model.run_with_hooks(batch, fwd_hooks=record("L0N3, post:L0N3, L1E0N3, post:L1E0N3", {}))
    with pytest.raises(KeyError, match="no layer 7 at site 'vision'; layers 0 to 2"):
        model.run_with_hooks(batch, fwd_hooks=record("V7N3", {}))
    data = some_data(2)
    run = vn.scan(model, data, "gate", top_n=2, out=tmp_path, progress=False)
    with pytest.raises(KeyError, match="L1N3: not scanned; this run has layer 0 and experts 0-3 of layers 1-2 at site"):
        vn.gather_evidence(model, data, run, "L1N3", progress=False)


@torch.no_grad()
def test_they_are_recorded_where_their_expert_was_chosen(family: builders.Made):
    batch = family.model.prepare([[tiny.image(70, 41)], []], tiny.PROMPTS[:2], tiny.RESPONSES[:2])
    seen: dict[str, Any] = {}
    plain = family.model(batch)
    ids = [f"L1E{e}N3" for e in range(len(experts_of(family.reference)[1].down_proj))]
    assert torch.equal(family.model.run_with_hooks(batch, fwd_hooks=record(ids, seen)), plain)
    real, chosen = batch.attention_mask.bool(), 0
    for neuron in ids:
        expected = own(family, batch, neuron)[real]
        assert torch.equal(seen[neuron][real].isnan(), expected.isnan())
        assert torch.allclose(seen[neuron][real].nan_to_num(), expected.nan_to_num(), atol=1e-4)
        chosen += int((~expected.isnan()).sum())
    assert chosen == int(real.sum()) * family.reference.config.text_config.num_experts_per_tok


@torch.no_grad()
def test_twice_an_expert_is_twice_its_share_of_the_layer(family: builders.Made):
    batch = family.model.prepare([None], "Hi", "A dog.")
    out = "blocks.1.hook_mlp_out"
    _, cache = family.model.run_with_cache(batch)
    hook = "blocks.1.mlp.experts.1.hook_post"
    with family.model.hooks(fwd_hooks=scale(hook, by=2.0)):
        _, doubled = family.model.run_with_cache(batch, names_filter=[out])
    chosen = cache["blocks.1.mlp.experts.hook_chosen"] == 1
    weight = (cache["blocks.1.mlp.experts.hook_weights"] * chosen).sum(-1, keepdim=True)
    share = weight * (cache[hook].nan_to_num() @ experts_of(family.reference)[1].down_proj[1].T)
    assert torch.allclose(doubled[out] - cache[out], share, atol=1e-4) and share.abs().max() > 0.1


@torch.no_grad()
def test_absent_neurons_are_in_no_mean_class_or_exemplar(family: builders.Made, tmp_path: Path):
    data, neurons = some_data(4), ["L1E0N3", "post:L1E1N2-"]
    run = vn.scan(family.model, data, ["gate", "post"], top_n=4, batch_size=4, out=tmp_path, progress=False)
    table = vn.classify(run).set_index("neuron")
    vn.gather_evidence(family.model, data, run, neurons, n_top=2, n_spare=1, out=run, progress=False)
    evidence = load(tmp_path / "evidence")
    for neuron in neurons:
        at, sums, n, samples = vn.Neuron.parse(neuron), np.zeros(2), 0, 0
        sign = -1 if at.pole == "-" else 1
        for i in range(len(data)):
            batch = prepared(family, data, i)
            values = sign * own(family, batch, neuron)
            parts = [values[batch.mask(kind)] for kind in ("visual", "text")]
            parts = [part[~part.isnan()] for part in parts]
            samples += any(map(len, parts))
            if all(map(len, parts)):
                sums += [float(part.clamp(min=0).mean()) for part in parts]
                n += 1
        moments = run.moments(at.hook, at.pole)
        np.testing.assert_allclose(moments.sums[at.index, :2], sums, rtol=1e-3, atol=1e-4)
        assert moments.n_images[at.index] == n and table.loc[neuron, "n_samples"] == samples
        for e in evidence[neuron].exemplars:
            batch = prepared(family, data, e.seen.sample)
            values = sign * own(family, batch, neuron)[0]
            words = values[~batch.mask("visual")[0]].numpy()
            np.testing.assert_allclose(e.token_acts, words, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_random_units_of_an_expert_are_at_the_tokens_that_chose_it(family: builders.Made, tmp_path: Path):
    model, data, n = family.model, some_data(12), 8
    places = [site.of_expert(e).place(1) for site in map(vn.sites.named, ("gate", "post")) for e in range(4)]
    drawn = random_units(model, places, n)
    assert [one.place for one in drawn] == [f"random/{place}" for place in places]
    views, acts = [], {one.place: [] for one in drawn}
    for i in range(len(data)):
        batch = prepared(family, data, i)
        views.append(views_of(batch, [data[i]], [data.image_digests[i]])[0])
        seen, own = observed(model, batch, list(drawn[0].hooks)), raw_sites(family, batch)[1]
        for one in drawn:
            experts = experts_of(family.reference)[1]
            gates, ups = experts.gate_up_proj[one.expert[1]].detach().chunk(2)
            assert set(one.gate.norm(dim=0).numpy().round(4)) <= set(gates.norm(dim=1).numpy().round(4))
            # with the expert's own weights they are its neurons
            same = replace(one, gate=gates.T, up=None if one.up is None else ups.T, _on={})
            values, defined = same.of(seen)
            expected = own[one.place.removeprefix("random/")]
            assert torch.allclose(values.masked_fill(~defined, torch.nan), expected, atol=1e-4, equal_nan=True)
            values, defined = one.of(seen)
            values, index = values[0].masked_fill(~defined[0, :, :1], torch.nan).double(), batch.patch_index[0]
            acts[one.place].append({("r", "picture"): (values[index >= 0].numpy(), index[index >= 0].numpy()),
                                    ("r", "text"): (values[batch.mask("text")[0]].numpy(), slice(None))})  # fmt: skip
    run = vn.scan(model, data, "gate", top_n=2, batch_size=5, concepts=Means(), folds=4, null_directions=n,
                  out=tmp_path, progress=False)  # fmt: skip
    for one in drawn[:4]:
        for side in ("picture", "text"):
            r = fold_sums(run, one.place, side, n).over(range(4)).r()[0].numpy()
            kept = [*zip(views, acts[one.place], strict=True)]
            np.testing.assert_allclose(r, reference(kept, "r", side, Means(), range(len(data))), atol=1e-4)
    table = run.concepts(min_images=1)
    assert table["p_random"].notna().all()
    n_places = sum(hook.startswith("blocks.1.") for hook in model.site_hooks("gate"))
    counted = {(one["site"], one["layer"], one["pole"], one["side"]): one["n"] for one in table.attrs["random"]}
    assert len(counted) == len(table.attrs["random"]) and counted["gate", 1, "+", "picture"] == n * n_places


@torch.no_grad()
def test_an_experts_neuron_acts_as_its_own_post_with_the_experts_weights() -> None:
    model = builders.made("qwen3_vl_moe").model
    units = [vn.Neuron.parse(f"{site}L1E{e}N0") for e in range(4) for site in ("", "post:")]
    image = vn.scenes(1)[0].load_images()
    ((seen, acts),) = look(model, [Look(0, "one", image, "What?", "dogs")], [units])
    chosen = next(u for u in units if np.nanmax(acts[u.id][1], initial=0) > 0)
    expert = chosen.id.partition("N")[0].partition("E")[2]
    for key in (f"L1E{expert}N0", f"post:L1E{expert}N0"):
        one = vn.Evidence(key, 2.0, (Exemplar(seen, "top", "explain", 0, *acts[key]),))
        output = output_of(model, one, "")
        assert output.neuron.id.rstrip("-") == f"post:L1E{expert}N0"
        if not key.startswith("post"):
            gate, post = (np.concatenate([*(m.ravel() for m in maps), tokens])
                          for maps, tokens in (acts[key], acts[f"post:{key}"]))  # fmt: skip
            strong = gate >= np.nanmax(gate) / 2
            assert (output.neuron.pole == "-") == (post[strong].mean() < 0)
        column = written_by(model, f"experts.{expert}", 1)[:, 0] * (-1 if output.neuron.pole == "-" else 1)
        assert torch.equal(output_weights(model, [output.neuron])[0], column)
        found = vn.explain({key: one}, vn.VocabularyExplainer(model, n_null=9), progress=False)[key]
        assert not found.failed, found.failure
    asking = Asking(model, n=1, max_new_tokens=2)
    assert len(asking.answers(output.neuron, output.peak)) == 1

"""What a gate neuron writes is known in families that see pictures otherwise than evidence keeps them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pytest
import seeds
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.autointerp.explainers.output import output_of
from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.models.state import state_of

CHANGED = [name for name in ("llava_next", "idefics3", "smolvlm", "internvl", "aya_vision", "gemma4")
           if name in builders.FAMILIES]  # fmt: skip


@pytest.mark.parametrize("family", CHANGED)
def test_a_gate_is_explained_by_what_it_does_though_its_pictures_are_in_tiles_or_resized(
    family: str, tmp_path: Path
) -> None:
    model, rng = builders.made(family).model, seeds.rng()
    data = vn.ImageTextData.from_samples(
        {"image": tiny.image(*rng.integers(40, 120, 2).tolist(), rng), "prompt": "Hi", "response": f"{i} dogs"}
        for i in range(6)
    )
    run = vn.scan(model, data, ["gate"], top_n=3, out=tmp_path, progress=False)
    key, of_post = "L1N3", vn.Neuron.parse("post:L1N3")
    vn.gather_evidence(model, data, run, [key], n_top=3, n_spare=0, n_pool=0, out=run, progress=False)
    one = vn.evidence.load(run)[key]
    (strongest,) = (e.seen.sample for e in one.split("explain") if e.group == "top")
    # the picture of the data, not that of the evidence
    looked = Look(0, "", data[strongest].load_images(), "Hi", data[strongest].response)
    ((_, acts),) = look(model, [looked], [[vn.Neuron.parse(key), of_post]])
    gate, post = (np.concatenate([*(m.ravel() for m in maps), tokens]) for maps, tokens in acts.values())
    strong = np.nan_to_num(gate) >= np.nanmax(gate) / 2
    output = output_of(model, one, state_of(model))
    assert output.neuron.id == f"post:L1N3{'-' if post[strong].mean() < 0 else ''}"
    assert output.peak == pytest.approx(abs(post[strong].mean()) / gate[strong].mean() * one.peak, rel=1e-3)
    for explainer in (
        vn.VocabularyExplainer(model, n_null=9),
        vn.SteeringExplainer(model, strengths=(1,), n=2, max_new_tokens=1),
    ):
        found = vn.explain({key: one}, explainer, progress=False)[key]
        assert not found.failed, found.failure
    if family == "llava_next":  # without what was read with it, the sheet of tiles is another picture
        told = vn.explain({key: replace(one, written=None)}, explainer, progress=False)[key].failure
        assert told is not None and "gather it again with the model as it is now, or explain post:L1N3" in told.detail


@pytest.mark.parametrize("lower", [lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16(), lambda m: m.half()])
def test_a_lower_precision_leaves_rotary_positions_exact_where_the_bridge_has_no_component_for_them(lower):
    model = vn.HookedVLM(*builders.FAMILIES["qwen2_vl"]())
    before = {n: b.clone() for n, b in model.bridge.original_model.named_buffers() if n.endswith("inv_freq")}
    after = dict(lower(model).bridge.original_model.named_buffers())
    assert len(before) > 1 and model.dtype != torch.float32
    assert all(after[n].dtype == torch.float32 and torch.equal(after[n], b) for n, b in before.items())

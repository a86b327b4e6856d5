"""Heads of every family are those of plain transformers: norms of z_h W_O_h by eager weights, and edits by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import brute_force as brute
import builders
import pytest
import torch
from test_family_parity import off, padded, raw
from test_family_scan import some_data
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.hooks import patch, record, scale
from vlm_neurons.models import Batch

FEW = ["llava-clip", "gemma3", "qwen2_5_vl"]  # one mask, grouped keys behind a norm, grouped keys with biases
Change = Callable[[Tensor], Tensor]  # of z [batch, pos, head, d_head]


def attention_of(model: Any) -> dict[int, Any]:
    """Of every layer that has some."""
    return {i: one.self_attn for i, one in enumerate(model.get_decoder().layers) if hasattr(one, "self_attn")}


def plain(family: builders.Made, batch: Batch, changes: dict[int, Change] | None = None) -> tuple[Tensor, dict]:
    """Logits, and layer -> norms [batch, pos, head], by transformers alone."""
    found: dict[int, Tensor] = {}

    def see(layer: int, d_head: int) -> Callable[..., Any]:
        def fn(module: Any, args: Any) -> Any:
            z = args[0].unflatten(-1, (-1, d_head))
            if changes and layer in changes:
                z = changes[layer](z)
            parts = module.weight.split(d_head, dim=1)
            found[layer] = torch.stack([(z[:, :, h] @ w.T).norm(dim=-1) for h, w in enumerate(parts)], -1)
            return (z.flatten(-2),)

        return fn

    handles = [
        attention.o_proj.register_forward_pre_hook(see(i, attention.head_dim))
        for i, attention in attention_of(family.reference).items()
    ]
    try:
        return raw(family.reference, batch), found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def test_norms_are_transformers_own_and_so_are_edits(family: builders.Made) -> None:
    batch, model, seen = padded(family, "right"), family.model, dict[str, Any]()
    ids = [f"L{i}H{h}" for i in attention_of(family.reference) for h in range(4)]
    model.run_with_hooks(batch, fwd_hooks=record(ids, seen))
    real = batch.attention_mask.bool()
    _, expected = plain(family, batch)
    for layer, norms in expected.items():
        found = torch.stack([seen[f"L{layer}H{h}"] for h in range(4)], -1)
        assert off(found[real], norms[real]) < 1e-4
    layer = max(expected)

    def louder(z: Tensor) -> Tensor:
        return torch.cat([z[:, :, :1] * 3, z[:, :, 1:]], 2)

    by_hand, _ = plain(family, batch, {layer: louder})
    assert off(model.run_with_hooks(batch, fwd_hooks=scale(f"L{layer}H0", by=3.0))[real], by_hand[real]) < 1e-4


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_a_patched_head_gets_the_other_runs_norm(name: str) -> None:
    family = builders.made(name)
    batch = family.model.prepare([None, None], ["Hi", "Hi"], ["A dog.", "2 cats"])
    source = {"L1H2": 1 + torch.rand(batch.input_ids.shape)}

    def patched(z: Tensor) -> Tensor:
        z, weight = z.clone(), attention_of(family.reference)[1].o_proj.weight
        d = z.shape[-1]
        norms = (z[:, :, 2] @ weight[:, 2 * d : 3 * d].T).norm(dim=-1)
        z[:, :, 2] *= (source["L1H2"] / norms)[..., None]
        return z

    real = batch.attention_mask.bool()
    by_hand, _ = plain(family, batch, {1: patched})
    assert off(family.model.run_with_hooks(batch, fwd_hooks=patch("L1H2", source))[real], by_hand[real]) < 1e-4


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_a_scan_of_heads_equals_brute_force(name: str, tmp_path: Path) -> None:
    family, data = builders.made(name), some_data(7)
    run = vn.scan(
        family.model, data, "heads", top_n=3, n_visual=3, n_text=2, batch_size=3, out=tmp_path, progress=False
    )
    assert run.info["model"]["forward"] == "transformers, fused attention"
    recordings: dict[tuple[int, int], list[brute.Recording]] = {}
    for i in range(7):
        sample = data[i]
        batch = family.model.prepare([sample.load_images()], [sample.prompt], [sample.response])
        for layer, norms in plain(family, batch)[1].items():
            for head in range(4):
                one = brute.Recording(i, norms[0, :, head].tolist(), batch.kinds[0].tolist())
                recordings.setdefault((layer, head), []).append(one)
    table = vn.classify(run, n_visual=3).set_index("neuron")
    for (layer, head), mine in recordings.items():
        found = run.top(f"heads:L{layer}", "+")
        best = brute.top(mine, 3)
        assert found.sample_ids[head].tolist() == [r.id for r in best]
        for k, one in enumerate(best):
            assert found.visual[head, k].tolist() == pytest.approx(brute.kept(one, brute.VISUAL, 3), rel=1e-4)
            assert found.text[head, k].tolist() == pytest.approx(brute.kept(one, brute.TEXT, 2), rel=1e-4)
        shares = brute.classify(mine, 3, 2.0, 3, 3.0, 2)
        row = table.loc[f"L{layer}H{head}"]
        assert [row[f"p_{one}"] for one in vn.tokens.MODALITIES] == list(shares.values())

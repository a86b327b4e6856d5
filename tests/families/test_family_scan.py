"""A scan of every site is what keeping every activation of the same batches gives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import brute_force as brute
import builders
import numpy as np
import seeds
import tiny

import vlm_neurons as vn
from vlm_neurons.tokens import TokenKind


def some_data(n: int) -> vn.ImageTextData:
    """Samples with two images, one, or none; every response once."""
    rng = seeds.rng()
    entries = []
    for i in range(n):
        sizes = rng.integers(24, 90, ((1, 2, 0)[i % 3], 2)).tolist()
        entries.append(
            {"image": [tiny.image(*size, rng) for size in sizes], "response": f"{i} dogs", "prompt": "What?"}
        )
    return vn.ImageTextData.from_samples(entries)


def observed(model: vn.HookedVLM, batch: Any, hooks: list[str]) -> dict[str, Any]:
    """What hooks hold, by the forward pass that scans run."""
    seen: dict[str, Any] = {}
    model.observe(batch, {hook: partial(keep, seen, hook) for hook in hooks}, fast=True)
    return seen


def keep(into: dict[str, Any], hook: str, tensor: Any) -> None:
    into[hook] = tensor.clone()


def kept(model: vn.HookedVLM, data: Any, hooks: list[str], batch_size: int) -> dict[str, dict[int, Any]]:
    """Hook -> sample -> values [token, unit] of all its tokens, and their kinds."""
    everything: dict[str, dict[int, Any]] = {hook: {} for hook in hooks}
    for start in range(0, len(data), batch_size):
        ids = range(start, min(start + batch_size, len(data)))
        samples = [data[i] for i in ids]
        batch = model.prepare(
            [s.load_images() for s in samples], [s.prompt for s in samples], [s.response for s in samples]
        )
        for hook, tensor in observed(model, batch, hooks).items():
            site = hook.split(".")[0]
            if site in batch.site_rows:
                rows = [r >= 0 for r in batch.site_rows[site]]
                parts = tensor.flatten(0, -2).split([len(r) for r in rows])
                owners = batch.image_rows.tolist()
                for row, i in enumerate(ids):
                    mine = [p[r] for p, r, owner in zip(parts, rows, owners, strict=True) if owner == row]
                    values = [v for part in mine for v in part]
                    everything[hook][i] = values, [int(TokenKind.VISUAL)] * len(values)
                continue
            for row, i in enumerate(ids):
                real = batch.attention_mask[row].bool()
                everything[hook][i] = list(tensor[row][real]), batch.kinds[row][real].tolist()
    return everything


def there(sample: int, unit: int, sign: int, values: Any, kinds: list[int]) -> brute.Recording:
    """What a unit was at the tokens that have it: an expert's neurons are NaN at those that did not choose it."""
    pairs = [(sign * float(v[unit]), kind) for v, kind in zip(values, kinds, strict=True)]
    own = [(value, kind) for value, kind in pairs if value == value]
    return brute.Recording(sample, [value for value, _ in own], [kind for _, kind in own])


def test_a_scan_equals_brute_force(family: builders.Made, tmp_path: Path):
    model, data = family.model, some_data(7)
    sites = list(model.adapter.sites)
    run = vn.scan(
        model, data, sites, top_n=3, n_visual=3, n_text=2, batch_size=3, compiled=False, out=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    hooks = sorted({hook for hook, _ in run.columns})
    assert hooks == sorted(hook for site in sites for hook in model.site_hooks(site))
    everything = kept(model, data, hooks, 3)
    for hook, pole in run.columns:
        found, sign = run.top(hook, pole), 1 if pole == "+" else -1
        for unit in range(0, found.sample_ids.shape[0], 9):
            recordings = [there(i, unit, sign, *read) for i, read in everything[hook].items()]
            best = brute.top(recordings, 3)
            assert found.sample_ids[unit].tolist() == [r.id for r in best] + [-1] * (3 - len(best)), hook
            for values, kind, n in ((found.visual, brute.VISUAL, 3), (found.text, brute.TEXT, 2)):
                expected = np.array([brute.kept(r, kind, n) for r in best]).reshape(-1, n)
                # the scan puts samples of a length together, so other samples are beside one: last digits are others
                np.testing.assert_allclose(values[unit, : len(best)].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_quick_pass_holds_the_residual_stream_as_the_bridge_does(family: builders.Made):
    """Where a family has it: Gemma's MLPs end in a norm, Aya's layers have nothing between attention and MLP."""
    model = family.model
    names = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
    hooks = [h for i in range(model.n_layers) for n in names if (h := f"blocks.{i}.{n}") in model.hook_dict]
    batch = model.prepare([[tiny.image()], [tiny.image(), tiny.image()], []], "Hi", ["2 dogs", "3 cats", "1 dog"])
    seen = observed(model, batch, hooks)
    _, cache = model.run_with_cache(batch, names_filter=hooks)
    real = batch.attention_mask.bool()
    assert len(hooks) >= 4 * model.n_layers - 1
    for hook in hooks:
        a, b = seen[hook][real], cache[hook][real]
        assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max()), hook

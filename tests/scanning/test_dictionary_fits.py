"""How well a dictionary fits pictures and text is summed up in the pass that scans it, and is what dense code gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
import tiny
import torch
from runs import one_of_two
from scanning.test_end_to_end import random_data
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons import sites
from vlm_neurons.scanning import dictionary_fit, poorly_explained
from vlm_neurons.sites.coder import Coder
from vlm_neurons.viz.rows_in_words import classes

HOOK, D, N = "blocks.1.hook_resid_post", 32, 40
KINDS = {"visual": 2, "text": 3, "template": 1}


@cache
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


@cache
def data() -> vn.ImageTextData:
    return random_data(11)


def made(norm: Any = "none") -> Coder:
    w = torch.tensor(seeds.rng().normal(size=(D, N)), dtype=torch.float32) / D**0.5
    return Coder(w, torch.full((N,), -0.1), w.T.clone() / 2, torch.randn(D) * 0.1, norm=norm)


@pytest.fixture
def forgotten() -> Iterator[None]:
    yield
    for name in {*sites.names()} & {"d", "e"}:
        sites.forget(name)


def positions(coder: Coder, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, latents and kinds of all positions but padding, of the batches that a scan makes."""
    xs, zs, kinds = [], [], []
    for start in range(0, len(data()), batch_size):
        some = [data()[i] for i in range(start, min(start + batch_size, len(data())))]
        prompts = [s.prompt or "Could you describe the image?" for s in some]
        batch = model().prepare([list(s.images) for s in some], prompts, [s.response for s in some])
        seen: list[Tensor] = []
        model().observe(batch, {HOOK: lambda t, seen=seen: seen.append(t.clone())}, fast=True)
        real = batch.attention_mask.bool()
        xs.append(seen[0][real])
        zs.append(coder.encode(seen[0])[real])
        kinds.append(batch.kinds[real])
    return torch.cat(xs), torch.cat(zs), torch.cat(kinds)


@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_it_is_what_dense_code_gives(norm: Any, tmp_path: Path, forgotten: None) -> None:
    coder = made(norm)
    site = sites.SAE(coder, HOOK, "d", HOOK)
    run = vn.scan(model(), data(), ["gate", site], 3, batch_size=4, block_size=5, out=tmp_path, progress=False)
    blocks = [range(0, 4), range(4, 5), range(5, 9), range(9, 10), range(10, 11)]
    assert [len(b) for b in blocks] == [4, 1, 4, 1, 1]  # the scan's batches; padding changes last digits alone
    x, z, kinds = (part.double() for part in positions(coder, 4))
    x32 = x.float()
    error = (x - coder.decode(x32, z.float()).double()).square().sum(1)
    whole = (x - coder.base(x32).double()).square().sum(1)
    found = dictionary_fit(run).set_index("kind")
    assert found.site.unique().tolist() == ["d"] and found.layer.unique().tolist() == [1]
    for name, kind in KINDS.items():
        here = kinds == kind
        own = x[here] - x[here].mean(0)
        row = found.loc[name]
        assert row["n"] == int(here.sum())
        assert row["unexplained"] == pytest.approx(float(error[here].sum() / own.square().sum()), rel=1e-4)
        assert row["fired"] == pytest.approx(float((z[here] > 0).sum(1).double().mean()), rel=1e-4)
    seen = (kinds == 2) | (kinds == 3)
    poor = poorly_explained(run).set_index("neuron")
    for j in range(0, N, 3):
        mass, there = z[seen, j].sum(), z[seen & (error > whole / 2), j].sum()
        row = poor.loc[f"d:L1F{j}"]
        assert row["mass"] == pytest.approx(float(mass), rel=1e-4)
        assert row["poor"] == pytest.approx(float(there / mass), rel=1e-3, abs=1e-4)
    for table in (vn.classify(run), vn.modality_test(run)):
        labelled = table.set_index("neuron").poor
        pd.testing.assert_series_equal(labelled[poor.index], poor.poor)
        assert labelled.drop(poor.index).isna().all()
    assert "of what it does lies where its dictionary explains little" in " ".join(
        classes(vn.classify(run).set_index("neuron").loc["d:L1F3"], None, 1.0).notes
    )


@pytest.mark.parametrize("few", [False, True])
def test_a_transcoder_is_held_against_what_the_mlp_puts_out(few: bool, tmp_path: Path, forgotten: None) -> None:
    rng = seeds.rng()
    w, out, skip = (torch.tensor(rng.normal(size=s) / 6, dtype=torch.float32) for s in ((D, N), (N, D), (D, D)))
    rule: Any = {"rule": "topk", "k": 1} if few else {}
    coder = Coder(w, torch.zeros(N), out, torch.tensor(rng.normal(size=D) / 9, dtype=torch.float32), skip=skip, **rule)
    read, written = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
    run = vn.scan(
        model(), data(), sites.Transcoder(coder, read, "d", written), 3, batch_size=11, out=tmp_path, progress=False
    )
    some = [data()[i] for i in range(11)]
    prompts = [s.prompt or "Could you describe the image?" for s in some]
    batch = model().prepare([list(s.images) for s in some], prompts, [s.response for s in some])
    cache = model().run_with_cache(batch, names_filter=[read, written])[1]
    x, y, found = cache[read], cache[written].double(), dictionary_fit(run).set_index("kind")
    z = torch.relu(x @ w)
    if few:
        z = z * (z == z.amax(-1, keepdim=True))
    error = (y - (z @ out + coder.b_dec + x @ skip)).square().sum(-1)
    whole = (y - (coder.b_dec + x @ skip)).square().sum(-1)
    for name, kind in KINDS.items():
        here = (batch.kinds == kind) & batch.attention_mask.bool()
        spread = (y[here] - y[here].mean(0)).square().sum()
        assert found.unexplained[name] == pytest.approx(float(error[here].sum() / spread), rel=1e-4)
        assert found.fired[name] == pytest.approx(float((z[here] > 0).sum(-1).double().mean()), rel=1e-6)
    seen = (batch.kinds == 2) | (batch.kinds == 3)
    there = z[seen & (error > whole / 2)].sum(0) / z[seen].sum(0)
    np.testing.assert_allclose(poorly_explained(run).poor, there, rtol=1e-4, atol=1e-6)


def test_it_is_printed_and_does_not_depend_on_blocks_or_interruptions(
    tmp_path: Path, forgotten: None, capsys: pytest.CaptureFixture[str]
) -> None:
    site = sites.SAE(made(), HOOK, "d", HOOK)
    given = (model(), data(), site, 3)
    whole = vn.scan(*given, batch_size=11, out=tmp_path / "whole")
    assert "d:L1: unexplained variance of tokens: visual " in capsys.readouterr().err
    with one_of_two():
        vn.scan(*given, batch_size=11, block_size=3, out=tmp_path / "parts", progress=False)
    parts = vn.scan(*given, batch_size=11, block_size=3, out=tmp_path / "parts", progress=False)
    a, b = (dictionary_fit(run)[["n", "unexplained", "fired"]].to_numpy(float) for run in (whole, parts))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_dictionary_that_is_exact_leaves_nothing_and_a_random_one_much(tmp_path: Path, forgotten: None) -> None:
    both = torch.cat([torch.eye(D), -torch.eye(D)])  # relu(x) - relu(-x) = x
    exact = Coder(both.T.clone(), torch.zeros(2 * D), both, torch.zeros(D))
    given = [sites.SAE(exact, HOOK, "d", HOOK), sites.SAE(made(), HOOK, "e", HOOK)]
    run = vn.scan(model(), data(), given, 3, batch_size=4, out=tmp_path, progress=False)
    found = dictionary_fit(run).set_index(["site", "kind"])
    assert (found.loc["d"].unexplained < 1e-10).all() and (found.loc["d"].fired == D).all()
    assert (found.loc["e"].unexplained > 0.2).all()
    poor = poorly_explained(run).set_index("neuron").poor
    assert (poor[poor.index.str.startswith("d:")].fillna(0) == 0).all()
    assert (poor[poor.index.str.startswith("e:")] > 0).any()


def test_a_run_without_dictionaries_says_so(tmp_path: Path) -> None:
    run = vn.scan(model(), data(), "gate", 3, batch_size=4, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="has no dictionary of the backbone: layers 0-1 at site gate"):
        dictionary_fit(run)

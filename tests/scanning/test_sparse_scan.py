"""A scan of latents that fire rarely looks at what fires alone, and keeps what a scan of all values keeps."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import seeds
import tiny
import torch
from scanning.test_end_to_end import random_data

import vlm_neurons as vn
from vlm_neurons import sites
from vlm_neurons.scanning import dictionary_fit, listed, poorly_explained
from vlm_neurons.scanning.chunks import entering, look
from vlm_neurons.scanning.listed import Listed
from vlm_neurons.scanning.summarise import extremes, rows_by_kind
from vlm_neurons.sites import sparse
from vlm_neurons.sites.coder import Coder
from vlm_neurons.sites.sparse import Sparse

HOOK, D, N = "blocks.1.hook_resid_post", 32, 300


class Dense(sites.SAE):
    """The same dictionary, all values of which are looked at."""

    def read_sparse(self, tensors: Any) -> None:
        return None


@cache
def model() -> vn.HookedVLM:
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


def made(rule: Any) -> Coder:
    """Of 300 latents about four fire at a position, and many nowhere."""
    rows = torch.tensor(seeds.rng().normal(size=(N, D)), dtype=torch.float32)
    rows = rows / rows.norm(dim=1, keepdim=True)
    threshold = torch.full((N,), 2.2) if rule == "jumprelu" else None
    return Coder(rows.T.contiguous(), torch.zeros(N), rows, torch.zeros(D), rule, threshold, 4, norm="layer_norm")


@pytest.mark.parametrize("rule", ["topk", "jumprelu"])
def test_it_keeps_what_a_scan_of_all_values_keeps(rule: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sparse, "CACHED", 90 * N)  # ninety positions at a time
    monkeypatch.setattr(listed, "CACHED", 8000)
    coder, data = made(rule), random_data(11)
    runs = {}
    for kind in (sites.SAE, Dense):
        site = kind(coder, HOOK, "d", HOOK)
        where = tmp_path / kind.__name__
        runs[kind] = vn.scan(model(), data, site, 4, 3, 2, batch_size=3, block_size=6, out=where, progress=False)
        sites.forget("d")
    found, expected = (run.top("d:L1", "+") for run in runs.values())
    for name in ("sample_ids", "visual", "text", "peak_all"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert (expected.peak_all == 0).any() and (expected.peak_all > 0).sum() > 20
    found, expected = (run.moments("d:L1", "+") for run in runs.values())
    torch.testing.assert_close(found.sums, expected.sums, rtol=1e-5, atol=1e-9)
    assert torch.equal(found.active, expected.active) and torch.equal(found.n_images, expected.n_images)
    for table, columns in ((dictionary_fit, ["n", "unexplained", "fired"]), (poorly_explained, ["mass", "poor"])):
        found, expected = (torch.tensor(table(run)[columns].to_numpy(float)) for run in runs.values())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    labels = [vn.classify(run, n_visual=3).label.tolist() for run in runs.values()]
    assert labels[0] == labels[1]


def test_a_batch_is_reduced_to_the_same_values_where_some_are_negative_or_not_finite() -> None:
    z = torch.randn(3, 11, 40) * (torch.rand(3, 11, 40) < 0.1)
    kinds = torch.tensor([[1] * 2 + [2] * 5 + [3] * 4, [0] * 3 + [1] + [3] * 7, [1] + [2] * 9 + [0]])
    rows, enters = rows_by_kind(kinds), torch.rand(3, 40) < 0.5
    enters[1] &= torch.rand(40) < 0.5
    for broken in (False, True):
        if broken:
            z[2, 4, 7] = torch.nan
        mine, all_of_them = Listed.of(Sparse.of(z), kinds), z.flatten(0, 1)
        found, expected = mine.extremes, extremes(all_of_them, rows)
        for name in ("visual", "text", "other"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True)
        assert found.broken().tolist() == expected.broken().tolist() == [False, False, broken]
        if not broken:
            found = mine.entering(rows, enters, 4, 2)
            expected = entering(look(all_of_them, rows, "+")[0], enters, 4, 2)
            for name in ("visual", "text", "columns"):
                assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_what_fires_alone_is_multiplied_and_much_that_fires_is_not_listed() -> None:
    z = torch.rand(3, 50, 200) * (torch.rand(3, 50, 200) < 0.01)
    rows = torch.randn(200, 16)
    torch.testing.assert_close(Sparse.of(z).times(rows), z @ rows, rtol=1e-4, atol=1e-5)
    assert torch.equal(Sparse.of(z).dense(), z)
    wide = sites.SAE(made("relu"), HOOK, "wide", HOOK)  # half of them fire
    assert wide.read_sparse({HOOK: torch.randn(2, 9, D)}) is None
    x = torch.randn(2, 9, D)
    few = sites.SAE(made("topk"), HOOK, "few", HOOK)
    listed = few.read_sparse({HOOK: x})
    assert listed is not None and torch.equal(listed.dense(), few.read({HOOK: x})[0])

"""A limit is kept, or refused; never ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import loopback
import numpy as np
import pytest

import vlm_neurons as vn


@pytest.mark.parametrize("price", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0])])
def test_max_cost_is_kept_however_the_price_is_given(price: Any) -> None:
    with loopback.running() as server:
        asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, price=price, max_cost=0, api_key="x")
        found = vn.explain(cases.text_neurons(3), asker, progress=False)
        assert not server.requests
    assert [e.failure.kind for e in found.values() if e.failure] == 3 * ["cost"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_cost": float("nan")}, {"max_cost": -1.0}, {"max_cost": float("inf")}, {"max_cost": "1"},
        {"price": (-1.0, 2.0)}, {"price": (float("nan"), 0)}, {"price": (1.0,)}, {"price": 3.0}, {"price": "12"},
        {"concurrency": 0}, {"concurrency": -3}, {"concurrency": 1.5}, {"timeout": 0}, {"timeout": float("nan")},
        {"deadline": -1}, {"max_retries": -1},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("asker", [vn.explainers.OpenAIExplainer, vn.simulators.ApiSimulator, vn.simulators.ApiJudge])
def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_sent(asker: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*give a"):
        asker("m", **{"price": (1.0, 2.0), **wrong})


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"candidates": -1}, {"max_tokens": 0}], ids=str)
def test_counts_of_an_explainer_start_at_one(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*from 1 on"):
        vn.explainers.OpenAIExplainer("m", **wrong)
    assert vn.explainers.OpenAIExplainer("m", max_cost=0, price=(0, 0)).max_cost == 0


def test_a_cache_that_cannot_be_used_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    bad = tmp_path / "cache.sqlite"
    bad.write_text("no database at all, " * 100)
    with loopback.running() as server:
        for file in (bad, Path("/proc/nowhere/cache.sqlite"), tmp_path):
            asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, cache=file, api_key="x")
            with pytest.raises(ValueError, match=f"cache {file}: .*cache="):
                vn.explain(cases.text_neurons(1), asker, progress=False)
        with pytest.raises(ValueError, match=f"cache {bad}"):
            vn.explainers.OpenAIExplainer("m", cache=bad).plan(cases.text_neurons(1))
        assert not server.requests


def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    evidence, cache = cases.text_neurons(2), tmp_path / "runs" / "cache.sqlite"
    with loopback.running() as server:
        asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, cache=cache, api_key="x")
        assert asker.plan(evidence).calls == 2 and not cache.parent.exists()
        vn.explain({"t0": evidence["t0"]}, asker, progress=False)
        before = cache.read_bytes()
        assert (asker.plan(evidence).calls, asker.plan(evidence).cached) == (1, 1)
    assert cache.read_bytes() == before
    cache.write_bytes(b"")
    assert asker.plan(evidence).calls == 2 and cache.read_bytes() == b""

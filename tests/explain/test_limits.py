"""A limit is kept, or refused; never ignored."""

from __future__ import annotations

from typing import Any

import cases
import loopback
import numpy as np
import pytest

import vlm_neurons as vn


@pytest.mark.parametrize("price", [[1.0, 2.0], (1, 2), np.array([1.0, 2.0])])
def test_max_cost_is_kept_however_the_price_is_given(price: Any) -> None:
    with loopback.running() as server:
        asker = vn.OpenAIExplainer("m", base_url=server.url, price=price, max_cost=0, api_key="x")
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
@pytest.mark.parametrize("asker", [vn.OpenAIExplainer, vn.ApiSimulator, vn.ApiJudge])
def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_sent(asker: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*give a"):
        asker("m", **{"price": (1.0, 2.0), **wrong})


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"candidates": -1}, {"max_tokens": 0}], ids=str)
def test_counts_of_an_explainer_start_at_one(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*from 1 on"):
        vn.OpenAIExplainer("m", **wrong)
    assert vn.OpenAIExplainer("m", max_cost=0, price=(0, 0)).max_cost == 0

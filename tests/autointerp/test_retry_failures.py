"""A failure that was kept says so, and is asked again on order; what was answered well is not paid again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import loopback
import pytest

import vlm_neurons as vn


def asker(server: loopback.Server, **options: Any) -> vn.explainers.OpenAIExplainer:
    return vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", price=(0, 0), max_retries=0,
                                         concurrency=1, **options)  # fmt: skip


@pytest.mark.parametrize("kind", ["wrong_schema", "length", "filter", "refusal"])
def test_a_kept_failure_names_the_way_and_is_asked_again_on_order_alone(kind: str, tmp_path: Path) -> None:
    evidence = cases.text_neurons(4)
    with loopback.running(fault=lambda number, body: kind if number % 2 else "") as server:
        first = vn.explain(evidence, asker(server), out=tmp_path, progress=False)
        assert sum(e.failed for e in first.values()) == 2 and len(server.requests) == 4
        assert not any("cache" in e.failure.detail for e in first.values() if e.failure)
        server.fault = lambda number, body: ""
        second = vn.explain(evidence, asker(server), out=tmp_path, progress=False)
        kept = [e.failure.detail for e in second.values() if e.failure]
        assert len(kept) == 2 and len(server.requests) == 4
        assert all("from the cache" in d and "retry_failures=True" in d and "--retry-failures" in d for d in kept)
        plan = asker(server, retry_failures=True, cache=tmp_path / "cache.sqlite").plan(evidence)
        assert (plan.calls, plan.cached) == (2, 2)
        third = vn.explain(evidence, asker(server, retry_failures=True), out=tmp_path, redo=True, progress=False)
        assert not any(e.failed for e in third.values()) and len(server.requests) == 6
        fourth = vn.explain(evidence, asker(server), out=tmp_path, redo=True, progress=False)
        assert not any(e.failed for e in fourth.values()) and len(server.requests) == 6, "the good ones are kept"


def test_what_a_server_could_not_do_is_asked_anew_with_the_failures(tmp_path: Path) -> None:
    def no_images(number: int, body: dict[str, Any]) -> str:
        return "no_images" if "image_url" in str(body) else "length" if number > 5 else ""

    evidence = {n: cases.picture_neuron(n) for n in "abc"}
    with loopback.running(fault=no_images) as server:
        first = vn.explain(evidence, asker(server), out=tmp_path, progress=False)
        assert [e.failed for e in first.values()] == [False, False, True]
        server.fault = lambda number, body: ""
        n = len(server.requests)
        again = vn.explain(evidence, asker(server, retry_failures=True), out=tmp_path, redo=True, progress=False)
        assert not any(e.failed for e in again.values()) and "image_url" in str(server.requests[n:])
        assert len(server.requests) == n + 1


def test_simulations_that_failed_are_asked_again_on_order(tmp_path: Path) -> None:
    evidence = {"t": vn.Evidence.from_arrays("t", tokens=[[f" a{i}"] for i in range(30)],
                                             token_acts=[[i + 1.0] for i in range(30)])}  # fmt: skip
    words: dict[str, Any] = {"wrong": 1}

    def run(server: loopback.Server, **options: Any) -> int:
        simulator = vn.simulators.ApiSimulator("m", base_url=server.url, api_key="x", price=(0, 0), max_retries=0,
                                               **options)  # fmt: skip
        return vn.simulate({"t": "x"}, evidence, simulator, out=tmp_path, progress=False)["t", "text"].n_failed

    def answer(body: dict[str, Any]) -> Any:
        import seeing

        return words if words else seeing.answer({**body, "logprobs": False})

    with loopback.running(answer=lambda body: dict(answer(body))) as server:
        n = run(server)
        assert n > 3
        words.clear()
        server.answer = lambda body: {"tokens": [{"token": _token(body), "value": 3}]}
        asked = len(server.requests)
        assert run(server) == n and len(server.requests) == asked
        assert run(server, retry_failures=True) == 0 and len(server.requests) == asked + n


def _token(body: dict[str, Any]) -> str:
    import re

    return str(
        re.findall(r"\n( a\d+)\n", str([p for m in body["messages"] for p in [m["content"]]]).replace("\\n", "\n"))[-1]
    )

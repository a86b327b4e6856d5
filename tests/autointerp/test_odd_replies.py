"""Replies of any form are recorded as what they are; none of them stops the others, or a later run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import loopback
import numpy as np
import pytest
import seeing

import vlm_neurons as vn

GOOD = '{"phrase": "red", "description": "d", "confidence": 0.5, "clear_pattern": true}'


def message(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **fields}}]}


@pytest.mark.parametrize(("reply", "kind"), [
    ({"choices": [5]}, "server"), ({"choices": [None]}, "server"), ({"choices": {"a": 1}}, "server"),
    ({"choices": [{"message": "hello", "finish_reason": "stop"}]}, "server"), (message(content=5), "schema"),
    (message(content=[{"type": "text", "text": GOOD}]), None), (message(content=GOOD) | {"usage": "much"}, None),
    (message(content=GOOD, refusal=["no"]), "refusal"),
])  # fmt: skip
def test_a_reply_of_another_form_is_one_failure_and_stops_neither_the_others_nor_a_later_run(
    tmp_path: Path, reply: dict[str, Any], kind: str | None
) -> None:
    odd = lambda number, made: made | reply if number == 1 else made  # noqa: E731
    with loopback.running(change=odd) as server:
        for _ in range(2):
            asker = vn.explainers.OpenAIExplainer(
                "m", base_url=server.url, api_key="x", concurrency=1, max_retries=0, price=(0, 0)
            )
            found = vn.explain(cases.text_neurons(4), asker, out=tmp_path, progress=False)
            failures = [e.failure.kind for e in found.values() if e.failure]
            assert len(found) == 4 and failures == ([kind] if kind else [])
            kind = None if kind == "server" else kind  # what was no reply is asked for again
        assert len(server.requests) <= 5


@pytest.mark.parametrize("logprobs", [
    [1], {"content": ["x"]}, {"content": "x"}, {"content": [{"token": None, "top_logprobs": []}]},
    {"content": [{"text": "x"}]}, {"content": [{"token": "{", "top_logprobs": [{"token": "x", "logprob": None}]}]},
    "all",
])  # fmt: skip
def test_log_probabilities_of_another_form_leave_the_values_that_were_said(logprobs: Any) -> None:
    words = [[" w", " red", str(i)] for i in range(40)]
    evidence = {"t": vn.Evidence.from_arrays("t", tokens=words, token_acts=[np.random.rand(3) for _ in words])}

    def odd(number: int, made: dict[str, Any]) -> dict[str, Any]:
        there = made["choices"][0]["logprobs"]
        if logprobs == "all":  # every likeliest token has a chance beyond 1
            for place in there["content"]:
                place["top_logprobs"] = [{"token": t["token"], "logprob": 1e9} for t in place["top_logprobs"]]
        made["choices"][0]["logprobs"] = there if logprobs == "all" else logprobs
        return made

    with loopback.running(answer=seeing.answer, change=odd) as server:
        simulator = vn.simulators.ApiSimulator("m", base_url=server.url, api_key="x", price=(0, 0), max_retries=0)
        made = vn.simulate({"t": "the word 'red'"}, evidence, simulator, progress=False)["t", "text"]
    assert made.n_failed == 0 and len(made.predictions) > 10
    for one in made.predictions:
        assert one.token_acts is not None and one.token_acts.tolist() == [0, 10, 0]

"""Models that think aloud: the answer is found behind it, whichever way a server writes it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cases
import loopback
import pytest

import vlm_neurons as vn
from vlm_neurons.autointerp.client.answers import answer_of

ANSWER = {"phrase": "red", "description": 'd {"phrase": 1} </think>', "confidence": 0.5, "clear_pattern": True}
GOOD, DRAFT = json.dumps(ANSWER), json.dumps({**ANSWER, "phrase": "draft"})

READ = [
    ("alone", {"content": GOOD}),
    ("think block", {"content": f"<think>\nIs it {DRAFT}? No.\n</think>\n\n{GOOD}"}),
    ("think block that the template opened", {"content": f"Is it green? No.\n</think>\n\n{GOOD}"}),
    ("thought of the vendor's", {"content": f"<thought>green</thought>{GOOD}"}),
    ("think block in capitals", {"content": f"<THINK>\nIs it {DRAFT}? No.\n</THINK>\n\n{GOOD}"}),
    ("channels of gpt-oss", {"content": f"<|channel|>analysis<|message|>Is it {DRAFT}? No.<|end|><|start|>assistant"
                                        f"<|channel|>final<|message|>{GOOD}<|return|>"}),
    ("empty think block", {"content": f"<think></think>{GOOD}"}),
    ("reasoning beside", {"content": GOOD, "reasoning_content": DRAFT}),
    ("reasoning beside, newer name", {"content": GOOD, "reasoning": DRAFT}),
    ("answer filed under reasoning", {"content": None, "reasoning_content": GOOD}),
    ("answer filed under reasoning, newer name", {"content": "", "reasoning": f"```json\n{GOOD}\n```"}),
    ("words before a fence", {"content": f"Here is the JSON:\n```json\n{GOOD}\n```"}),
    ("words around", {"content": f"Sure {{as asked}}!\n{GOOD}\nI hope this helps."}),
    ("a fence", {"content": f"```\n{GOOD}\n```"}),
    ("parts", {"content": [{"type": "text", "text": GOOD[:9]}, {"type": "text", "text": GOOD[9:]}]}),
    ("parts with thoughts", {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
                                         {"type": "text", "text": GOOD}]}),
    ("byte order mark", {"content": "\ufeff" + GOOD}),
]  # fmt: skip

NOT_READ = [
    ("thinks only", {"content": None, "reasoning_content": f"Is it {DRAFT}? Yes."}, ("reasoning", "max_tokens")),
    ("never leaves its channel", {"content": '<|channel|>analysis<|message|>Is it {"phrase": "red"}? Hm,'},
     ("thinking", "max_tokens")),
    ("never stops thinking", {"content": '<think>Is it {"phrase": "red"}? Hm,'}, ("thinking", "max_tokens")),
    ("two answers", {"content": f"{DRAFT} or {GOOD}"}, ("2 JSON objects",)),
    ("half an answer", {"content": GOOD[:-3]}, ("begins with",)),
    ("no answer", {"content": "I see red."}, ("I see red",)),
    ("empty", {"content": ""}, ("empty",)), ("null", {"content": None}, ("empty",)),
    ("a number", {"content": 5}, ("no text",)), ("parts of no text", {"content": [5, {"type": "audio"}]}, ("no text",)),
    ("more than was asked", {"content": json.dumps({**ANSWER, "mood": 1})}, ("mood",)),
    ("braces without end", {"content": "{" * 20_000}, ("begins with",)),
    ("brackets without end", {"content": "x" + '{"a":[' * 20_000}, ("begins with",)),
]  # fmt: skip


def said(message: dict[str, Any]) -> vn.Explanation:
    def change(number: int, made: dict[str, Any]) -> dict[str, Any]:
        made["choices"][0]["message"] = {"role": "assistant", **message}
        return made

    with loopback.running(change=change) as server:
        asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", price=(0, 0), max_retries=0)
        return vn.explain(cases.text_neurons(1), asker, progress=False)["t0"]


@pytest.mark.parametrize(("how", "message"), READ, ids=[r[0] for r in READ])
def test_the_answer_is_found(how: str, message: dict[str, Any]) -> None:
    found = said(message)
    assert found.failure is None and (found.text, found.description) == ("red", ANSWER["description"])


@pytest.mark.parametrize(("how", "message", "words"), NOT_READ, ids=[r[0] for r in NOT_READ])
def test_what_is_no_answer_is_a_failure_that_says_what_came(
    how: str, message: dict[str, Any], words: tuple[str, ...]
) -> None:
    found = said(message).failure
    assert found is not None and found.kind in ("schema", "length") and all(w in found.detail for w in words), found


def texts() -> dict[str, vn.Evidence]:
    tokens = [[f" a{i}", " b"] for i in range(30)]
    return {"t": vn.Evidence.from_arrays("t", tokens=tokens, token_acts=[[0.0, i + 1.0] for i in range(30)])}


@pytest.mark.parametrize("kind", ["api", "judge"])
def test_simulators_give_a_thinking_model_the_room_that_it_is_told(kind: str, tmp_path: Path) -> None:
    def fault(number: int, body: dict[str, Any]) -> str:
        return "length" if body["max_tokens"] < 4000 else ""

    told: dict[str, Any] = {"base_url": "", "api_key": "x", "price": (0, 0), "max_retries": 0}
    tokens = {"tokens": [{"token": " a", "value": 1}, {"token": " b", "value": 2}]}
    answer = tokens if kind == "api" else {"match": True, "probability": 0.75}
    with loopback.running(fault=fault, answer=lambda body: dict(answer)) as server:
        told["base_url"] = server.url

        def failures(**options: Any) -> list[str]:
            if kind == "judge":
                judge = vn.simulators.ApiJudge("m", **told, **options)
                found = judge.judge("x", texts()["t"].split("test"))
                return [f.detail for f in found if not isinstance(f, float)]
            made = vn.simulate({"t": "x"}, texts(), vn.simulators.ApiSimulator("m", **told, **options), progress=False)
            return [p.failure.detail for p in made["t", "text"].predictions if p.failure]

        small = failures()
        assert small and all("max_tokens=" in f for f in small)
        assert not [f for f in failures(max_tokens=4000) if "tokens than" in f or "max_tokens" in f]
        assert {b["max_tokens"] for b in server.requests[-3:]} == {4000}


def test_probabilities_of_the_answer_are_read_behind_the_thoughts() -> None:
    """The thoughts hold the same key with other values."""
    said = json.dumps({"tokens": [{"token": " a", "value": 4}, {"token": " b", "value": 8}]})
    thought = '<think>"value": 1, "value": 2, "value": 3</think>'

    def place(token: str) -> dict[str, Any]:
        half = [{"token": str(int(token) // 2), "logprob": math.log(0.5)}] if token in "48" else []
        return {"token": token, "logprob": 0.0, "top_logprobs": [{"token": token, "logprob": math.log(0.5)}, *half]}

    answer = {"text": thought + said, "logprobs": {"content": [place(c) for c in thought + said]}}
    evidence = {"t": vn.Evidence.from_arrays("t", tokens=[[" a", " b"]] * 30,
                                             token_acts=[[0.0, i + 1.0] for i in range(30)])}  # fmt: skip
    with loopback.running(answer=lambda body: dict(answer)) as server:
        simulator = vn.simulators.ApiSimulator("m", base_url=server.url, api_key="x", price=(0, 0), max_retries=0)
        made = vn.simulate({"t": "x"}, evidence, simulator, progress=False)["t", "text"]
    assert made.n_failed == 0
    for one in made.predictions:
        assert one.token_acts is not None and one.token_acts.tolist() == [3.0, 6.0]


def test_an_answer_that_quotes_the_marks_of_channels_stays_whole() -> None:
    quoted = json.dumps({**ANSWER, "description": "fires on <|channel|>final<|message|> and <|end|>"})
    for content in (quoted, f"<|channel|>final<|message|>{quoted}<|return|>"):
        assert answer_of({"content": content}) == (quoted, None)

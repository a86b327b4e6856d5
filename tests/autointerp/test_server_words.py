"""What a server says reaches the user, in whatever form it comes; wrong addresses and keys are named."""

from __future__ import annotations

import json
import re
import socket
import time
from email.utils import formatdate
from typing import Any

import cases
import loopback
import pytest
from loopback import Says

import vlm_neurons as vn
from vlm_neurons.autointerp.client.answers import words_of

WORDS = "the dog ate the model"
BODIES = [
    ("OpenAI", {"error": {"message": WORDS, "code": None}}), ("LM Studio", {"error": WORDS}),
    ("TGI", {"error": WORDS, "error_type": "validation"}), ("FastAPI", {"detail": WORDS}),
    ("FastAPI, fields", {"detail": [{"type": "x", "loc": ["body", "user"], "msg": WORDS, "input": {}}]}),
    ("vLLM", {"object": "error", "message": WORDS, "code": 400}), ("errors", {"errors": [{"message": WORDS}]}),
    ("a list", [{"error": {"message": WORDS, "status": "INVALID_ARGUMENT"}}]),
    ("nested", {"error": {"message": "Provider returned error", "metadata": {"raw": json.dumps({"error": WORDS})}}}),
    ("plain text", WORDS), ("HTML", f"<!doctype html><html><head><title>Oops</title><style>p {{}}</style></head>"
                                    f"<body><h1>502</h1><p>{WORDS}</p></body></html>"),
    ("unknown keys", {"code": 7, "explanation": WORDS}),
]  # fmt: skip


def failure(server: loopback.Server, **options: Any) -> vn.autointerp.Failure:
    asker = vn.explainers.OpenAIExplainer("m", **{"base_url": server.url, "api_key": "x", "price": (0, 0),
                                                  "max_retries": 1, **options})  # fmt: skip
    found = vn.explain(cases.text_neurons(1), asker, progress=False)["t0"].failure
    assert found is not None
    return found


@pytest.mark.parametrize(("whose", "body"), BODIES, ids=[b[0] for b in BODIES])
def test_the_words_of_an_error_reach_the_user(whose: str, body: Any) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    with loopback.running(fault=lambda n, b: Says(400, text, "text/html" if "<" in text else "text/plain")) as server:
        found = failure(server)
        assert found.kind == "request" and WORDS in found.detail and "400" in found.detail, found
        assert "<p>" not in found.detail and len(server.requests) == 1
        server.fault = lambda n, b: Says(500, text)
        assert failure(server).kind == "server" and WORDS in failure(server).detail


INSIDE = [
    ("OpenRouter", {"error": {"message": WORDS, "code": 429}}, True),
    ("OpenRouter, in the choice", {"choices": [{"index": 0, "finish_reason": "error", "message": {
        "role": "assistant", "content": ""}, "error": {"code": 502, "message": WORDS}}]}, True),
    ("LM Studio", {"error": WORDS}, False), ("LM Studio, 503", {"error": f"HTTP 503: {WORDS}"}, True),
    ("a gateway", {"code": 500, "msg": WORDS, "success": False}, True),
    ("FastChat", {"object": "error", "message": WORDS, "code": 40303}, False),
    ("no choices", {"id": None, "choices": None, "error": {"message": WORDS, "code": "400"}}, False),
]  # fmt: skip


@pytest.mark.parametrize(("whose", "body", "again"), INSIDE, ids=[b[0] for b in INSIDE])
def test_an_error_inside_200_reaches_the_user_and_is_tried_again_where_it_will_pass(
    whose: str, body: Any, again: bool
) -> None:
    with loopback.running(fault=lambda n, b: Says(200, json.dumps(body))) as server:
        found = failure(server)
        assert WORDS in found.detail and len(server.requests) == 1 + again
        assert found.kind == ("server" if again else "request")
    with loopback.running(fault=lambda n, b: "" if n else Says(200, json.dumps(body))) as server:
        asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", price=(0, 0), max_retries=1)
        made = vn.explain(cases.text_neurons(1), asker, progress=False)["t0"]
        assert (made.failure is None) == again


def test_a_server_that_asks_for_an_hour_is_not_waited_for_and_not_asked_again_before() -> None:
    hour = formatdate(time.time() + 3600, usegmt=True)
    for later in ("3600", hour):
        slow = Says(429, json.dumps({"error": WORDS}), later=("retry-after", later))
        with loopback.running(fault=lambda n, b, slow=slow: slow) as server:
            found = failure(server)
            assert len(server.requests) == 1 and WORDS in found.detail
            assert re.search(r"it asks to come again in 3,(600|59\d) s", found.detail), found


ODD = [
    ("a web page", 200, "<html><title>Welcome to Open WebUI</title></html>", "text/html", "Open WebUI"),
    ("a stream", 200, 'data: {"choices": []}\n\ndata: [DONE]\n', "text/event-stream", "stream"),
    ("nothing", 200, "", "application/json", "nothing"), ("no JSON", 200, '{"id": ', "application/json", '{"id":'),
    ("a number", 200, "5", "application/json", "5"), ("not there", 404, '{"detail": "Not Found"}', "application/json",
                                                      "Not Found"),
    ("depth", 200, "[" * 200_000, "application/json", "[["),
]  # fmt: skip


@pytest.mark.parametrize(("whose", "status", "text", "kind", "seen"), ODD, ids=[o[0] for o in ODD])
def test_what_is_no_chat_server_names_the_address(whose: str, status: int, text: str, kind: str, seen: str) -> None:
    with loopback.running(fault=lambda n, b: Says(status, text, kind)) as server:
        found = failure(server, base_url=server.url.removesuffix("/v1"), max_retries=0)
    address = server.url.removesuffix("/v1")
    assert seen in found.detail and address in found.detail and "/v1" in found.detail.replace(server.url, "")
    assert len(found.detail) < 500


def test_nobody_at_the_address_is_said_with_the_address_and_the_cause() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    found = failure(loopback.Server(url=url), max_retries=0)
    assert found.kind == "network" and url in found.detail and "nobody" in found.detail
    found = failure(loopback.Server(url="http://no-such-host.invalid/v1"), max_retries=0)
    assert "no-such-host.invalid" in found.detail


def test_where_nobody_listens_few_tries_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[int] = []
    monkeypatch.setattr(
        "vlm_neurons.autointerp.client.sending._pause", lambda headers, tried: paused.append(tried) or 0
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    found = failure(loopback.Server(url=url), max_retries=9)
    assert "nobody answers" in found.detail and paused == [0]


@pytest.mark.parametrize("key", ["sk-abc\n", "sk-\r\nabc", "\u201csk-abc\u201d", " sk-abc", "sk-abc\x00"])
def test_a_key_that_no_header_can_hold_is_named_before_anything_is_sent(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"(?s)api_key.*(line break|blank|character)") as told:
        vn.explainers.OpenAIExplainer("m", base_url="http://localhost:1/v1", api_key=key)
    assert "abc" not in str(told.value)
    monkeypatch.setenv("OPENAI_API_KEY", key.replace("\x00", "\x01"))
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        vn.explainers.OpenAIExplainer("m", base_url="http://localhost:1/v1")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://", "http:///v1", "http://host:99999/v1", "http://a b/v1",
                                 "http://host:8000/v1/chat/completions", "http://[::1/v1"])  # fmt: skip
def test_an_address_that_cannot_be_right_is_named_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError, match="base_url="):
        vn.explainers.OpenAIExplainer("m", base_url=url)


def test_words_are_short_plain_and_without_pictures() -> None:
    long = {"error": {"message": f"cannot read data:image/png;base64,{'iVBOR' * 9000} sorry"}}
    assert words_of(json.dumps(long)) == "cannot read data:image/png;base64,... sorry"
    assert len(words_of("x " * 100_000)) <= 500 and words_of("<" * 100_000) and words_of("") == "nothing"

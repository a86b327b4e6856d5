"""What a server cannot do is found out from its refusals, in the words of the servers that there are, once they are
confirmed; nothing is found out from other errors. Every row was tried on a server on this machine.

Words of Gemini, OpenRouter, LM Studio and vLLM stand in public reports; the others are paraphrased.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import cases
import loopback
import pytest
from loopback import Says

import vlm_neurons as vn
from vlm_neurons.autointerp.client import Cache
from vlm_neurons.autointerp.client import cache as caches
from vlm_neurons.autointerp.client.prices import images_of

Body = dict[str, Any]

USES: dict[str, Callable[[Body], bool]] = {
    "schema": lambda body: "response_format" in body,
    "logprobs": lambda body: "logprobs" in body,
    "temperature": lambda body: "temperature" in body,
    "max_tokens": lambda body: "max_tokens" in body,
    "system": lambda body: any(m["role"] == "system" for m in body["messages"]),
    "images": lambda body: bool(images_of(body["messages"])),
}


def in_error(text: str, **more: Any) -> Body:
    return {"error": {"message": text, **more}}


REFUSALS = [
    ("schema", "Gemini", 400, in_error('Invalid JSON payload received. Unknown name "additionalProperties" at '
     "'generation_config.response_schema': Cannot find field.", status="INVALID_ARGUMENT")),
    ("schema", "Ollama", 400, in_error("invalid JSON schema in format")),
    ("schema", "llama.cpp", 400, in_error("JSON schema conversion failed: Unrecognized schema", code=400)),
    ("schema", "OpenRouter", 404, in_error("No endpoints found that support structured outputs", code=404)),
    ("schema", "LM Studio", 400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
    ("schema", "TGI", 422, {"error": "Grammar is not supported for this model", "error_type": "validation"}),
    ("schema", "OpenAI", 400, in_error("Invalid parameter", param="response_format")),
    ("schema", "FastAPI", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"],
     "msg": "Extra inputs are not permitted", "input": {"type": "json_schema"}}]}),
    ("schema", "Gemini, JSON mode", 400, in_error("JSON mode is not enabled for models/gemma-3-27b-it")),
    ("schema", "Ollama, no vocabulary", 500, in_error("failed to load model vocabulary required for format")),
    ("schema", "OpenRouter, parameters", 404, in_error("No endpoints found that can handle the requested parameters.",
     code=404)),
    ("schema", "behind a proxy", 400, in_error("Provider returned error", metadata={"raw": json.dumps(in_error(
     "response_format is not supported"))})),
    ("schema", "with 200", 200, {"error": {"message": "response_format is not supported", "code": 400}}),
    ("logprobs", "OpenAI", 403, in_error("You are not allowed to request logprobs from this model")),
    ("logprobs", "Gemini", 400, in_error("Logprobs is not enabled for models/gemini")),
    ("logprobs", "vLLM", 400, {"object": "error", "message": "top_logprobs is not supported", "code": 400}),
    ("logprobs", "of Grok", 400, in_error("This model does not support log probabilities")),
    ("temperature", "OpenAI", 400, in_error("Unsupported value: 'temperature' does not support 0 with this model. Only "
     "the default (1) value is supported.")),
    ("max_tokens", "OpenAI", 400, in_error("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
     "'max_completion_tokens' instead.")),
    ("system", "vLLM", 400, {"object": "error", "message": "System role not supported", "code": 400}),
    ("system", "llama.cpp", 500, in_error("Conversation roles must alternate user/assistant/user/assistant/...")),
    ("system", "Gemini", 400, in_error("Developer instruction is not enabled for models/gemma-3-27b-it")),
    ("system", "TGI", 422, {"error": "Template error: invalid operation: System role not supported (in <string>:1)",
     "error_type": "template_error"}),
    ("system", "Mistral's template", 400, {"object": "error", "message": "Only user, assistant and tool roles are "
     "supported, with the exception of an initial optional system message!", "code": 400}),
    ("images", "OpenRouter", 404, in_error("No endpoints found that support image input", code=404)),
    ("images", "Ollama", 500, in_error("missing data required for image input")),
    ("images", "LM Studio", 400, {"error": "Vision add-on is not loaded, but images were provided for processing"}),
    ("images", "LM Studio with 200", 200, {"error": "Vision add-on is not loaded, but images were provided"}),
    ("images", "llama.cpp", 500, in_error("image input is not supported - hint: if this is unexpected, you may need to "
     "provide the mmproj", code=500)),
    ("images", "vLLM", 400, {"object": "error", "message": "tiny is not a multimodal model", "code": 400}),
    ("images", "vLLM, none a prompt", 400, {"object": "error", "message": "At most 0 image(s) may be provided in one "
     "request.", "code": 400}),
    ("images", "TGI", 422, "Failed to deserialize the JSON body into the target type: messages[1].content: invalid "
     "type: sequence, expected a string at line 1 column 150"),
    ("images", "DeepSeek", 400, in_error("messages[1]: unknown variant `image_url`, expected `text`")),
    ("images", "Groq", 400, in_error("'messages.1' : messages[1].content must be a string")),
    ("images", "FastAPI", 422, {"detail": [{"type": "string_type", "loc": ["body", "messages", 1, "content"],
     "msg": "Input should be a valid string", "input": [{"type": "text"}]}]}),
    ("images", "with a word on policies", 404, in_error("No endpoints found that support image input. Filtered by your "
     "data policy: https://example.org/safety-policy")),
    ("images", "Anthropic's form", 400, in_error("Input tag 'image_url' found using 'type' does not match any of the "
     "expected tags: 'text'")),
    ("images", "OpenAI", 400, in_error("Invalid content type. image_url is only supported by certain models.")),
]  # fmt: skip


FEW = vn.explainers.Prompting(n_on=2, n_off=1)  # to pack the pictures of 11 samples takes longer than all else


def ask(server: loopback.Server, name: str, out: Path, **options: Any) -> tuple[list[Body], list[vn.Explanation]]:
    """Four neurons about which a server is asked, one after the other."""
    asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", price=(0, 0), concurrency=1,
                                          max_retries=0, prompting=FEW, **options)  # fmt: skip
    evidence = {n: cases.picture_neuron(n) for n in "abcd"} if name == "images" else cases.text_neurons(4)
    before = len(server.requests)
    found = vn.explain(evidence, asker, out=out, progress=False)
    return server.requests[before:], list(found.values())


def simulated(server: loopback.Server, out: Path) -> tuple[list[Body], list[Any]]:
    """Four texts about which a server is asked for log probabilities."""
    evidence = {"t": vn.Evidence.from_arrays("t", tokens=[[" a", f" {i}"] for i in range(30)],
                                             token_acts=[[0.0, i + 1.0] for i in range(30)])}  # fmt: skip
    simulator = vn.simulators.ApiSimulator("m", base_url=server.url, api_key="x", price=(0, 0), concurrency=1,
                                           max_retries=0)  # fmt: skip
    made = vn.simulate({"t": "numbers"}, evidence, simulator, out=out, progress=False)["t", "text"]
    return server.requests, list(made.predictions)


@pytest.mark.parametrize(("name", "whose", "status", "said"), REFUSALS, ids=[f"{r[0]}-{r[1]}" for r in REFUSALS])
def test_a_refusal_is_found_out_by_asking_once_more_and_then_without(
    name: str, whose: str, status: int, said: Any, tmp_path: Path
) -> None:
    import seeing

    def fault(number: int, body: Body) -> Says | str:
        return Says(status, said if isinstance(said, str) else json.dumps(said)) if USES[name](body) else ""

    if name == "logprobs":
        with loopback.running(fault=fault, answer=seeing.answer) as server:
            sent, got = simulated(server, tmp_path)
        assert len(got) > 3
    else:
        with loopback.running(fault=fault) as server:
            sent, got = ask(server, name, tmp_path)
    assert [g.failure for g in got] == len(got) * [None]
    first = [True, True, False]  # as it was, as it was, without
    if status == 500 and name != "images":
        first += [True]  # a server that breaks down twice may be back
    if name == "images":
        first += [True, True, False]  # of another picture it is said too
    assert [USES[name](body) for body in sent] == first + (len(sent) - len(first)) * [False]
    assert all(USES["max_tokens"](body) or name == "max_tokens" for body in sent)


ROWS_OWN = [
    "Could not process image", "The number of images (9) is not supported", "This model supports up to 5 images",
    "Your image was not allowed by our safety system", "image input was refused: it violates our content policy",
    "Image data could not be decoded; this image is not supported", "the model does not support this image",
    "Multiple images are not supported by this model", "supports only one image per request",
    "CMYK images are not supported", "16-bit images are not supported", "image URL is not supported, only base64",
    "Model does not allow images larger than 5MB", "Received 3 images but this model supports at most 2 images",
    "Vision requests are not available right now, please retry",
]  # fmt: skip


@pytest.mark.parametrize("said", ROWS_OWN)
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_one_row_s_picture_takes_the_pictures_from_no_other_row(said: str, first: bool, tmp_path: Path) -> None:
    """One picture is refused whenever it comes; other rows are asked with theirs."""
    bad: list[str] = []

    def fault(number: int, body: Body) -> Says | str:
        if number == (0 if first else 1):
            bad.extend(images_of(body["messages"]))
        return Says(400, json.dumps(in_error(said))) if bad and bad[0] in images_of(body["messages"]) else ""

    with loopback.running(fault=fault) as server:
        sent, found = ask(server, "images", tmp_path)
    cache = Cache(tmp_path / "cache.sqlite", reading=True)
    assert cache.capabilities(server.url, "m") == {}
    cache.close()
    others = {tuple(images_of(b["messages"])) for b in sent if images_of(b["messages"]) and bad[0] not in str(b)}
    assert len(others) == 3 and sum(e.failure is None for e in found) >= 3
    assert sum(e.failure is not None or e.prompt != found[-1].prompt for e in found) <= 1


REFUSED = "images are not supported"


def asked_at_once(server: loopback.Server, names: str, out: Path) -> dict[str, vn.Explanation]:
    asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", price=(0, 0), concurrency=4,
                                          max_retries=0, prompting=FEW)  # fmt: skip
    evidence = {n: cases.picture_neuron(n) for n in names}
    return vn.explain(evidence, asker, out=out, progress=False)


def test_two_bad_pictures_while_others_are_looked_at_take_nothing_from_the_rest(tmp_path: Path) -> None:
    """The first two that come are refused at once, whenever they come; the good ones take their time."""
    bad: list[str] = []
    lock = threading.Lock()

    def fault(number: int, body: Body) -> Says | str:
        own = images_of(body["messages"])
        with lock:
            if own and len(bad) < 2 and own[0] not in bad:
                bad.append(own[0])
        if own and own[0] in bad:
            return Says(400, json.dumps(in_error(REFUSED)))
        time.sleep(0.4)
        return ""

    with loopback.running(fault=fault) as server:
        found = asked_at_once(server, "abcdefghijkl", tmp_path)
        cache = Cache(tmp_path / "cache.sqlite", reading=True)
        assert cache.capabilities(server.url, "m").get("images", True) and not any(e.failure for e in found.values())
        cache.close()
    assert sum(e.prompt.endswith(" without pictures") for e in found.values()) == 2


def test_pictures_that_were_ever_taken_are_sent_on_when_a_run_goes_on(tmp_path: Path) -> None:
    with loopback.running() as server:
        evidence = {n: cases.picture_neuron(n) for n in "abcdefgh"}
        asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", price=(0, 0), concurrency=1,
                                              max_retries=0, prompting=FEW)  # fmt: skip
        vn.explain({n: evidence[n] for n in "abc"}, asker, out=tmp_path, progress=False)
        (tmp_path / "explanations.jsonl").unlink()
        server.fault = lambda n, body: Says(400, json.dumps(in_error(REFUSED))) if n in (3, 4, 6, 7) else ""
        found = vn.explain(evidence, asker, out=tmp_path, progress=False)
    assert [e.prompt.endswith(" without pictures") for e in found.values()] == [n in "de" for n in "abcdefgh"]


def test_a_second_row_is_asked_once_more_too(tmp_path: Path) -> None:
    def fault(number: int, body: Body) -> Says | str:
        return Says(400, json.dumps(in_error(REFUSED))) if number in (0, 1, 3) else ""

    with loopback.running(fault=fault) as server:
        sent, found = ask(server, "images", tmp_path)
    assert [USES["images"](body) for body in sent] == [True, True, False, True, True, True, True]
    assert not any(e.failure for e in found)


def test_a_server_that_breaks_down_twice_over_a_schema_keeps_its_schema(tmp_path: Path) -> None:
    words = json.dumps(in_error("internal error: the grammar backend failed"))
    with loopback.running(fault=lambda n, b: Says(500, words) if n < 2 else "") as server:
        sent, found = ask(server, "text", tmp_path)
    assert not any(e.failure for e in found)
    assert [USES["schema"](b) for b in sent] == [True, True, False, True, True, True, True]


def echo(body: Body) -> str:
    return json.dumps({"error": f"cannot read the request {json.dumps(body)[:4000]}: response_format is not supported"})


NO_REFUSALS = [
    ("a request that is quoted", 400, echo),
    ("a request that is quoted by FastAPI", 422, lambda body: json.dumps({"detail": [
        {"type": "missing", "loc": ["body", "user"], "msg": "Field required", "input": body}]})),
    ("no memory", 500, lambda body: json.dumps(in_error("CUDA out of memory while building the grammar mask"))),
    ("too long", 400, lambda body: json.dumps({"object": "error", "message": "'max_tokens' or 'max_completion_tokens' "
     "is too large: 500. This model's maximum context length is 64 tokens and your request has 900 input tokens; it "
     "does not support more", "code": 400})),
    ("one bad picture", 400, lambda body: json.dumps(in_error("You uploaded an unsupported image. Please make sure "
     "your image has of one the following formats: png"))),
    ("one picture's size", 400, lambda body: json.dumps(in_error("Image dimensions 224x224 are not supported"))),
    ("some pictures too many", 400, lambda body: json.dumps(in_error("At most 2 image(s) may be provided in one "
     "request."))),
    ("an unknown model", 404, lambda body: json.dumps(in_error("The model `m` does not exist"))),
    ("temperature, once", 400, lambda body: json.dumps(in_error("temperature is not supported"))),
    ("logprobs, once", 400, lambda body: json.dumps(in_error("logprobs is not supported"))),
]  # fmt: skip


@pytest.mark.parametrize(("whose", "status", "said"), NO_REFUSALS, ids=[r[0] for r in NO_REFUSALS])
@pytest.mark.parametrize("name", ["images", "schema"])
def test_what_has_another_cause_takes_nothing_away_from_later_requests(
    name: str, whose: str, status: int, said: Callable[[Body], str], tmp_path: Path
) -> None:
    with loopback.running(fault=lambda number, body: Says(status, said(body)) if number == 0 else "") as server:
        sent, _ = ask(server, name, tmp_path)
    assert len(sent) in (4, 5) and all(sent[-1].keys() == body.keys() for body in sent)
    assert all(bool(images_of(body["messages"])) == (name == "images") for body in sent)


@pytest.mark.parametrize(("whose", "status", "said"), NO_REFUSALS[:8], ids=[r[0] for r in NO_REFUSALS[:8]])
def test_what_has_another_cause_is_a_failure_of_every_request_and_is_not_kept(
    whose: str, status: int, said: Callable[[Body], str], tmp_path: Path
) -> None:
    with loopback.running(fault=lambda number, body: Says(status, said(body))) as server:
        _, failed = ask(server, "images", tmp_path)
        kinds = {e.failure.kind for e in failed if e.failure}
        assert kinds == {"server" if status == 500 else "request"} and len(failed) == 4
        server.fault = lambda number, body: ""
        sent, good = ask(server, "images", tmp_path)
    assert not any(e.failure for e in good) and all(
        all(uses(b) for n, uses in USES.items() if n != "logprobs") for b in sent
    )


def test_a_server_that_refuses_several_things_one_after_the_other(tmp_path: Path) -> None:
    names = ("schema", "temperature", "system", "images")

    def fault(number: int, body: Body) -> Says | str:
        wrong = [n for n in names if USES[n](body)]
        words = {"schema": "response_format", "temperature": "temperature", "system": "system role",
                 "images": "image_url"}  # fmt: skip
        return Says(400, json.dumps(in_error(f"{words[wrong[0]]} is not supported"))) if wrong else ""

    with loopback.running(fault=fault) as server:
        sent, found = ask(server, "images", tmp_path)
    assert not any(e.failure for e in found) and len(sent) == 6 + 3 + 2
    assert all(USES["max_tokens"](b) for b in sent) and not any(USES[n](sent[-1]) for n in names)


def test_of_two_fields_that_a_refusal_names_only_the_guilty_one_is_left_out(tmp_path: Path) -> None:
    words = in_error("unsupported: one of response_format, temperature")
    with loopback.running(fault=lambda n, b: Says(400, json.dumps(words)) if USES["temperature"](b) else "") as server:
        sent, found = ask(server, "text", tmp_path)
    assert not any(e.failure for e in found)
    assert USES["schema"](sent[-1]) and not USES["temperature"](sent[-1])


def test_what_was_found_out_is_asked_anew_after_a_while_and_no_answer_is_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = Says(400, json.dumps(in_error("response_format is not supported")))
    with loopback.running(fault=lambda n, b: refuse if USES["schema"](b) else "") as server:
        ask(server, "text", tmp_path)
        server.fault = lambda number, body: ""
        url, n = server.url, len(server.requests)
        cache = Cache(tmp_path / "cache.sqlite", reading=True)
        assert cache.capabilities(url, "m") == {"schema": False}
        monkeypatch.setattr(caches, "EXPIRY", timedelta(0))
        assert cache.capabilities(url, "m") == {}
        cache.close()
        (tmp_path / "explanations.jsonl").unlink()
        assert not any(e.failure for e in ask(server, "text", tmp_path)[1]) and len(server.requests) == n
        sent, _ = ask(server, "text", tmp_path, attempt=1)
    assert len(sent) == 4 and all(USES["schema"](body) for body in sent)


def test_a_refusal_that_could_not_be_found_out_names_the_way_round(tmp_path: Path) -> None:
    refuse = Says(400, json.dumps(in_error("the field response_format is odd")))
    with loopback.running(fault=lambda n, b: refuse) as server:
        _, found = ask(server, "text", tmp_path)
    assert all(e.failure and "schema=False" in e.failure.detail for e in found)

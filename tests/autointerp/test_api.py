"""Requests through a server that misbehaves: all answered or recorded, none paid twice, nothing leaks."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cases
import fresh
import loopback
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons.autointerp.client import Ask, Cache, ChatClient
from vlm_neurons.autointerp.client.prices import images_of
from vlm_neurons.autointerp.explainers import Prompting
from vlm_neurons.autointerp.explainers.requests import Answer
from vlm_neurons.autointerp.explaining import summary
from vlm_neurons.autointerp.store import read_explanations

KEY = "canary-5f1d7c2e9b"


def explainer(server: loopback.Server, **options: object) -> vn.explainers.OpenAIExplainer:
    quick = {"timeout": 0.6, "deadline": 3.0, "max_retries": 3, "concurrency": 24, "api_key": KEY}
    return vn.explainers.OpenAIExplainer("some-model", base_url=server.url, price=(1.0, 2.0), **{**quick, **options})  # type: ignore[arg-type]


def test_a_password_in_the_address_is_in_no_file(tmp_path: Path) -> None:
    with loopback.running(fault=lambda number, body: "no_schema" if number == 0 else "") as server:
        url = server.url.replace("http://", f"http://me:{KEY}@")
        found = vn.explain(cases.text_neurons(2), vn.explainers.OpenAIExplainer("m", base_url=url, price=(0, 0)),
                           out=tmp_path, progress=False)  # fmt: skip
    assert all(e.text == "red things" for e in found.values())
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert "cache.sqlite" in {f.name for f in files} and not [f for f in files if KEY.encode() in f.read_bytes()]


def test_two_hundred_neurons_and_a_fifth_of_faults(tmp_path: Path) -> None:
    evidence = cases.text_neurons(200)
    with loopback.running(fault=loopback.faulty(0.2, seed=seeds.number())) as server:
        first = vn.explain(evidence, explainer(server), out=tmp_path, progress=False)
        assert set(first) == set(evidence)
        lines = [json.loads(line) for line in (tmp_path / "explanations.jsonl").read_text().splitlines()]
        assert Counter(one["neuron"] for one in lines) == Counter(e.neuron for e in evidence.values())
        assert not [d for d, n in Counter(server.paid).items() if n > 1]
        failed = {k: e for k, e in first.items() if e.failure}
        assert all(e.text == "" and e.failure.kind and e.failure.detail for e in failed.values() if e.failure)
        assert {e.failure.kind for e in failed.values() if e.failure} <= {
            "refusal", "length", "schema", "filter", "server", "network"}  # fmt: skip
        assert all(
            e.text == "red things" and e.model == "some-model-2099-01-01" for e in first.values() if not e.failure
        )
        assert 4 < len(failed) < 80 and "failed" in summary(first)
        paid = list(server.paid)
        server.fault = lambda number, body: ""
        second = vn.explain(evidence, explainer(server), out=tmp_path, progress=False)
        assert not [d for d, n in Counter(server.paid).items() if n > 1]
        fresh = {k for k, e in failed.items() if e.failure and e.failure.kind in ("server", "network")}
        assert len(server.paid) - len(paid) == len(fresh)
        assert {k for k, e in second.items() if e.failure} == set(failed) - fresh
        # attempt= asks anew; a rerun of everything costs nothing
        third = vn.explain(evidence, explainer(server, attempt=1), out=tmp_path, progress=False)
        assert not any(e.failure for e in third.values())
        n = len(server.requests)
        vn.explain(evidence, explainer(server, attempt=1), out=tmp_path, redo=True, progress=False)
        assert len(server.requests) == n
    replay = vn.explain(evidence, explainer(server, attempt=1), out=tmp_path, redo=True, progress=False)
    assert {k: e.text for k, e in replay.items()} == {k: e.text for k, e in third.items()}, "the server is gone"
    assert all(e.cost == 0 for e in replay.values())


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3]), sys.path.insert(0, sys.argv[4])
import cases, vlm_neurons as vn
explainer = vn.explainers.OpenAIExplainer("m", base_url=sys.argv[1], api_key="x", concurrency=4, timeout=5)
vn.explain(cases.text_neurons(120), explainer, out=sys.argv[2], progress=False)
"""


def test_killed_and_resumed_asks_nothing_again(tmp_path: Path) -> None:
    here = Path(__file__).parent
    with loopback.running(delay=0.05) as server:
        process = fresh.start(_SCRIPT, server.url, tmp_path, here, here.parent, out=tmp_path)
        while len(server.paid) < 30 and process.is_alive():
            time.sleep(0.02)
        process.kill()
        process.join()
        cache = Cache(tmp_path / "cache.sqlite")
        kept = len(cache)
        cache.close()
        asked = [loopback.digest(b) for b in server.requests]
        assert 20 <= kept < 110 and len(asked) - kept <= 4, "at most what was under way is lost"
        told = vn.explainers.OpenAIExplainer("m", base_url=server.url, cache=tmp_path / "cache.sqlite")
        plan = told.plan(cases.text_neurons(120))
        assert len(asked) - kept <= plan.again <= 4 and plan.calls == 120 - kept
        assert ("may be charged twice" in str(plan)) == bool(plan.again)
        asker = vn.explainers.OpenAIExplainer("m", base_url=server.url, api_key="x", concurrency=4, timeout=5)
        with warnings.catch_warnings(record=True) as said:
            warnings.filterwarnings("always", ".*requests were under way")
            vn.explain(cases.text_neurons(120), asker, out=tmp_path, progress=False)
        warned = [str(w.message) for w in said if f"{plan.again} requests were under way" in str(w.message)]
        assert bool(warned) == bool(plan.again)
        assert told.plan(cases.text_neurons(120)).again == 0
        again = Counter(loopback.digest(b) for b in server.requests)
        assert len(again) == 120 and sum(n - 1 for n in again.values()) == len(asked) - kept
    explained = read_explanations(tmp_path)
    assert len(explained) == 120 and not any(e.failure for e in explained.values())


def test_no_key_in_any_file_message_or_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with loopback.running(fault=lambda number, body: "401" if number % 2 else "") as server:
        asker = explainer(server, api_key=None)
        explained = vn.explain(cases.text_neurons(8), asker, out=tmp_path, progress=False)
    assert server.authorization == {f"Bearer {KEY}"}, "the key has to reach the server"
    assert {e.failure.kind for e in explained.values() if e.failure} == {"request"}
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 2 and not [p for p in files if KEY.encode() in p.read_bytes()]
    assert KEY not in repr(explained) + repr(asker) + repr(explainer(server)) + repr(asker.client())


def test_max_cost_stops_before_it_is_passed_and_a_later_run_goes_on(tmp_path: Path) -> None:
    evidence = cases.text_neurons(30)
    with loopback.running() as server:
        options = {"concurrency": 4, "max_tokens": 20}
        plan = explainer(server, **options).plan(evidence)
        assert plan.calls == 30 and plan.cached == 0 and plan.cost is not None and not server.requests
        cost, rounds = plan.cost[1] / 30 + 8 * 140e-6, 0  # of one call at most, and of eight as they are
        spent = 0.0
        while rounds < 40:
            rounds += 1
            n = len(server.paid)
            found = vn.explain(evidence, explainer(server, max_cost=cost, **options), out=tmp_path, progress=False)
            spent = (len(server.paid) - n) * (100 * 1.0 + 20 * 2.0) / 1e6
            assert spent <= cost and len(server.paid) - n > 0
            if not any(e.failure for e in found.values()):
                break
            assert {e.failure.kind for e in found.values() if e.failure} == {"cost"}
        assert 2 <= rounds < 40 and len(server.paid) == len(set(server.paid)) == 30
        assert len((tmp_path / "explanations.jsonl").read_text().splitlines()) == 30
    with pytest.raises(ValueError, match="price"):
        vn.explainers.OpenAIExplainer("unknown", max_cost=1).client()


def test_a_server_without_schemas_is_found_out_once(tmp_path: Path) -> None:
    def fault(number: int, body: dict) -> str:  # type: ignore[type-arg]
        return "no_schema" if "response_format" in body else ""

    with loopback.running(fault=fault) as server:
        found = vn.explain(cases.text_neurons(6), explainer(server, concurrency=1), out=tmp_path, progress=False)
        assert not any(e.failure for e in found.values())
        assert [("response_format" in b) for b in server.requests] == 2 * [True] + 6 * [False], "asked once more"
        assert "JSON schema" in json.dumps(server.requests[-1])
        vn.explain(cases.text_neurons(9), explainer(server, concurrency=1), out=tmp_path, progress=False)
        assert len(server.requests) == 11, "remembered"
    with loopback.running(fault=fault) as server:
        found = vn.explain(cases.text_neurons(1), explainer(server, schema=True), progress=False)
        assert [e.failure.kind for e in found.values() if e.failure] == ["request"], "declared: not doubted"


@pytest.mark.parametrize("refusal", ["no_images", "no_images_500"])
def test_a_model_without_images_is_asked_in_numbers_and_words(refusal: str, tmp_path: Path) -> None:
    def fault(number: int, body: dict) -> str:  # type: ignore[type-arg]
        return refusal if images_of(body["messages"]) else ""

    evidence = {"a": cases.picture_neuron("a"), "b": cases.picture_neuron("b"), **cases.text_neurons(2)}
    with loopback.running(fault=fault) as server:
        asker = explainer(server, concurrency=1, max_retries=0)
        assert asker.plan(evidence).images == 8
        found = vn.explain(evidence, asker, out=tmp_path, progress=False)
        assert [bool(images_of(b["messages"])) for b in server.requests] == [True, True, False] * 2 + [False, False]
        assert not any(e.failure for e in found.values())
        assert {k for k, e in found.items() if e.prompt.endswith(" without pictures")} == {"a", "b"}
        assert "2 were asked without pictures" in summary(found)
        vn.explain(evidence, asker, out=tmp_path, redo=True, progress=False)
        assert len(server.requests) == 8, "remembered, and answered by the cache"
        told = explainer(server, images=False)
        assert told.plan(evidence).images == 0
        assert vn.explain(evidence, told, progress=False)["a"].prompt == found["a"].prompt
        assert len(server.requests) == 12, "declared: not tried"


def test_what_is_wrong_with_one_picture_is_no_word_on_pictures() -> None:
    def fault(number: int, body: dict) -> str:  # type: ignore[type-arg]
        return ("bad_image", "no_images")[number] if number < 2 else ""

    evidence = {name: cases.picture_neuron(name) for name in "abc"}
    with loopback.running(fault=fault) as server:
        found = vn.explain(evidence, explainer(server, concurrency=1, images=True), progress=False)
        assert [bool(images_of(b["messages"])) for b in server.requests] == 3 * [True], "declared: not doubted"
    with loopback.running(fault=lambda number, body: "" if number else "bad_image") as server:
        again = vn.explain(evidence, explainer(server, concurrency=1), progress=False)
        assert all(images_of(b["messages"]) for b in server.requests)
    assert {k: e.failure.kind for k, e in found.items() if e.failure} == {"a": "request", "b": "request"}
    assert {k: e.failure.kind for k, e in again.items() if e.failure} == {"a": "request"}


def test_works_inside_a_running_loop() -> None:
    async def notebook(server: loopback.Server) -> dict[str, vn.Explanation]:
        return vn.explain(cases.text_neurons(3), explainer(server), progress=False)

    with loopback.running() as server:
        assert len(asyncio.run(notebook(server))) == 3


def test_leaving_early_cancels_and_keeps_what_has_come(tmp_path: Path) -> None:
    evidence = cases.text_neurons(40)
    with loopback.running(delay=0.05) as server:
        asker = explainer(server, concurrency=2, cache=tmp_path / "c.sqlite")
        for n, _ in enumerate(asker.explain(evidence)):
            if n == 5:
                break
        time.sleep(0.2)
        assert 6 <= len(server.requests) <= 12
        assert asker.plan(evidence).cached >= 6


def test_without_a_key_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match=r"OPENAI_API_KEY.*dissection"):
        vn.explain(cases.text_neurons(1), vn.explainers.OpenAIExplainer("gpt-4o"), progress=False)


def test_the_best_candidate_on_the_select_split_is_kept() -> None:
    import numpy as np

    from vlm_neurons.autointerp.simulators import Prediction, Simulator

    evidence = {"both": cases.picture_neuron()}
    answers = iter(["wrong", "right", "also wrong"])

    class Oracle(Simulator):
        name = "oracle"

        def settings(self) -> str:
            return self.name

        def run(self, jobs):  # type: ignore[no-untyped-def]
            rng = np.random.default_rng(0)
            for place, job in enumerate(jobs):
                e = job.exemplar
                assert e.split == "select"
                right = job.explanation == "right"
                if job.side == "text":
                    tokens = e.token_acts if right else rng.random(e.token_acts.shape)
                    yield place, Prediction(token_acts=tokens)
                else:
                    yield place, Prediction(tuple(p if right else rng.random(p.shape) for p in e.patch_acts))

    def fault(number: int, body: dict) -> str:  # type: ignore[type-arg]
        server.answer = {**server.answer, "phrase": next(answers)}
        return ""

    with loopback.running(fault=fault) as server:
        asker = explainer(server, candidates=3, simulator=Oracle(), concurrency=1, prompting=Prompting(n_on=2, n_off=1))
        found = vn.explain(evidence, asker, progress=False)["both"]
    assert found.text == "right" and found.tokens_in == 300 and len(found.support) == 3


@pytest.mark.parametrize("where", ["answer", "refusal", "model"])
def test_half_a_character_in_a_reply_is_recorded_kept_and_paid_once(where: str, tmp_path: Path) -> None:
    half, evidence = "red \ud83d", cases.text_neurons(3)

    def answer(body: dict) -> dict:  # type: ignore[type-arg]
        body["model"] = half if where == "model" else "m"
        good = {"phrase": half if where == "answer" else "red", "description": "d", "confidence": 0.5,
                "clear_pattern": True}  # fmt: skip
        return {"text": json.dumps(good, ensure_ascii=False)}

    with loopback.running(answer=answer) as server:
        server.refusal = half
        server.fault = lambda number, body: "refusal" if where == "refusal" else ""
        for _ in range(2):
            found = vn.explain(evidence, explainer(server), out=tmp_path, redo=True, progress=False)
        assert len(server.requests) == 3, "the cache answers the second time"
    kinds = {"answer": {"schema"}, "refusal": {"refusal"}, "model": set()}[where]
    assert {e.failure.kind for e in found.values() if e.failure} == kinds
    assert len(read_explanations(tmp_path)) == 3


@pytest.mark.parametrize("fault", ["", "timeout", "cut", "invalid_json"])
def test_max_cost_counts_what_a_server_does_not_report(fault: str) -> None:
    evidence = cases.text_neurons(12)
    with loopback.running(usage=False, fault=lambda number, body: fault) as server:
        options = {"concurrency": 2, "max_retries": 0, "timeout": 0.3}
        plan = explainer(server, **options).plan(evidence)
        assert plan.cost is not None
        limit = 3.5 * plan.cost[1] / plan.calls
        found = vn.explain(evidence, explainer(server, max_cost=limit, **options), progress=False)
        assert 2 <= len(server.requests) <= 4, "as many as their bounds allow"
        assert sum(e.failure is not None and e.failure.kind == "cost" for e in found.values()) >= 8


def test_max_cost_does_not_count_what_a_server_refuses() -> None:
    evidence = cases.text_neurons(8)
    with loopback.running(fault=lambda number, body: "401") as server:
        plan = explainer(server).plan(evidence)
        assert plan.cost is not None
        found = vn.explain(evidence, explainer(server, max_cost=2 * plan.cost[1] / 8), progress=False)
    assert {e.failure.kind for e in found.values() if e.failure} == {"request"}


def test_a_simulator_is_known_by_name_and_a_wrong_one_is_refused_before_anything_is_paid() -> None:
    evidence = {"both": cases.picture_neuron()}
    with loopback.running() as server:
        named = explainer(server, candidates=2, simulator="concepts")
        found = vn.explain(evidence, named, progress=False)["both"]
    assert len(found.support) == 2, "both candidates were tried"
    assert named.settings() == explainer(server, candidates=2, simulator=vn.simulators.ConceptSimulator()).settings()
    for wrong in ("concept", vn.simulators.ConceptSimulator, 3):
        with pytest.raises(ValueError, match="simulator"):
            vn.explainers.OpenAIExplainer("m", candidates=2, simulator=wrong)  # type: ignore[arg-type]


def test_another_simulator_is_another_question() -> None:
    one, other = (
        vn.explainers.OpenAIExplainer("m", candidates=2, simulator=vn.simulators.ConceptSimulator(truth=t))
        for t in (True, False)
    )
    assert one.settings() != other.settings()


def test_an_answer_that_says_no_clear_pattern_is_none_whatever_its_flag() -> None:
    with loopback.running() as server:
        server.answer = {**server.answer, "phrase": "No clear pattern."}  # type: ignore[dict-item]
        found = vn.explain(cases.text_neurons(1), explainer(server), progress=False)
    assert [e.text for e in found.values()] == ["no clear pattern"]
    assert summary(found).startswith("0 of 1 neurons explained, 1 without a clear pattern")


def test_what_is_under_way_is_waited_for_where_a_question_cannot_be_made(tmp_path: Path) -> None:
    def asks() -> Iterator[Ask]:
        yield from (Ask(i, [{"role": "user", "content": str(i)}], Answer) for i in range(7))
        raise OSError("the pictures are gone")

    came = []
    with loopback.running(delay=0.2) as server:
        client = ChatClient("m", base_url=server.url, api_key=KEY, cache=tmp_path / "cache.sqlite", concurrency=4)
        with pytest.raises(OSError, match="pictures are gone"):
            for reply in client.stream(asks()):
                came.append(reply.ask.key)
    assert sorted(came) == list(range(7)) and len(server.paid) == 7


def test_questions_are_made_no_faster_than_answers_are_read() -> None:
    made = []

    def asks() -> Iterator[Ask]:
        for i in range(400):
            made.append(i)
            yield Ask(i, [{"role": "user", "content": "what?"}], Answer)

    client = ChatClient("m", base_url="http://127.0.0.1:9", api_key=KEY, price=(1.0, 1.0), max_cost=1e-9)  # refuses all
    replies = client.stream(asks())
    next(replies)
    before = -1
    while len(made) > before:
        before = len(made)
        time.sleep(0.3)
    assert 64 <= len(made) < 100
    assert len(list(replies)) == 399

"""Two simulators as one, and a model that judges whole samples."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import pytest
import seeds
import tiny

import vlm_neurons as vn
from vlm_neurons.autointerp.client.prices import images_of, parts_of
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.protocols import text_values
from vlm_neurons.autointerp.simulators import SIDES, Job, Prediction, Resolution, Simulator
from vlm_neurons.evidence import Exemplar


def exemplars(n: int) -> list[Exemplar]:
    rng = seeds.rng()
    one = vn.Evidence.from_arrays(
        "both", images=[tiny.image(16, 16, rng) for _ in range(n)], patch_acts=[rng.random((2, 2)) for _ in range(n)],
        tokens=[[f" red {i}", " and"] for i in range(n)], token_acts=[rng.random(2) for _ in range(n)], n_top=n,
    )  # fmt: skip
    return sorted(one.exemplars, key=lambda e: e.seen.sample)


@dataclass(frozen=True)
class Says(Simulator):
    """The same everywhere, backwards, and no answer to some."""

    value: float
    name: str = "says"
    fails: tuple[int, ...] = ()
    resolution: Resolution = Resolution()  # noqa: RUF009
    seen: tuple[Any, ...] = ()

    def settings(self) -> str:
        return f"{self.name} {self.value}"

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        for place in reversed(range(len(jobs))):
            job = jobs[place]
            if job.exemplar.seen.sample in self.fails:
                yield place, Prediction(failure=Failure("server", self.name), cost=1.0)
            elif job.side == "picture":
                yield place, Prediction((np.full((2, 2), self.value + job.exemplar.seen.sample),), cost=1.0)
            else:
                yield place, Prediction((), text_values(job, self.value), cost=1.0)


def test_each_side_comes_from_its_simulator_and_one_failure_hides_no_other_side() -> None:
    both = vn.simulators.BothSides(picture=Says(1.0, "eye", fails=(0, 1)), text=Says(2.0, "ear", fails=(1, 2)))
    jobs = [Job("x", e, side) for e in exemplars(4) for side in SIDES]
    found = list(both.run(jobs))
    assert sorted(place for place, _ in found) == list(range(8))
    of = dict(found)
    assert [len(of[i].patch_acts) for i in range(8)] == [0, 0, 0, 0, 1, 0, 1, 0]
    assert [i for i in range(8) if of[i].token_acts is not None] == [1, 7]
    assert {i: f.detail for i in range(8) if (f := of[i].failure)} == {0: "eye", 2: "eye", 3: "ear", 5: "ear"}
    assert [of[i].cost for i in range(8)] == [1] * 8
    np.testing.assert_array_equal(of[6].patch_acts[0], np.full((2, 2), 4.0))
    assert isinstance(both, Simulator) and both.sides == {"picture", "text"} and not both.paid


def test_its_resolution_settings_and_plan_are_those_of_both(tmp_path: Path) -> None:
    coarse, whole = Resolution(11, (1, 1)), Resolution(3)
    both = vn.simulators.BothSides(picture=Says(1.0, "eye", resolution=coarse), text=Says(2.0, "ear", resolution=whole))
    values = np.array([[0.0, 3.0]])
    assert both.resolution_on("picture").of(values).tolist() == [[2, 2]]
    assert both.resolution_on("text").of(values[0]).tolist() == [0, 5]
    changed = replace(both, text=Says(2.5, "ear"))
    assert both.settings() != changed.settings() and both.name == "eye+ear"
    asker = vn.simulators.ApiSimulator("m", base_url="http://127.0.0.1:1/v1", price=(1.0, 1.0))
    mixed = vn.simulators.BothSides(picture=Says(1.0), text=asker).with_cache(tmp_path / "c.sqlite")
    assert mixed.text.cache == tmp_path / "c.sqlite" and mixed.paid  # type: ignore[attr-defined]
    jobs = [Job("x", e, side) for e in exemplars(3) for side in SIDES]
    assert mixed.plan(jobs).calls == 3 and mixed.plan(jobs).images == 0
    with pytest.raises(ValueError, match="text=clip"):
        vn.simulators.BothSides(picture=asker, text=Clip())


class Clip(Says):
    def __init__(self) -> None:
        super().__init__(1.0, "clip")

    sides = frozenset({"picture"})


def test_a_simulator_about_single_neurons_is_told_which() -> None:
    @dataclass(frozen=True)
    class Own(Says):
        neuron: str = ""

        def for_neuron(self, evidence: vn.Evidence) -> Own:
            return replace(self, neuron=evidence.neuron)

    both = vn.simulators.BothSides(picture=Own(1.0), text=Says(1.0))
    one = vn.Evidence("L1N2", 1.0, ())
    assert both.for_neuron(one).picture.neuron == "L1N2" and both.for_neuron(one).text == both.text
    assert both.per_neuron and not vn.simulators.BothSides(picture=Says(1.0), text=Says(1.0)).per_neuron


def verdict(body: dict[str, Any]) -> Any:
    """True for even samples, with 3 to 1 where probabilities are asked for."""
    text = "\n".join(p["text"] for p in parts_of(body["messages"]) if p["type"] == "text")
    match = int(text.split(" red ")[1].split(" ")[0]) % 2 == 0
    found = {"match": match, "probability": 0.9 if match else 0.2}
    if not body.get("logprobs"):
        return found
    words = [str(match).lower(), str(not match).lower()]
    top = [{"token": f" {w}", "logprob": math.log(p), "bytes": None} for w, p in zip(words, (0.6, 0.2), strict=True)]
    pieces = {'{"match":': [], top[0]["token"]: top, f', "probability": {found["probability"]}}}': []}
    content = [{"token": t, "logprob": 0.0, "bytes": None, "top_logprobs": likely} for t, likely in pieces.items()]
    return {"text": json.dumps(found), "logprobs": {"content": content, "refusal": None}}


def test_a_judge_says_how_likely_every_sample_matches() -> None:
    shown = exemplars(5)
    with loopback.running(answer=verdict) as server:
        judge = vn.simulators.ApiJudge("m", base_url=server.url, api_key="x", price=(1.0, 1.0))
        plan = judge.plan("red things", shown)
        assert plan.calls == 5 and plan.images == 5 and not server.requests
        assert judge.judge("red things", shown) == pytest.approx([0.75, 0.25, 0.75, 0.25, 0.75])
        stated = replace(judge, logprobs=False, sides=("text",))
        assert stated.judge("red things", shown) == [0.9, 0.2, 0.9, 0.2, 0.9]
        assert [len(images_of(b["messages"])) for b in server.requests] == [1] * 5 + [0] * 5
        assert stated.settings() != judge.settings()


def test_a_judge_that_fails_on_a_sample_says_so(tmp_path: Path) -> None:
    def fault(number: int, body: dict[str, Any]) -> str:
        return "refusal" if " red 3 " in json.dumps(body) else ""

    with loopback.running(answer=verdict, fault=fault) as server:
        judge = vn.simulators.ApiJudge("m", base_url=server.url, api_key="x", cache=tmp_path / "c.sqlite")
        found = judge.judge("red things", exemplars(5))
        assert [isinstance(f, Failure) for f in found] == [False, False, False, True, False]
        server.answer = {"match": True, "probability": 1.5}
        (odd,) = judge.judge("blue things", exemplars(1))
    assert isinstance(odd, Failure) and odd.kind == "schema"

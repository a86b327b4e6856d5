"""Explanations from what a model says of a blank picture while one of its units is clamped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import seeds
import torch
from scipy.stats import fisher_exact

import vlm_neurons as vn
from vlm_neurons.autointerp.asked import Asking, words_of
from vlm_neurons.autointerp.explainers.steering import moved
from vlm_neurons.autointerp.explanation import NO_PATTERN
from vlm_neurons.planted.weights import rows_of, writing

WRITER = "post:L2N7"


@pytest.fixture(scope="module")
def model() -> Iterator[vn.HookedVLM]:
    """With a neuron that writes "red"."""
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    rows_of(model, "post", 2, 7)["out"].copy_(writing(model, "post", 2, "red"))
    yield model


def evidence_of(neuron: str, peak: float = 6.0) -> dict[str, vn.Evidence]:
    return {neuron: vn.Evidence(neuron, peak, ())}


@pytest.fixture(scope="module")
def steering(model: vn.HookedVLM) -> vn.SteeringExplainer:
    return vn.SteeringExplainer(model, strengths=(80, 2, 40), n=16, max_new_tokens=12)


def test_a_neuron_that_writes_red_is_explained_as_red_and_one_that_does_nothing_is_not(
    model: vn.HookedVLM, steering: vn.SteeringExplainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_of(model, "post", 2, 8)["out"].zero_()
    both = evidence_of(WRITER) | evidence_of("post:L2N8")
    found = vn.explain(both, steering, out=tmp_path)
    said = "steering: 2 neurons, 16 answers at each of 3 strengths and 32 without: 128 answers of up to 12 tokens"
    assert said in capsys.readouterr().err
    red, nothing = found[WRITER], found["post:L2N8"]
    assert red.text.startswith("the word 'red'") and "word:red" in red.concepts
    assert nothing.text == NO_PATTERN and not nothing.support and "none rises or falls" in nothing.description
    (raised, lowered) = red.support
    assert raised["words"][0] == "red" and raised["share"][0] > 0.9 > 0.3 > raised["before"][0]
    assert lowered["direction"] == "lowered" and "red" not in lowered["words"]
    assert raised["left_out"] == [40.0, 80.0] and "breaks down: 40, 80." in red.description  # no text is left there
    again = vn.explain(both, steering, out=tmp_path)
    assert {k: e.to_record() for k, e in again.items()} == {k: e.to_record() for k, e in found.items()}
    assert capsys.readouterr().err == ""  # nothing is asked again
    assert len((tmp_path / "explanations.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "explanations.jsonl").read_text().splitlines()[0])["neuron"] == WRITER


def test_explanations_by_steering_are_simulated_and_scored_as_any(
    model: vn.HookedVLM, steering: vn.SteeringExplainer
) -> None:
    said = vn.explain(evidence_of(WRITER), steering, progress=False)[WRITER].text
    data = vn.scenes(50, seed=seeds.number(1000))
    red = vn.Evidence.from_arrays(
        WRITER, images=[s.load_images()[0] for s in data], patch_acts=list(data.concept("color", "red")), n_top=10
    )
    row = vn.score({WRITER: said.split("; ")[0]}, {WRITER: red}, n_null=0, n_permutations=999, progress=False).iloc[0]
    assert row.r > 0.5


def test_rising_words_are_counted_as_by_a_brute_force_reference() -> None:
    rng = seeds.rng()
    words = ["red", "blue", "ring", "cross", "small", "large"]

    def texts(n: int, p: list[float]) -> list[str]:
        return [" ".join(w for w in words if rng.random() < p[words.index(w)]) + "." for _ in range(n)]

    before = texts(40, [0.1, 0.5, 0.9, 0.3, 0.5, 0.5])
    answers = {1.0: texts(20, [0.3, 0.5, 0.5, 0.3, 0.5, 0.5]), 2.0: texts(20, [0.9, 0.1, 0.1, 0.3, 0.5, 0.5])}
    found, level = moved(answers, before, 0.05), 0.05
    seen = sorted({w for t in [*before, *answers[1.0], *answers[2.0]] for w in t.strip(".").split()})
    for side, alternative, sign in ((found[0], "greater", 1), (found[1], "less", -1)):
        expected = {}
        for word in seen:
            a = sum(word in t for t in before)
            change = np.mean([sum(word in t for t in own) / 20 - a / 40 for own in answers.values()])
            for strength, own in answers.items():
                b = sum(word in t for t in own)
                p = fisher_exact([[b, 20 - b], [a, 40 - a]], alternative=alternative)[1] * len(seen) * 2
                if p < level and sign * change > 0 and sign * (b / 20 - expected.get(word, (0, 0, sign * -9))[2]) > 0:
                    expected[word] = (change, strength, b / 20, p)
        assert {one.word for one in side} == set(expected)
        for one in side:
            change, strength, share, p = expected[one.word]
            assert (one.strength, one.share) == (strength, share) and one.before == sum(
                one.word in t for t in before
            ) / 40
            assert one.change == pytest.approx(change) and one.p == pytest.approx(p)
        assert [abs(one.change) for one in side] == sorted((abs(one.change) for one in side), reverse=True)
    assert "red" in {one.word for one in found[0]} and "ring" in {one.word for one in found[1]}


@torch.no_grad()
def test_surprise_is_the_mean_negative_log_probability_of_all_tokens_but_the_first(model: vn.HookedVLM) -> None:
    asking = Asking(model, n=3, batch_size=2)
    texts = ["a small red ring.", "red", "red ring cross small red red"]
    found = asking.surprise(texts)
    for i in (0, 2):
        batch = model.prepare([asking._pictures[i]], ["Describe the image."], [texts[i]])
        logits, ids = model(batch)[0], batch.input_ids[0]
        told = [float(logits[at - 1].log_softmax(-1)[ids[at]]) for at in batch.mask("text")[0].nonzero()[1:, 0]]
        assert found[i] == pytest.approx(-np.mean(told), rel=1e-4)
    assert asking.limit(["ring", "cross", "a"], 0.5) == np.inf and np.isnan(asking.surprise([""])).all()
    assert np.isnan(found[1]) and found[2] > asking.limit(["a small red ring."] * 3, 0.3) > found[0]


def test_the_same_seed_says_the_same_and_pictures_may_be_left_out(model: vn.HookedVLM) -> None:
    unit = vn.Neuron.parse(WRITER)
    a, b, c = (Asking(model, n=4, max_new_tokens=5, seed=s, blank=False) for s in (0, 0, 1))
    assert a.answers(unit, 20.0) == b.answers(unit, 20.0) and a.answers() != c.answers()
    assert all("red" in words_of(answer) for answer in a.answers(unit, 20.0))
    assert a.settings("model") == b.settings("model") != c.settings("model")


def test_answers_that_only_repeat_are_counted_once_and_show_nothing(model: vn.HookedVLM) -> None:
    cold = vn.SteeringExplainer(model, strengths=(2,), n=16, max_new_tokens=6, temperature=0.01)
    found = vn.explain(evidence_of(WRITER), cold, progress=False)[WRITER]
    assert found.text == NO_PATTERN and "each different one was counted once" in found.description


def test_what_cannot_be_clamped_or_asked_is_told(model: vn.HookedVLM) -> None:
    blind = vn.SteeringExplainer(model, strengths=(2,), n=2, max_new_tokens=2, blank=False)
    every = evidence_of("P0N3") | evidence_of("a probe") | evidence_of("L0N999") | evidence_of("L9N1")
    every |= evidence_of("post:L2N9", peak=0.0)
    found = vn.explain(every, blind, progress=False)
    silent = found.pop("post:L2N9")
    assert silent.text == NO_PATTERN and "never active" in silent.description
    assert {e.failure.kind for e in found.values()} == {"capability"}
    assert (
        "blocks.9" in found["L9N1"].failure.detail
        and "0 to 383" in found["L0N999"].failure.detail
        and "blank=False shows none" in found["P0N3"].failure.detail
    )
    for wrong, said in (({"strengths": ()}, "some numbers above 0"), ({"strengths": (0, 1)}, "some numbers above 0"),
                        ({"strengths": (1, 1)}, "each once"), ({"strengths": "12"}, "some numbers above 0"),
                        ({"n": 0}, "n=0"), ({"temperature": -1}, "temperature=-1"),
                        ({"temperature": 0}, "temperature=0: give a temperature above 0"), ({"level": 3}, "level=3"),
                        ({"blank": "white"}, "blank='white'"), ({"seed": -1}, "seed=-1")):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=said):
            vn.SteeringExplainer(model, **wrong)

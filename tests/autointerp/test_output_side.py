"""Explanations from what a unit does: the words that its output weights raise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
import torch

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.explainers.output import output_of
from vlm_neurons.autointerp.explanation import NO_PATTERN, Failure
from vlm_neurons.concepts import Concept
from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.evidence.written import Written
from vlm_neurons.models.state import state_of
from vlm_neurons.planted.weights import measured, rows_of, writing


def evidence_of(neuron: str, peak: float = 6.0) -> dict[str, vn.Evidence]:
    """Of a neuron that nobody looked at."""
    return {neuron: vn.Evidence(neuron, peak, ())}


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")


@pytest.fixture(scope="module")
def says_red(model: vn.HookedVLM) -> Iterator[planted.Plant]:
    """A neuron for cyan that writes "red"."""
    with planted.plant(model, vn.scenes(40), Concept("color", "cyan"), layer=2, index=7, writes="red") as made:
        yield made


@pytest.fixture(scope="module")
def vocabulary(model: vn.HookedVLM) -> vn.VocabularyExplainer:
    return vn.VocabularyExplainer(model)


def test_a_neuron_that_writes_red_is_explained_as_red_and_its_opposite_is_not(
    says_red: planted.Plant, vocabulary: vn.VocabularyExplainer
) -> None:
    for key, direction in (("post:L2N7", "raised"), ("post:L2N7-", "lowered"), ("L2N7", "raised")):
        found = vn.explain(evidence_of(key), vocabulary, progress=False)[key]
        (moved,) = [s for s in found.support if "red" in s["words"]]
        assert moved["direction"] == direction and moved["words"][0] == "red"
        assert (found.text.split("; ")[0] == "the word 'red'") == (direction == "raised")
        assert ("word:red" in found.concepts) == (direction == "raised")
    with pytest.raises(ValueError, match=r"writes='two words': \d tokens of tiny-llava-scenes"):
        writing(vocabulary.model, "gate", 0, "two words")
    with pytest.raises(ValueError, match="'vision' write no words"):
        writing(vocabulary.model, "vision", 0, "red")


def test_random_directions_are_explained_as_rarely_as_the_level_says(model: vn.HookedVLM) -> None:
    rng = seeds.rng()
    vectors = {str(i): rng.normal(size=128) for i in range(300)}
    vn.sites.register(vn.sites.Directions(vectors, hook="blocks.2.hook_resid_post", name="chance"))
    every = {key: one for i in range(300) for key, one in evidence_of(f"chance:{i}").items()}
    try:
        found = vn.explain(every, vn.VocabularyExplainer(model, level=0.9), progress=False)
    finally:
        vn.sites.forget("chance")
    named = sum(e.text != NO_PATTERN for e in found.values())
    assert 12 <= named <= 54, named  # 30 are expected, give or take four standard deviations and the null's own


def test_words_that_stand_out_are_those_of_a_brute_force_reference(model: vn.HookedVLM) -> None:
    hf = model.bridge.original_model
    explainer = vn.VocabularyExplainer(model, level=0.0, n_null=50)
    found = vn.explain(evidence_of("post:L1N40"), explainer, progress=False)["post:L1N40"]
    written = hf.model.language_model.layers[1].mlp.down_proj.weight[:, 40].detach().double()
    words, rows = [], []
    for number in range(len(model.tokenizer)):
        word = model.tokenizer.decode([number]).strip()
        if model.tokenizer.convert_ids_to_tokens(number).startswith("\u2581") and word.isalpha():
            words.append(word.lower())
            rows.append((hf.lm_head.weight[number] * hf.model.language_model.norm.weight).detach().double())
    mean = sum(rows) / len(rows)
    cosines: dict[str, float] = {}
    for word, row in zip(words, rows, strict=True):
        cosine = float(torch.cosine_similarity(row - mean, written, dim=0))
        cosines[word] = max(cosines.get(word, 0.0), cosine, key=abs)  # "USER" is the word "user"
    for support in found.support:
        sign = 1 if support["direction"] == "raised" else -1
        order = sorted(cosines, key=lambda word: -sign * cosines[word])
        n = len(support["words"])
        assert support["words"] == order[:n]
        assert support["cosines"] == pytest.approx([sign * cosines[word] for word in order[:n]], abs=1e-3)
        assert sign * cosines[order[n - 1]] > support["null"] - 6e-4 > sign * cosines[order[n]] - 1.2e-3
    assert {s["direction"] for s in found.support} == {"raised", "lowered"}


def test_a_gate_writes_with_the_sign_that_its_up_has_where_it_is_active(
    model: vn.HookedVLM, says_red: planted.Plant, vocabulary: vn.VocabularyExplainer
) -> None:
    data = vn.scenes(20, seed=3)
    images = [sample.load_images()[0] for sample in data]
    acts = measured(model, data, says_red)
    looked = {"L2N7": vn.Evidence.from_arrays("L2N7", images=images, patch_acts=list(acts), n_top=8)}
    up = rows_of(model, "gate", 2, 7)["up"]
    told = {}
    try:
        for sign in (1, -1):
            up.mul_(sign)
            found = vn.explain(looked, vocabulary, progress=False)["L2N7"]
            told[sign] = next(s for s in found.support if "red" in s["words"])
    finally:
        up.mul_(-1)
    assert told[1]["words"] == told[-1]["words"] and told[1]["words"][0] == "red"
    assert [told[s]["direction"] for s in (1, -1)] == ["raised", "lowered"]
    assert [told[s]["unit"] for s in (1, -1)] == ["post:L2N7", "post:L2N7-"] and told[1]["one_sided"] > 0.9
    # recorded of samples that are not those drawn: it says nothing of them
    opposite = replace(looked["L2N7"], written=Written(1.0, -1.0, 1.0, state_of(model)))
    names = vn.explain(looked, vocabulary, progress=False)["L2N7"].text
    assert vn.explain({"L2N7": opposite}, vocabulary, progress=False)["L2N7"].text != names
    drawn = vn.autointerp.stability({"L2N7": names}, {"L2N7": opposite}, vocabulary, n=2, progress=False)
    assert drawn[["stability", "n", "n_failed"]].iloc[0].tolist() == [1, 2, 0]
    elsewhere = tuple(replace(e, patch_acts=tuple(m[:1] for m in e.patch_acts)) for e in opposite.exemplars)
    lost = {"L2N7": replace(opposite, exemplars=elsewhere)}  # as of pictures in tiles
    drawn = vn.autointerp.stability({"L2N7": names}, lost, vocabulary, n=2, progress=False)
    assert np.isnan(drawn["stability"][0]) and drawn["n_failed"][0] == 2


def test_weights_edited_by_hand_are_explained_anew(
    model: vn.HookedVLM, says_red: planted.Plant, vocabulary: vn.VocabularyExplainer, tmp_path: Path
) -> None:
    steering = vn.SteeringExplainer(model, strengths=(1,), n=8, max_new_tokens=8)
    joined = vn.explainers.JoinedExplainer(vocabulary, steering)
    every = evidence_of("post:L2N7", 20.0)
    before = vn.explain(every, joined, out=tmp_path, progress=False)
    out, mark, states = rows_of(model, "post", 2, 7)["out"], model.fingerprint(), []
    for factor in (-1, -1):
        out.mul_(factor)
        assert model.fingerprint() == mark  # which looks at some of all weights
        found = vn.explain(every, joined, out=tmp_path, progress=False)
        states.append([found["post:L2N7"].settings, "red" in found["post:L2N7"].text, steering.settings()])
    (name, buffer), *_ = [one for one in model.bridge.original_model.named_buffers() if one[1].is_floating_point()]
    buffer.view(-1)[0] += 1
    try:
        assert steering.settings() != states[1][2], name
    finally:
        buffer.view(-1)[0] -= 1
    settings = before["post:L2N7"].settings
    assert [said for _, said, _ in states] == [False, True] and states[1][0] == settings != states[0][0]
    assert states[0][2] != states[1][2] == steering.settings()
    assert len((tmp_path / "explanations.jsonl").read_text().splitlines()) == 3


def test_a_gate_is_read_under_the_questions_of_its_own_samples(model: vn.HookedVLM, tmp_path: Path) -> None:
    data = vn.scenes(16, task="question")
    run = vn.scan(model, data, ["gate"], out=tmp_path, batch_size=16, progress=False)
    evidence = vn.gather_evidence(model, data, run, ["L3N46", "L3N47", "L3N3"], n_spare=0, n_pool=0, out=run,
                                  progress=False)  # fmt: skip
    stored = vn.evidence.load(run)
    for key, one in evidence.items():
        units, places = [vn.Neuron.parse(key), vn.Neuron.parse(f"post:{key}")], []
        shown = [e.seen.sample for e in one.split("explain") if e.group == "top"]
        for sample in (data[i] for i in shown):
            images = sample.load_images()
            ((_, found),) = look(model, [Look(0, "", images, sample.prompt, sample.response)], [units])
            places += [
                np.stack([np.concatenate([*(m.ravel() for m in found[u.id][0]), found[u.id][1]]) for u in units])
            ]
        gate, post = np.concatenate(places, 1)
        mean = post[gate >= gate.max() / 2].mean()
        strong = gate[gate >= gate.max() / 2].mean()
        read = output_of(model, stored[key], state_of(model))
        again = output_of(model, replace(one, written=None), "")
        assert read == output_of(model, one, state_of(model)) and again.neuron == read.neuron
        assert read.neuron.pole == "-+"[int(mean > 0)]
        assert [read.peak, again.peak] == pytest.approx([abs(mean) / strong * one.peak] * 2, rel=1e-3)
        assert read.one_sided == pytest.approx(again.one_sided, rel=1e-3)
    unasked = tuple(replace(e, seen=replace(e.seen, prompt=None)) for e in one.exemplars)
    unsaid = replace(one, exemplars=unasked, written=None)
    with pytest.raises(ValueError, match=r"L3N3 reaches .* does not say what was asked .* gather it again"):
        output_of(model, unsaid, "")
    told = vn.explain({"L3N3": unsaid}, vn.VocabularyExplainer(model, n_null=9), progress=False)["L3N3"]
    assert told.failure is not None and "gather it again" in told.failure.detail


def test_joined_explanations_keep_the_sides_of_both_and_the_question_of_neither() -> None:
    sided = vn.Explanation("L0N1", "red regions; the word 'red'", confidence=0.9, settings="S", tokens_in=2,
                           by_side={"picture": "red regions", "text": "the word 'red'"})  # fmt: skip
    other = vn.Explanation(
        "L0N1", "cups; red regions", settings="T", tokens_in=3, by_side={"picture": "cups; red regions"}
    )
    quiet = vn.Explanation("L0N1", NO_PATTERN, settings="Q")
    for one in (vn.autointerp.joined(quiet, sided), vn.autointerp.joined(sided, quiet)):
        assert one.text == sided.text and one.by_side == sided.by_side and one.settings == ""
    both = vn.autointerp.joined(sided, other)
    assert both.by_side == {"picture": "red regions; cups", "text": "the word 'red'"}
    assert both.text == "red regions; the word 'red'; cups" and np.isnan(both.confidence) and both.settings == ""
    assert vn.autointerp.joined(sided, vn.Explanation("L0N1", "the word 'x'")).by_side == {}
    failed = vn.autointerp.joined(sided, replace(other, text="", failure=Failure("network", "gone")))
    assert failed.failed and failed.settings == "" and failed.tokens_in == 5
    assert not vn.explainers.JoinedExplainer("dissection", "dissection").sides_apart


def test_joined_explanations_say_both_and_what_both_say_once(vocabulary: vn.VocabularyExplainer) -> None:
    class Reads(vn.explainers.Explainer):
        def explain(self, evidence: Any) -> Iterator[tuple[str, vn.Explanation]]:
            for key in evidence:
                yield key, vn.Explanation(key, "cyan regions; the word 'red'", explainer="reads", exemplars=(4,))

    joined = vn.explainers.JoinedExplainer(Reads(), vocabulary)
    found = vn.explain(evidence_of("post:L2N7"), joined, progress=False)["post:L2N7"]
    assert found.text.startswith("cyan regions; the word 'red'") and found.text.count("'red'") == 1
    assert found.explainer == "reads+vocabulary" and found.exemplars == (4,) and "word:red" in found.concepts
    failed = vn.explain(evidence_of("V0N3"), joined, progress=False)["V0N3"]
    assert failed.failed and not failed.text and failed.explainer == "reads+vocabulary"
    quiet = vn.Explanation("post:L2N7", NO_PATTERN)
    assert vn.autointerp.joined(quiet, found).text == found.text
    with pytest.raises(ValueError, match="post:L2N7 and L0N1: only those of one neuron"):
        vn.autointerp.joined(found, vn.Explanation("L0N1", "x"))


def test_what_writes_with_other_weights_under_the_same_name_is_explained_anew(
    model: vn.HookedVLM, vocabulary: vn.VocabularyExplainer, tmp_path: Path
) -> None:
    steering = vn.SteeringExplainer(model, strengths=(1,), n=4, max_new_tokens=4)
    both, every, found = vn.explainers.JoinedExplainer(vocabulary, steering), evidence_of("mine:x", 20.0), []
    red, blue = (writing(model, "post", 2, word).float().numpy() for word in ("red", "blue"))
    for vector in (red, blue, red):
        vn.sites.register(vn.sites.Directions({"x": vector}, hook="blocks.2.hook_resid_post", name="mine"))
        try:
            answers = [vn.explain(every, one, out=tmp_path, progress=False)["mine:x"] for one in (vocabulary, both)]
            vn.faithfulness(model, {"mine:x": "red"}, every, (1,), 4, max_new_tokens=4, out=tmp_path, progress=False)
        finally:
            vn.sites.forget("mine")
        assert [("'red'" in one.text, "'blue'" in one.text) for one in answers] == [(vector is red, vector is blue)] * 2
        found.append([one.settings for one in answers])
    assert found[0] == found[2] and not {*found[0]} & {*found[1]}
    assert len([*(tmp_path / "faithfulness").glob("*.json")]) == 2


def test_what_writes_no_words_is_a_failure_that_says_so(vocabulary: vn.VocabularyExplainer, tmp_path: Path) -> None:
    every = evidence_of("V0N3") | evidence_of("a probe") | evidence_of("L0N999") | evidence_of("L2H1")
    found = vn.explain(every, vocabulary, out=tmp_path, progress=False)
    assert {e.failure.kind for e in found.values()} == {"capability"} and not any(e.text for e in found.values())
    told = " ".join(e.failure.detail for e in found.values())
    assert "V0N3: " in told and "a probe" in told and "0 to 383" in told
    with pytest.raises(ValueError, match="words=0: give a whole number from 1 on"):
        vn.VocabularyExplainer(vocabulary.model, words=0)
    with pytest.raises(ValueError, match="level=2: give a share"):
        vn.VocabularyExplainer(vocabulary.model, level=2)

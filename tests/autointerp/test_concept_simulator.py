"""The simulator that needs no key understands what the banks can say, and says so where it does not."""

from __future__ import annotations

import numpy as np
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.simulators import SIDES, ConceptSimulator
from vlm_neurons.concepts import Concept, phrase, visual_bank
from vlm_neurons.concepts.naming import named

SEED = seeds.PLANTED


def on_both_sides(text, exemplars):
    """(exemplar, prediction of its picture, of its words)."""
    return list(zip(exemplars, *(ConceptSimulator().simulate(text, exemplars, side) for side in SIDES), strict=True))


@pytest.mark.parametrize("kind", ["color", "shape", "size", "position", "conjunction", "word", "context",
                                  "picture_or_word", "picture_and_word", "polysemantic", "sign_flipped"])  # fmt: skip
def test_a_true_explanation_is_simulated_as_the_rule_itself(kind):
    for p in planted.neurons(kind, n=2, seed=SEED):
        exemplars = p.evidence.split("test")
        for e, seen, read in on_both_sides(p.rule.explanations["true"], exemplars):
            patches, tokens = planted.oracle(p, e)
            if p.rule.visual:
                wanted = 10 - patches[0] if p.rule.sign < 0 else patches[0]
                np.testing.assert_allclose(seen.patch_acts[0], wanted, atol=1e-6, err_msg=str(p.rule))
            if p.rule.text:
                np.testing.assert_allclose(read.token_acts, tokens, err_msg=str(p.rule))


def test_what_the_dissection_explainer_says_is_understood():
    made = planted.neurons(["color", "position", "word_class", "context", "polysemantic"], n=2, seed=SEED)
    for e in vn.explain({p.evidence.neuron: p.evidence for p in made}, progress=False).values():
        assert not named(e.text).unknown, e.text


def test_edges_are_understood_with_and_without_what_they_are_edges_of():
    for concepts in (
        [("edge", "")],
        [("edge", "vertical"), ("color", "red")],
        [("edge", "diagonal"), ("position", "top")],
    ):
        found = [Concept(*c) for c in concepts]
        (alternative,) = named(phrase(found)).visual
        assert set(alternative.concepts) == set(found)
    assert named("the edge of the image").visual[0].concepts == (Concept("position", "edge"),)


def test_every_concept_of_the_visual_banks_is_read_back_from_its_phrase():
    seen = planted.neurons("color", n=1, seed=SEED)[0].evidence.exemplars[0].seen
    concepts = sorted(visual_bank(seen)[0])
    rng = seeds.rng()
    pairs = [rng.choice(len(concepts), 2, replace=False) for _ in range(200)]
    for chosen in [[c] for c in concepts] + [[concepts[i] for i in p] for p in pairs]:
        if len({c.kind for c in chosen}) < len(chosen):
            continue
        found = named(phrase(chosen))
        assert not found.unknown and len(found.visual) == 1, (chosen, phrase(chosen))
        extra = set(found.visual[0].concepts) - {Concept("object", "")}  # "objects" may be the noun of what has none
        assert extra == set(chosen) - {Concept("object", "")}, (chosen, phrase(chosen), found)


def test_capitals_change_nothing():
    for text in ("the word 'red'", "words after 'red'", "red circles", "words for colors", "capitalized words"):
        assert named(text[0].upper() + text[1:]) == named(text) != named("") and not named(text).unknown, text


def test_two_colours_at_once_are_not_taken_for_a_place_that_has_both():
    assert len(named("red circles; blue squares").visual) == 2
    (odd, *_) = named("red circles, blue squares").unknown
    assert "red" in odd and "blue" in odd and "semicolons" in odd


def test_an_explanation_of_one_side_stands_for_the_same_thing_on_the_other():
    (p,) = planted.neurons("picture_or_word", n=1, seed=SEED)
    color = next(c.value for c in p.rule.text)
    exemplars = p.evidence.split("test")
    for text in (f"{color} regions", f"the word '{color}'"):
        for e, seen, read in on_both_sides(text, exemplars):
            patches, tokens = planted.oracle(p, e)
            np.testing.assert_allclose(read.token_acts, tokens)
            np.testing.assert_allclose(seen.patch_acts[0], patches[0], atol=1e-6)


def test_what_no_bank_has_is_a_failure_that_names_it_and_never_zeros():
    exemplars = planted.neurons("color", n=1, seed=SEED)[0].evidence.split("test")[:3]
    for text in ("dogs in snow", "words for weather", "red cars; blue regions"):
        for guess in (guess for _, *both in on_both_sides(text, exemplars) for guess in both):
            assert guess.failure is not None and guess.failure.kind == "vocabulary"
            assert guess.patch_acts == () and guess.token_acts is None
    assert "dogs, snow" in ConceptSimulator().simulate("dogs in snow", exemplars, "text")[0].failure.detail
    pixels = ConceptSimulator(truth=False).simulate("circles", exemplars, "picture")[0]
    assert pixels.failure is not None and "shape:circle" in pixels.failure.detail
    assert ConceptSimulator(truth=False).simulate("red regions", exemplars, "picture")[0].failure is None


@pytest.mark.parametrize("text", ["", "no clear pattern", " No clear pattern. "])
def test_what_says_nothing_is_constant(text):
    exemplars = planted.neurons("picture_or_word", n=1, seed=SEED)[0].evidence.split("test")[:2]
    for _, seen, read in on_both_sides(text, exemplars):
        assert seen.failure is None and not seen.patch_acts[0].any()
        assert read.failure is None and not np.nan_to_num(read.token_acts).any()


@pytest.mark.parametrize("kind", ["color", "word", "picture_or_word", "picture_and_word", "sign_flipped"])
def test_many_exemplars_at_once_get_what_each_gets_alone(kind):
    exemplars = planted.neurons(kind, n=1, seed=SEED)[0].evidence.split("test")
    kinds = ["conjunction", "position", "word_class", "picture_and_word"]
    others = [
        p.rule.explanations[name] for p in planted.neurons(kinds, n=1, seed=SEED + 1) for name in ("true", "too_narrow")
    ]
    simulator = ConceptSimulator()
    for side in SIDES:
        say = simulator.at_once(exemplars, side)
        for text in (*others, "", "anything but red regions", "dogs", "red circles; the word 'red'"):
            alone = simulator.simulate(text, exemplars, side)
            found = say(text)
            assert (found is None) == any(p.failure for p in alone), text
            if found is not None:
                values = [m.ravel() for p in alone for m in p.patch_acts]
                if side == "text":
                    values = [p.token_acts[e.seen.is_text] for e, p in zip(exemplars, alone, strict=True)]
                np.testing.assert_array_equal(found, np.concatenate([[], *values]), err_msg=text)


def test_weights_that_are_said_are_read_back_and_simulated():
    from vlm_neurons.autointerp.simulators.phrases import own_phrases
    from vlm_neurons.concepts.naming import weighed

    text = "; ".join([weighed("red regions", 1), weighed("blue regions", 0.55), weighed("the word 'red'", 0.2)])
    assert text == "red regions; less strongly: blue regions; weakly: the word 'red'" and not named(text).unknown
    assert [a.strength for a in (*named(text).visual, *named(text).text)] == [1, 0.5, 0.25]
    assert [(p.words, p.strength) for p in own_phrases(text)] == [("red", 10), ("blue", 5), ("red", 2.5)]
    exemplars = planted.neurons("color", n=1, seed=SEED)[0].evidence.split("test")[:6]
    both, red, blue = (
        ConceptSimulator().simulate(t, exemplars, "picture")
        for t in ("red regions; less strongly: blue regions", "red regions", "blue regions")
    )
    for b, x, y in zip(both, red, blue, strict=True):
        np.testing.assert_allclose(b.patch_acts[0], (x.patch_acts[0] + 0.5 * y.patch_acts[0]) / 1.5, atol=1e-12)


def test_a_weighted_sum_of_a_run_is_said_strongest_first():
    from vlm_neurons.autointerp.from_concepts import _said

    parts = [{"phrase": "red regions", "weight": 0.45}, {"phrase": "circles", "weight": 1.0}]
    assert _said({"phrase": "red regions", "parts": parts}) == "circles; less strongly: red regions"
    assert _said({"phrase": "red regions", "parts": []}) == "red regions"

"""The dissection explainer says what planted neurons do, and keeps silent about noise."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import seeds
from PIL import Image, ImageDraw

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.explainers.dissection import correlations
from vlm_neurons.autointerp.explanation import NO_PATTERN
from vlm_neurons.concepts import Concept, lexical_bank, pixel_bank, visual_bank
from vlm_neurons.concepts.shares import means
from vlm_neurons.concepts.visual import PLACES, places, planes_of, unlike_border
from vlm_neurons.evidence.arrays import tiles

SEED = seeds.PLANTED


def explained(kind: str, n: int, truth: bool = True) -> tuple[int, int]:
    made = planted.neurons(kind, n=n, seed=SEED)
    found = vn.explain(
        {p.evidence.neuron: p.evidence for p in made}, vn.explainers.DissectionExplainer(truth=truth), progress=False
    )
    right = sum(found[p.evidence.neuron].concepts == p.rule.concepts for p in made)
    assert all(set(found[p.evidence.neuron].exemplars) == {e.seen.sample for e in p.evidence.split("explain")}
               for p in made)  # fmt: skip
    return right, sum(e.text == NO_PATTERN for e in found.values())


@pytest.mark.parametrize("kind", ["color", "shape", "word", "word_class", "context", "picture_or_word"])
def test_rules_of_the_bank_are_found(kind: str) -> None:
    right, _ = explained(kind, 4)
    assert right >= 3, f"seed {SEED}"


@pytest.mark.parametrize("kind", ["color", "position"])
def test_colors_and_places_are_found_from_pixels_alone(kind: str) -> None:
    assert explained(kind, 4, truth=False)[0] >= 3, f"seed {SEED}"


def test_what_neighbours_of_a_word_reach_is_no_chance() -> None:
    """Activations at a word, shifted by one token, are at what the bank calls its neighbours: r as high as its own."""
    one = planted.neurons("word", n=1, seed=358)[0].evidence
    for seed in range(12):
        [(_, found)] = vn.explainers.DissectionExplainer(n_null=40).explain({"one": replace(one, seed=seed)})
        assert found.support and found.support[0]["null"] < 0.5 * found.support[0]["r"], (seed, found.support)


def test_noise_has_no_clear_pattern() -> None:
    assert explained("noise", 6)[1] >= 4, f"seed {SEED}"


def test_the_answer_depends_on_the_explain_split_only() -> None:
    one = planted.neurons("color", n=1, seed=SEED)[0].evidence
    kept = vn.Evidence(one.neuron, one.peak, one.split("explain"), one.label, one.seed, one.source)
    a, b = (vn.explain({e.neuron: e}, progress=False)[e.neuron] for e in (one, kept))
    assert (a.text, a.support) == (b.text, b.support)


def test_planted_evidence_follows_its_rule() -> None:
    for p in planted.neurons(["size", "conjunction", "context", "picture_and_word", "polysemantic"], n=1, seed=SEED):
        real, ideal = [], []
        for e in p.evidence.exemplars:
            maps, tokens = planted.oracle(p, e)
            for patches, guess in zip(e.patch_acts, maps, strict=True):
                real.append(p.evidence.scale(patches).ravel())
                ideal.append(guess.ravel())
            real.append(p.evidence.scale(e.token_acts))
            ideal.append(tokens)
        assert np.corrcoef(np.concatenate(real), np.concatenate(ideal))[0, 1] > 0.7, p.rule
        assert set(p.rule.explanations) == {"true", "near_miss", "too_broad", "too_narrow", "wrong"}
        assert len(set(p.rule.explanations.values())) == 5


def test_masks_of_the_bank_equal_a_count_by_hand() -> None:
    rng = seeds.rng()
    values = rng.random((20, 30))
    boxes = np.array([[[0, 0, 11, 7], [11, 0, 30, 7]], [[0, 7, 11, 20], [11, 7, 30, 20]]], float)
    by_hand = [[values[0:7, 0:11].mean(), values[0:7, 11:30].mean()], [values[7:, :11].mean(), values[7:, 11:].mean()]]
    np.testing.assert_allclose(means(values, boxes), by_hand)
    seen = planted.neurons("color", n=1, seed=SEED)[0].evidence.exemplars[0].seen
    shares = sum(m for c, m in pixel_bank(seen)[0].items() if c.kind == "color")
    np.testing.assert_allclose(shares, 1, err_msg="every pixel has exactly one color name")
    scenes = vn.scenes(1000, seed=SEED)
    true = visual_bank(seen)[0]
    for kind, word in [("shape", "ring"), ("color", "red"), ("place", "top left")]:
        np.testing.assert_allclose(true[Concept(kind, word)], scenes.concept(kind, word)[seen.sample])


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_a_neuron_for_edges_is_explained_by_their_direction(direction: str) -> None:
    rng = seeds.rng()
    images, patches = [], []
    for _ in range(40):
        image = Image.new("RGB", (80, 80), (128, 128, 128))
        for kind, (dx, dy) in {"horizontal": (30, 0), "vertical": (0, 30), "diagonal": (22, 22)}.items():
            (x, y), before = rng.integers(0, 50, 2).tolist(), np.asarray(image)
            shade = int(rng.choice([0, 255]))
            ImageDraw.Draw(image).line((x, y, x + dx, y + dy), fill=(shade,) * 3, width=3)
            if kind == direction:
                drawn = (np.asarray(image) != before).any(-1).astype(float)
        images.append(image)
        patches.append(means(drawn, tiles((80, 80), (10, 10))) + rng.normal(0, 0.02, (10, 10)))
    one = vn.Evidence.from_arrays("edges", images=images, patch_acts=patches, n_top=20)
    assert vn.explain({"edges": one}, progress=False)["edges"].text.startswith(f"{direction} edges")  # or: of objects


def test_objects_have_their_place_from_pixels_on_any_background() -> None:
    scenes = vn.scenes(60, seed=SEED)
    real, true = [], []
    for i in range(60):
        found = places(unlike_border(planes_of(np.asarray(scenes[i].load_images()[0]))))
        boxes = tiles((64, 64), (8, 8))
        for number, place in enumerate(PLACES, 1):
            real.append(means(found == number, boxes))
            true.append(scenes.concept("place", place)[i])
    assert np.corrcoef(np.ravel(real), np.ravel(true))[0, 1] > 0.9


def test_words_of_several_tokens_are_one_word() -> None:
    texts = [["The", " ele", "phant", " eats", "."], ["An", " elephant", ",", " two"], ["the", " end", "."]]
    bank = lexical_bank(texts)
    assert [m.tolist() for m in bank[Concept("word", "elephant")]] == [
        [False, True, True, False, False], [False, True, False, False], [False, False, False]]  # fmt: skip
    assert bank[Concept("punctuation", ".")][2].tolist() == [False, False, True]
    assert bank[Concept("after", "the")][0].tolist() == [False, True, True, False, False]


def test_correlations_equal_numpy() -> None:
    rng = seeds.rng()
    masks, values = (rng.random((7, 50)) > 0.5).astype(float), rng.random((3, 50))
    expected = [[np.corrcoef(m, v)[0, 1] for v in values] for m in masks]
    np.testing.assert_allclose(correlations(masks, values), expected)


def test_neurons_planted_in_the_weights_are_scanned_and_explained(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    before, color, truth = model.fingerprint(), Concept("color", "blue"), vn.scenes(60, seed=1)
    data, sites = vn.scenes(160, seed=2), ("vision", "projector", "gate", "post")  # none changes what those before read
    with ExitStack() as planting:
        plants = [
            planting.enter_context(planted.plant(model, truth, color, site=site, layer=0, index=5 + number))
            for number, site in enumerate(sites)
        ]
        run = vn.scan(model, data, site=[*sites], top_n=20, batch_size=16, out=tmp_path, progress=False)
        evidence = vn.gather_evidence(
            model, data, run, [plant.neuron for plant in plants], n_top=20, n_spare=10, progress=False
        )
    assert model.fingerprint() == before
    true, found = data.concept("color", "blue"), vn.explain(evidence, progress=False)
    for plant in plants:
        one = evidence[plant.neuron.id]
        real = np.concatenate([one.scale(e.patch_acts[0]).ravel() for e in one.exemplars])
        share = np.concatenate([true[e.seen.sample].ravel() for e in one.exemplars])
        on, off = real[share > 0.5], real[share == 0]
        assert (on[:, None] > off[None]).mean() > 0.95, plant
        assert "color:blue" in found[plant.neuron.id].concepts, found


def test_each_side_is_explained_alike_with_the_other_and_without() -> None:
    made = {p.evidence.neuron: p.evidence for p in planted.neurons("picture_or_word", n=3, seed=SEED)}
    whole = vn.explain(made, progress=False)
    for side in ("picture", "text"):
        alone = vn.explain({key: one.only(side) for key, one in made.items()}, progress=False)
        assert {k: e.by_side.get(side, NO_PATTERN) for k, e in whole.items()} == {k: e.text for k, e in alone.items()}
    asked = {key: replace(one, settings="") for key, one in whole.items()}  # as of another evidence: asked anew
    read, anew = (vn.score(said, made, n_null=2, n_permutations=999, full=True, progress=False)
                  for said in (whole, asked))  # fmt: skip
    assert read.r_of_other_side.notna().all() and read.equals(anew)

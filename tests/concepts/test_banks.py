"""Banks without model and files: their maps are what loops say, their vocabulary is the data's, two join as one."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
import seeds
from PIL import Image
from viewing import share_by_loops, view_of

import vlm_neurons as vn
from vlm_neurons.concepts import Concept, Pixels, Truth, Words, pixel_bank
from vlm_neurons.concepts.lexical import mask_of, pieces_of
from vlm_neurons.protocols import ConceptBank, View


@cache
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes")


def test_pixels_of_all_pictures_of_a_sample_stand_one_after_the_other() -> None:
    rng = seeds.rng()
    scenes = vn.scenes(1000, seed=int(rng.integers(1000)))
    first, second = (scenes[int(i)].load_images()[0] for i in rng.integers(0, 1000, 2))
    bank = Pixels()
    both, one, other = (bank.maps(view_of(model(), images)) for images in ([first, second], [first], [second]))
    np.testing.assert_array_equal(both.picture, np.concatenate([one.picture, other.picture]))
    columns = {c: i for i, c in enumerate(bank.concepts("picture"))}
    red = np.asarray(second)[..., 0] > 150
    red &= (np.asarray(second)[..., 1:] < 90).all(-1)
    boxes = view_of(model(), [second]).boxes[0]
    by_hand = np.array([share_by_loops(red, box) for box in boxes])
    assert (other.picture[:, columns[Concept("color", "red")]] >= by_hand - 1e-6).all()
    assert both.text.shape[1] == 0 and len(both.text) > 0


def test_pixels_never_assume_that_patches_form_a_grid() -> None:
    """Overlapping patches in any order, some half as large: every box is looked at for itself."""
    whole = view_of(model(), [vn.scenes(1, seed=3)[0].load_images()[0]])
    order = seeds.rng().permutation(64)[:40]
    boxes = np.concatenate([whole.boxes[0], whole.boxes[0] / 2 + 7.5])[np.append(order, order + 64)]
    cells = np.full((80, 3), -1)
    changed = View(**{**vars(whole), "boxes": (boxes,), "original_boxes": (boxes,), "cells": (cells,)})
    found = Pixels().maps(changed).picture
    columns = [i for i, c in enumerate(Pixels().concepts("picture")) if c.kind != "position"]
    np.testing.assert_array_equal(found[:40, columns], Pixels().maps(whole).picture[order][:, columns])
    dark = np.asarray(whole.images[0]).astype(int).sum(-1) < 229.5
    (column,) = (i for i, c in enumerate(Pixels().concepts("picture")) if c.value == "dark")
    np.testing.assert_allclose(found[:, column], [share_by_loops(dark, box) for box in boxes], atol=1e-6)


def test_the_whole_view_and_the_tiles_of_one_sheet_are_two_pictures() -> None:
    """As if the model had been shown both alone: no edge where they touch, and a middle of their own."""
    scene = vn.scenes(1, seed=seeds.number(1000))[0].load_images()[0]
    alone = view_of(model(), [scene])
    sheet = Image.new("RGB", (128, 192))
    sheet.paste(scene, (0, 0))
    sheet.paste(scene.resize((128, 128), Image.Resampling.NEAREST), (0, 64))
    boxes, cells = alone.boxes[0], alone.cells[0]
    large = 2 * boxes + [0, 64, 0, 64]
    tiles = np.column_stack([cells[:, :2], (boxes[:, 1] >= 32) * 2 + (boxes[:, 0] >= 32)]).astype(int)
    order = np.argsort(tiles[:, 2], kind="stable")  # one tile after the other
    both = View(**{**vars(alone), "images": (sheet,), "boxes": (np.concatenate([boxes, large[order]]),),
                   "original_boxes": (np.concatenate([boxes, boxes[order]]),),
                   "cells": (np.concatenate([cells, tiles[order]]),)})  # fmt: skip
    bank = Pixels()
    maps, wanted = bank.maps(both).picture, bank.maps(alone).picture
    np.testing.assert_array_equal(maps[:64], wanted)
    same = [i for i, c in enumerate(bank.concepts("picture")) if c.kind in ("color", "brightness", "object", "place",
                                                                           "position")]  # fmt: skip
    np.testing.assert_allclose(maps[64:][:, same], wanted[order][:, same], atol=1e-6)


def test_pictures_of_one_sample_may_have_different_numbers_of_patches() -> None:
    image = vn.scenes(1, seed=3)[0].load_images()[0]
    both = view_of(model(), [image, image])
    fewer = {
        name: (getattr(both, name)[0], getattr(both, name)[1][5:9]) for name in ("boxes", "original_boxes", "cells")
    }
    found = Pixels().maps(View(**{**vars(both), **fewer})).picture
    assert found.shape[0] == 68
    (red,) = (i for i, c in enumerate(Pixels().concepts("picture")) if c.name == "color:red")
    np.testing.assert_array_equal(found[64:, red], found[5:9, red])


def test_the_bank_and_the_dissection_explainer_say_the_same_of_pixels() -> None:
    from vlm_neurons import planted

    seen = planted.neurons("color", n=1, seed=seeds.PLANTED)[0].evidence.exemplars[0].seen
    found = Pixels().maps(view_of(model(), seen.images)).picture
    for i, concept in enumerate(Pixels().concepts("picture")):
        np.testing.assert_allclose(found[:, i], pixel_bank(seen)[0][concept].ravel(), atol=1e-6)


def test_scenes_are_known_as_their_truth_and_other_pictures_as_unannotated() -> None:
    scenes = vn.scenes(40, seed=seeds.number(1000))
    bank = Truth()
    for i in range(0, 40, 13):
        found = bank.maps(view_of(model(), scenes[i].load_images(), truth=scenes[i].truth)).picture
        for column, concept in enumerate(bank.concepts("picture")):
            np.testing.assert_allclose(
                found[:, column], scenes.concept(concept.kind, concept.value)[i].ravel(), atol=1e-6
            )
    photo = view_of(model(), scenes[0].load_images())
    assert np.isnan(bank.maps(photo).picture).all() and bank.maps(view_of(model(), [])).picture.shape[0] == 0
    mine = Truth([("mood", "calm"), ("color", "red")])
    known = mine.maps(view_of(model(), scenes[0].load_images(), truth={("color", "red"): np.eye(8)})).picture
    assert np.isnan(known[:, 0]).all() and known[:, 1].sum() == 8


def test_a_truth_of_other_patches_or_concepts_is_refused() -> None:
    images = vn.scenes(1, seed=0)[0].load_images()
    with pytest.raises(ValueError, match=r"mine: the truth is of one picture of 4 x 4 patches, the model has 8 x 8"):
        Truth().maps(view_of(model(), images, truth={("color", "red"): np.eye(4)}))
    with pytest.raises(ValueError, match="Truth\\(keys="):
        Truth().maps(view_of(model(), images, truth={("mood", "calm"): np.eye(8)}))
    with pytest.raises(ValueError, match="8 x 8, 8 x 8"):
        Truth().maps(view_of(model(), images * 2, truth={("color", "red"): np.eye(8)}))


def test_words_have_their_vocabulary_from_the_responses_by_the_number_that_has_them() -> None:
    scenes = vn.scenes(60, seed=seeds.number(1000))
    texts = [scenes[i].response for i in range(60)]
    bank = Words(n_words=12, n_neighbours=5).fitted(texts)
    counts = Counter(w for t in texts for w in {p.lower() for p in pieces_of([t])[0]})
    words = [c.value for c in bank.concepts("text") if c.kind == "word"]
    assert len(words) == 12
    assert min(counts[w] for w in words) >= max(n for w, n in counts.items() if w not in words and w.isalnum())
    near = {c.value for c in bank.concepts("text") if c.kind in ("after", "before")}
    assert len(near) <= 5 and near <= {w for w, _ in counts.most_common(30)}
    generic = {c.kind for c in bank.concepts("text") if c.generic}
    assert generic == {"class", "punctuation", "position"}
    mixed = Words(n_words=6, n_neighbours=3).fitted(["c b a red x y"] * 9 + ["c b a red"] * 5)
    assert [c.value for c in mixed.concepts("text") if c.kind == "word"] == ["a", "b", "c", "red", "x", "y"]
    assert {c.kind for c in Words(generic=("word:red",)).fitted(texts).concepts("text") if c.generic} <= {"word"}
    assert bank.fitted(["other other", "other"]) is bank, "a vocabulary stays"
    assert bank.identity() == Words(12, 5).fitted(texts).identity() != Words(11, 5).fitted(texts).identity()


def test_words_mark_the_tokens_that_rules_of_single_concepts_say() -> None:
    scenes = vn.scenes(30, seed=seeds.number(1000))
    bank = Words().fitted([scenes[i].response for i in range(30)])
    for i in range(0, 30, 7):
        view = view_of(model(), [], scenes[i].response)
        found = bank.maps(view)
        assert found.picture.shape == (0, 0) and found.text.any()
        for column, concept in enumerate(bank.concepts("text")):
            np.testing.assert_array_equal(found.text[:, column], mask_of(concept, view.tokens), concept.name)
    unknown = bank.maps(view_of(model(), [], "a"))
    assert unknown.text.shape == (len(view_of(model(), [], "a").tokens), len(bank.concepts("text")))


def test_a_vocabulary_of_no_word_is_refused_and_none_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="no word is in two of 2 responses"):
        Words().fitted(["red", "blue"])
    with pytest.raises(ValueError, match="no word is in two of 0 responses"):
        Words().fitted([])
    for ask in (
        lambda: Words().concepts("text"),
        lambda: Words().identity(),
        lambda: Words().maps(view_of(model(), [])),
    ):
        with pytest.raises(ValueError, match="no vocabulary yet"):
            ask()
    with pytest.raises(ValueError, match="n_words=0"):
        Words(n_words=0)


def test_banks_join_and_the_truth_of_scenes_replaces_what_pixels_guess() -> None:
    scene = vn.scenes(1, seed=5)[0]
    view = view_of(model(), scene.load_images(), scene.response, truth=scene.truth)
    bank: ConceptBank = (Pixels() + Words() + Truth()).fitted([scene.response, scene.response])
    maps, concepts = bank.maps(view), bank.concepts("picture")
    assert len(set(concepts)) == len(concepts) == maps.picture.shape[1]
    assert maps.text.shape == (len(view.tokens), len(bank.concepts("text")))
    column = concepts.index(Concept("color", "pink"))
    np.testing.assert_allclose(maps.picture[:, column], scene.truth()[("color", "pink")].ravel(), atol=1e-6)


def test_labels_of_generic_concepts_can_be_changed_and_decide_no_map() -> None:
    mine = Pixels(generic=("color", "place:top left"))
    assert {c.name for c in mine.concepts("picture") if c.generic} >= {"color:red", "place:top left"}
    assert not any(c.generic for c in mine.concepts("picture") if c.kind == "position")
    assert mine.identity() == Pixels().identity()
    assert all(c.phrase for c in mine.concepts("picture"))


def test_pictures_of_one_colour_and_of_one_patch_have_maps() -> None:
    for image in (Image.new("RGB", (64, 64)), Image.new("RGB", (3, 500), "white")):
        found = Pixels().maps(view_of(model(), [image])).picture
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1 + 1e-6

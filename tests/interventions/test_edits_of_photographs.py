"""Photographs are edited inside their masks and nowhere else, the same way every time."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
from PIL import Image
from skimage import color as reference
from skimage import data as photographs

import vlm_neurons as vn
from vlm_neurons.interventions.edits import pixels
from vlm_neurons.interventions.edits.asking import asked
from vlm_neurons.interventions.edits.photographs import EDITS, SLOW, trials
from vlm_neurons.interventions.edits.planning import plan
from vlm_neurons.interventions.edits.regions import Part, checked_boxes, elsewhere, looked_at, mask_of, whole
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Wanted
from vlm_neurons.synthetic.scene import COLORS

BOXES = {0: [Part(20, 12, 50, 45)], 1: [Part(5, 5, 25, 30), Part(60, 10, 80, 30)]}
DISC = np.hypot(*(np.indices((72, 96)) - np.array([30, 40])[:, None, None])) < 14
SHAPES = {0: whole(DISC), 1: whole(DISC | (np.indices((72, 96))[1] > 88))}


@pytest.fixture(scope="module")
def photos() -> vn.ImageTextData:
    found = [Image.open(Path(photographs.__file__).parent / name).convert("RGB").resize((96, 72)) for name in
             ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")]  # fmt: skip
    return vn.ImageTextData.from_samples(
        [{"image": found[i % 4], "prompt": "Hi", "response": "A cat."} for i in range(10)]
    )


def shown(data: vn.ImageTextData, edit: str, regions: Any = BOXES) -> tuple[list[np.ndarray], Any]:
    inputs, wanted = Inputs(), Wanted("picture", edit, ((("region", "L0N1"), ("color", "red")),))
    found = trials(data, [0, 1], range(2, 10), wanted, regions, inputs, 3)
    return [np.asarray(make().images[0]) for make in inputs.made], found


@pytest.mark.parametrize("regions", [BOXES, SHAPES], ids=["boxes", "shapes"])
@pytest.mark.parametrize("edit", ["remove", "inpaint", "blur", "recolour", "keep"])
def test_an_edit_changes_nothing_outside_its_mask(photos: vn.ImageTextData, edit: str, regions: Any) -> None:
    pictures, found = shown(photos, edit, regions)
    for one in found:
        original = np.asarray(photos[one.sample].load_images()[0])
        mask = mask_of(regions[one.sample], 72, 96)
        edited = pictures[one.present if edit == "keep" else one.absent]
        if edit == "keep":
            assert (edited[mask] == original[mask]).all() and (edited[~mask] == pixels.GREY).all()
        else:
            assert (edited[~mask] == original[~mask]).all() and (edited[mask] != original[mask]).mean() > 0.5
        control = pictures[one.control[1]]  # as much of it, elsewhere
        changed = (control != (pixels.GREY if edit == "keep" else original)).any(-1)
        assert not changed[mask].any() and 0.5 * mask.sum() < changed.sum() <= mask.sum()


def test_what_is_pasted_changes_nothing_around_it_and_has_soft_edges(photos: vn.ImageTextData) -> None:
    pictures, found = shown(photos, "paste")
    assert [one.sample for one in found] == list(range(2, 10)) and all(one.brought for one in found)
    for one in found:
        changed = (pictures[one.present] != pictures[one.absent]).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert 0 < len(rows) <= 0.9 * 72 and 0 < len(columns) <= 0.9 * 96
    piece, under = np.full((20, 30, 3), 200, np.uint8), np.zeros((72, 96, 3), np.uint8)
    laid = pixels.pasted(under, piece, np.ones((20, 30), bool), 10, 5)
    outside = np.ones((72, 96), bool)
    outside[5:25, 10:40] = False
    assert not laid[outside].any() and (laid[10:20, 15:35] == 200).all() and 0 < laid[5, 20, 0] < 200


@pytest.mark.parametrize("edit", EDITS)
def test_what_is_encoded_anew_is_the_picture_with_what_is_named(photos: vn.ImageTextData, edit: str) -> None:
    pictures, found = shown(photos, edit)
    for one in found:
        buffer = io.BytesIO()
        Image.fromarray(pictures[one.present]).save(buffer, "JPEG", quality=90)
        assert (np.asarray(Image.open(buffer).convert("RGB")) == pictures[one.again]).all()


def test_boxes_are_whole_pixels_of_the_picture(photos: vn.ImageTextData) -> None:
    neurons = {"L0N1": vn.Neuron.parse("L0N1")}
    given = {np.int64(1): [(-5, 3.4, 20.6, 90), np.array([0, 0, 96, 72])]}
    found = checked_boxes(photos, {"L0N1": given}, neurons)
    assert found == {"L0N1": {1: [Part(0, 3, 21, 72), Part(0, 0, 96, 72)]}}


@pytest.mark.parametrize("edit", [*EDITS, SLOW])
def test_the_same_seed_gives_the_same_bytes(photos: vn.ImageTextData, edit: str) -> None:
    first, again = (shown(photos, edit)[0] for _ in range(2))
    assert [one.tobytes() for one in first] == [one.tobytes() for one in again]


def test_lab_is_that_of_scikit_image() -> None:
    rgb = seeds.rng().integers(0, 256, (200, 3)).astype(np.uint8)
    lab = pixels.to_lab(rgb)
    np.testing.assert_allclose(lab, reference.rgb2lab(rgb[None])[0], atol=0.02)
    assert np.abs(pixels.from_lab(lab).astype(int) - rgb).max() <= 1


def test_recolouring_gives_the_hue_that_was_asked_for_and_keeps_lightness() -> None:
    grey = np.repeat(seeds.rng().integers(90, 150, (30, 40, 1)), 3, 2).astype(np.uint8)
    mask = mask_of([Part(5, 5, 25, 20)], 30, 40)
    new = pixels.recoloured(grey, mask, (200, 120, 60))
    lab, wanted = pixels.to_lab(new[mask]), pixels.to_lab(np.array([(200, 120, 60)], np.uint8))[0]
    np.testing.assert_allclose(lab[:, 1:].mean(0), wanted[1:], atol=1)
    np.testing.assert_allclose(lab[:, 0], pixels.to_lab(grey[mask])[:, 0], atol=1)


def test_another_region_is_as_large_and_touches_none_that_is_named() -> None:
    rng = seeds.rng()
    for _ in range(20):
        left, top = rng.integers(0, 60), rng.integers(0, 40)
        right, bottom = int(left + rng.integers(5, 25)), int(top + rng.integers(5, 25))
        boxes = [Part(int(left), int(top), right, bottom)]
        found = elsewhere(boxes, 72, 96, rng)
        assert found is not None
        one, other = (mask_of(each, 72, 96) for each in (boxes, found))
        assert one.sum() == other.sum() and not (one & other).any()
    assert elsewhere([Part(0, 0, 96, 72)], 72, 96, rng) is None


def test_boxes_given_by_hand_make_rows_with_controls_and_shams(model: vn.HookedVLM, photos: vn.ImageTextData) -> None:
    told = {"L0N1": "red regions", "L0N2": "the cat"}
    boxes: Any = {
        "L0N1": {i: [one[:4] for one in parts] for i, parts in BOXES.items()},
        "L0N2": {2: [(10, 10, 40, 40)], 3: [(0, 0, 30, 30)]},
    }
    first, again = (
        vn.input_effects(model, photos, told, boxes=boxes, n=10, progress=False).set_index(["neuron", "edit"])
        for _ in range(2)
    )
    assert first.equals(again) and set(first.loc["L0N1"].index) == set(EDITS)
    assert first.loc[("L0N1", "remove"), "n_images"] == 2 and first.loc[("L0N1", "paste"), "n_images"] == 8
    assert (first["n_sham"] == 1).all() and first["control"].notna().all() and first["reencoded"].notna().all()


def test_a_mask_of_many_parts_is_edited_in_all_of_them() -> None:
    """With the largest eight alone, a ninth pink square stayed, and the neuron with it."""
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    mask = np.zeros((64, 64), bool)
    for k in range(9):
        row, column = divmod(k, 3)
        mask[4 + 20 * row : 16 + 20 * row, 4 + 20 * column : 16 + 20 * column] = True
    mask[0, 62] = True  # one pixel is the user's word too
    rows = []
    for i in range(12):
        pixel = np.full((64, 64, 3), 200 - i, np.uint8)
        pixel[mask] = COLORS["pink" if i % 2 else "green"]
        rows.append({"image": Image.fromarray(pixel), "prompt": "Hi"})
    masks = {i: {"pink": mask} for i in range(1, 12, 2)}
    options: dict[str, Any] = {"regions": masks, "edits": ["remove", "paste"], "n": 12, "progress": False}
    found = vn.input_effects(
        model, vn.ImageTextData.from_samples(rows), {"L2N304": "pink regions"}, **options
    ).set_index("edit")
    assert found.loc["remove", "necessity"] == pytest.approx(1, abs=0.05) and found.loc["remove", "n_images"] == 6
    assert found.loc["paste", "n_images"] == 6
    assert found.loc["paste", "n_control"] == 0  # between the squares there is no room for one of them


def test_what_is_pasted_as_a_control_holds_nothing_that_is_named(photos: vn.ImageTextData) -> None:
    named = [Part(0, 0, 48, 72), Part(48, 0, 96, 40), Part(80, 40, 96, 72)]  # all but a part for which there is no room
    found = shown(photos, "paste", {0: named, 1: named})[1]
    assert found and all(one.control == MISSING for one in found)
    rng = seeds.rng()
    there = elsewhere([Part(0, 0, 8, 8)], 32, 32, rng, clear=[Part(8, 0, 32, 24), Part(0, 8, 8, 32)])
    assert there is not None and there[0].top == 24 and there[0].left >= 8


@pytest.mark.parametrize("n", [1, 7, 8])
def test_what_is_recoloured_gets_no_colour_that_is_named(photos: vn.ImageTextData, n: int) -> None:
    named = [*COLORS][:n]
    words = "; ".join(f"{color} regions" for color in named)
    (wanted,) = (one for one in asked(words, "L0N1")[0] if one.edit == "recolour")
    inputs, regions = Inputs(), {i: [Part(20, 12, 50, 45)] for i in range(10)}
    found = trials(photos, range(10), [], wanted, regions, inputs, seeds.number(1000))
    assert len(found) == (10 if n < len(COLORS) else 0)
    for one in found:
        after = np.asarray(inputs.made[one.absent]().images[0])[12:45, 20:50].reshape(-1, 3)
        before = np.asarray(inputs.made[one.present]().images[0])
        mask = mask_of([Part(20, 12, 50, 45)], 72, 96)
        made = {name: pixels.recoloured(before, mask, rgb)[mask] for name, rgb in COLORS.items()}
        assert any((after == made[name]).all() for name in made if name not in named)
        assert not any((after == made[name]).all() for name in named)


def test_of_several_images_the_edited_one_is_read(model: vn.HookedVLM) -> None:
    rng = seeds.rng()
    first, second = ([Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)) for _ in range(10)]
                     for _ in range(2))  # fmt: skip
    told = dict.fromkeys(("L0N1", "post:L1N5", "V0N2", "P0N4"), "red regions")
    pair: Any = {"edits": ["remove"], "boxes": {key: {i: [(0, 0, 20, 30)] for i in range(10)} for key in told}, "n": 10,
                 "progress": False}  # fmt: skip
    alone, with_others = (
        vn.input_effects(
            model, vn.ImageTextData.from_samples([{"image": one, "prompt": "Hi"} for one in given]), told, **pair
        )
        for given in (first, [[one, two] for one, two in zip(first, second, strict=True)])
    )
    numbers = ["change", "necessity", "sufficiency", "control", "reencoded"]
    np.testing.assert_allclose(alone[numbers].to_numpy(float), with_others[numbers].to_numpy(float), atol=1e-3)


def test_saved_pictures_say_which_trials_changed_nothing(model: vn.HookedVLM, tmp_path: Path) -> None:
    plain, spotted = Image.new("RGB", (40, 40), (9, 9, 9)), Image.new("RGB", (40, 40), (9, 9, 9))
    spotted.paste((200, 0, 0), (1, 1, 9, 9))
    data = vn.ImageTextData.from_samples([{"image": [plain, spotted][i % 2], "prompt": "Hi"} for i in range(10)])
    boxes: Any = {"L0N1": {i: [(1, 1, 9, 9)] for i in range(10)}}
    row = vn.input_effects(model, data, {"L0N1": "red"}, edits=["remove"], boxes=boxes, n=10, progress=False,
                           save_images=tmp_path).iloc[0]  # fmt: skip
    told = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    assert {one["sample"]: one["changed"] for one in told} == {i: i % 2 == 1 for i in range(10)}
    assert row["n_images"] == 5 and row["n_unchanged"] == 5


def test_levels_are_of_samples_drawn_from_all_data_whether_they_have_boxes_or_not(model: vn.HookedVLM) -> None:
    data = vn.ImageTextData.from_samples([{"image": tiny.image(), "prompt": "Hi"} for _ in range(80)])
    boxes = {"L0N1": looked_at({i: [Part(2, 2, 6, 6)] for i in range(25)}, range(80), 80)}
    wanted = {"L0N1": [Wanted("picture", edit, ((("region", "L0N1"),),)) for edit in ("remove", "paste")]}
    with_boxes, without = (plan(model, data, "picture", wanted, given, 12, 5) for given in (boxes, {"L0N1": {}}))
    assert not len(without.sheets[wanted["L0N1"][1]].present)  # nobody looked at any
    drawn = [[key[0] for key in [*one.inputs._numbers][:60]] for one in (with_boxes, without)]
    assert drawn[0] == drawn[1] and 10 < sum(i < 25 for i in drawn[0]) < 25 and len(with_boxes.natural) == 60
    remove, paste = (with_boxes.sheets[one] for one in wanted["L0N1"])
    assert len(remove.present) == 12 and len(paste.present) == 12


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([], "give {neuron"),
        ({"L0N2": {}}, "has no explanation"),
        ({"L0N1": {99: [(0, 0, 1, 1)]}}, "sample 99 is none of"),
        ({"L0N1": {0: [(5, 0, 1, 1)]}}, "left < right"),
        ({"L0N1": {0: [(96, 0, 99, 9)]}}, r"'L0N1'\]\[0\]: \(96, 0, 99, 9\) has no pixel of the picture, 96 x 72"),
        ({"L0N1": {0: [(5.1, 0, 5.4, 9)]}}, "has no pixel"),
        ({"L0N1": {0: 5}}, r"'L0N1'\]\[0\]=5: give a list of"),
        ({"L0N1": {0: None}}, "=None: give a list of"),
    ],
)
def test_what_is_no_box_is_refused_by_name(
    model: vn.HookedVLM, photos: vn.ImageTextData, boxes: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        vn.input_effects(model, photos, {"L0N1": "red regions"}, boxes=boxes)

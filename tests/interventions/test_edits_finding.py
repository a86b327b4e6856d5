"""Regions that explanations name are found by banks of concepts, in masks, or by a function, and said so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

import vlm_neurons as vn
from vlm_neurons.concepts.visual import color_names
from vlm_neurons.interventions.edits import photographs, pixels
from vlm_neurons.interventions.edits.finding import find_regions
from vlm_neurons.interventions.edits.regions import Part, mask_of, parts_of, pieces, whole, without_specks

SIZE = (96, 64)  # a multiple of the cells that banks are asked for, so that both ways are exact


def painted(*boxes: tuple[int, int, int, int], color: tuple[int, int, int] = (220, 30, 30)) -> Image.Image:
    image = Image.new("RGB", SIZE, (250, 250, 250))
    for box in boxes:
        image.paste(color, box)
    return image


@pytest.fixture(scope="module")
def data() -> vn.ImageTextData:
    shown = [painted((8, 8, 40, 30)), painted((60, 40, 90, 60), (4, 4, 20, 20)), painted()] * 4
    return vn.ImageTextData.from_samples([{"image": image, "prompt": "Hi"} for image in shown])


def test_a_bank_finds_the_pixels_that_have_its_concept(data: vn.ImageTextData) -> None:
    found, notes = find_regions(vn.concepts.Pixels(), data, range(12), {"L0N1": "Red regions"}, 12, "cpu")
    assert sorted(found["L0N1"]) == [*range(12)] and notes == {}
    assert [i for i, parts in found["L0N1"].items() if not parts] == [2, 5, 8, 11]
    for i, parts in found["L0N1"].items():
        red = color_names(np.asarray(data[i].load_images()[0]))["red"]
        assert (mask_of(parts, 64, 96) == red).all()


def test_masks_are_arrays_run_lengths_or_polygons(data: vn.ImageTextData) -> None:
    disc = np.hypot(*(np.indices((64, 96)) - np.array([30, 40])[:, None, None])) < 12
    polygons = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
    masks = {0: {"dog": disc}, 1: {"dog": coco.encode(np.asfortranarray(disc.astype(np.uint8))), "cat": ~disc},
             2: {"dog": polygons}}  # fmt: skip
    words = {"L0N1": "the dogs", "L0N2": "a dog in snow", "L0N3": "horses"}
    found, notes = find_regions(masks, data, range(12), words, 12, "cpu")
    assert (mask_of(found["L0N1"][0], 64, 96) == disc).all() and found["L0N1"][1] == found["L0N1"][0]
    assert found["L0N1"][2] == [Part(10, 10, 30, 30)] and "L0N1" not in notes
    assert found["L0N2"] == found["L0N1"] and notes["L0N2"] == "regions of “dog” stand for “a dog in snow”"
    assert "nothing that regions= knows is named by “horses”" in notes["L0N3"] and not found["L0N3"]
    listed, _ = find_regions([masks.get(i) for i in range(12)], data, range(12), words, 12, "cpu")
    assert listed == found


def test_a_function_is_asked_for_every_alternative_until_there_are_enough(data: vn.ImageTextData) -> None:
    asked: list[str] = []

    def find(image: Image.Image, words: str) -> Any:
        asked.append(words)
        return {"dogs": [(1.2, 2, 10, 9)], "red cats": np.stack([np.eye(64, 96, dtype=bool)] * 2)}.get(words)

    words = {"L0N1": "dogs; less strongly: red cats; the word 'dog'", "L0N2": "no clear pattern", "L0N3": "fish"}
    found, notes = find_regions(find, data, range(12), words, 3, "cpu", lacking=False)
    assert set(asked) == {"dogs", "red cats", "fish"} and list(found["L0N1"]) == [0, 1, 2] and len(asked) == 3 * 3 + 9
    assert found["L0N1"][0][0] == Part(1, 2, 10, 9) and mask_of(found["L0N1"][0][1:], 64, 96).sum() == 64
    assert notes == {"L0N3": "no region that its words name was found in 12 samples"}


@pytest.mark.parametrize(
    ("finder", "words"),
    [
        (3, "give a bank of vn.concepts"),
        (lambda image, words: np.zeros((3, 5)) + 0.5, r"gave float64 of shape \(3, 5\): give boxes"),
        (lambda image, words: [(5, 5, 2, 9)], "left < right"),
        (lambda image, words: [np.zeros((64, 96)), np.zeros((32, 48))], "sample 0 gave a list of unlike shapes: give"),
        (lambda image, words: [(1, 2, 3, 4), (1, 2)], "gave a list of unlike shapes"),
        ({0: {"dog": [["a"]]}}, "cannot be read"),
        ({99: {}}, r"regions\[99\]"),
        ({0: {"dog": np.zeros((2, 2), bool)}}, r"has shape \(2, 2\), the picture is 64 x 96"),
        ({0: {"dog": {"size": [9, 9], "counts": "11"}}}, "cannot be read .a mask is 9 x 9"),
        (vn.concepts.Words(), "has no concepts of pictures"),
    ],
)
def test_what_nothing_can_be_found_by_is_refused_by_name(data: vn.ImageTextData, finder: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        find_regions(finder, data, range(12), {"L0N1": "dogs"}, 12, "cpu")


def test_only_what_was_looked_at_and_is_empty_is_without_a_region(data: vn.ImageTextData) -> None:
    """Samples beyond those that a finder was asked about are neither."""
    asked: list[int] = []

    def find(image: Image.Image, words: str) -> Any:
        asked.append(1)
        return [(0, 0, 5, 5)] if words == "dogs" or len(asked) % 4 == 0 else []

    every, _ = find_regions(find, data, range(12), {"L0N1": "dogs"}, 2, "cpu")
    assert list(every["L0N1"]) == [*range(10)] and all(every["L0N1"].values()) and len(asked) == 5 * 2
    asked.clear()
    some, _ = find_regions(find, data, range(12), {"L0N1": "cats"}, 2, "cpu")
    assert [bool(parts) for parts in some["L0N1"].values()] == [False, False, False, True, False, False, False, True]
    mask = np.ones((64, 96), bool)
    masks = {i: {"dog": mask if i < 11 else ~mask} for i in range(12)}
    found, _ = find_regions(masks, data, range(12), {"L0N1": "dogs"}, 1, "cpu")  # of masks all are looked at
    assert [i for i, parts in found["L0N1"].items() if not parts] == [11]


def test_nothing_is_pasted_where_every_picture_has_a_region(model: vn.HookedVLM) -> None:
    options: dict[str, Any] = {"edits": ["paste"], "n": 10, "progress": False}
    data = vn.ImageTextData.from_samples([{"image": painted((8, 8, 40, 30)), "prompt": "Hi"}] * 55)
    row = vn.input_effects(model, data, {"L0N1": "cups"}, regions=lambda image, words: [(0, 0, 20, 20)], **options)
    assert row["n_images"].tolist() == [0] and "no sample can be edited so" in row.loc[0, "note"]


def test_parts_of_a_mask_are_its_connected_parts_and_no_pixel_is_lost() -> None:
    rng = seeds.rng()
    mask = ndimage.binary_dilation(rng.random((60, 80)) < 0.02, iterations=1)
    mask[0, 0] = True  # a speck
    labels, n = ndimage.label(mask, np.ones((3, 3)))
    sizes = sorted((int((labels == i + 1).sum()) for i in range(n)), reverse=True)
    found = parts_of(mask)
    assert [int(one.shape.sum()) for one in found] == sizes and n > 8
    assert (mask_of(found, 60, 80) == mask).all() and (mask_of(whole(mask), 60, 80) == mask).all()
    assert pieces(whole(mask)) == found and not whole(~mask & mask)
    kept = without_specks(mask)  # of a picture of 4,800 pixels fewer than five
    small = np.isin(labels, [i + 1 for i in range(n) if (labels == i + 1).sum() < 5])
    assert (kept == mask & ~small).all() and not kept[0, 0]


def test_photographs_are_edited_where_their_words_were_found_and_what_stays_as_it_is_counts_as_such(
    model: vn.HookedVLM, data: vn.ImageTextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"L0N1": "red regions", "L0N2": "dogs"}

    def find(image: Image.Image, words: str) -> Any:
        return [(0, 0, *SIZE)] if words == "dogs" else [(8, 8, 40, 30)]

    drawn: list[int] = []
    plain = photographs.inpainted
    monkeypatch.setattr(photographs, "inpainted", lambda *given: drawn.append(1) or plain(*given))
    options: dict[str, Any] = {"regions": find, "edits": ["remove", "inpaint"], "n": 10, "progress": False}
    row = vn.input_effects(model, data, told, out=tmp_path, **options).set_index(["neuron", "edit"])
    assert row.loc[("L0N2", "remove"), "n_unchanged"] == 10 and row.loc[("L0N2", "remove"), "n_images"] == 0
    assert "no sample can be edited so" in row.loc[("L0N2", "remove"), "note"]
    changed = row.loc[("L0N1", "remove")]
    assert changed.n_images + changed.n_unchanged == 10 and changed.n_unchanged > 0  # a region as plain as the rest
    n = len(drawn)
    (tmp_path / "edits" / "effects.parquet").unlink()
    again = vn.input_effects(model, data, told, out=tmp_path, **options).set_index(["neuron", "edit"])
    assert again.equals(row) and n > 0 and len(drawn) == n  # pictures that are slow to make are made once


def test_inpainting_without_scikit_image_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'vlm-neurons\[inpaint\]'"):
        vn.input_effects(None, vn.scenes(10), {"L0N1": "dogs"}, edits=["inpaint"])  # type: ignore[arg-type]

"""What people drew, and label images, become exact shares of what the model's patches show of a photograph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
from PIL import Image
from viewing import share_by_loops, view_of

import vlm_neurons as vn
from vlm_neurons.concepts import CocoMasks, Masks
from vlm_neurons.protocols import View

coco = pytest.importorskip("pycocotools.mask")  # of the extras coco and test
HEIGHT, WIDTH = 61, 90


@cache
def model() -> vn.HookedVLM:
    """A LLaVA that resizes the short edge and crops the centre."""
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


def photograph(name: str = "chelsea") -> Image.Image:
    from skimage import data

    return Image.fromarray(getattr(data, name)()).convert("RGB").resize((WIDTH, HEIGHT))


def seen(*names: str, folder: str = "/photos", **more: Any) -> View:
    names = names or ("chelsea",)
    return view_of(model(), [photograph(n) for n in names], paths=[f"{folder}/{n}.jpg" for n in names], **more)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of runs of zeros and ones, in turn, column by column: what COCO writes of crowds."""
    found, last = [0], 0
    for value in mask.T.ravel().tolist():
        if value != last:
            found.append(0)
            last = value
        found[-1] += 1
    return found


def drawn(seed: Any) -> tuple[list[dict[str, Any]], dict[int, np.ndarray]]:
    """Annotations in every form on one picture, and what they cover, by category."""
    blob, other = seed.random((HEIGHT, WIDTH)) > 0.6, np.zeros((HEIGHT, WIDTH), np.uint8)
    other[20:50, 30:71] = 1
    compressed = coco.encode(np.asfortranarray(other))
    boxes = [(3, 4, 33, 29), (20, 10, 61, 55)]
    polygons = [[x0, y0, x1, y0, x1, y1, x0, y1] for x0, y0, x1, y1 in boxes]
    covered = {1: np.zeros((HEIGHT, WIDTH), bool), 2: blob, 3: other.astype(bool)}
    for x0, y0, x1, y1 in boxes:
        covered[1][y0:y1, x0:x1] = True
    covered[1][40:60, :10] = True
    annotations = [
        {"id": 1, "category_id": 1, "segmentation": [polygons[0], [68, 45, 15, 10]], "iscrowd": 0},
        {"id": 2, "category_id": 1, "segmentation": [polygons[1]], "iscrowd": 0},
        {"id": 6, "category_id": 1, "segmentation": [[68, 45, 15, 10]], "iscrowd": 0},  # two corners, no box
        {"id": 3, "category_id": 1, "segmentation": [[0, 40, 10, 40, 10, 60, 0, 60]], "iscrowd": 0},
        {
            "id": 4,
            "category_id": 2,
            "segmentation": {"counts": run_lengths(blob), "size": [HEIGHT, WIDTH]},
            "iscrowd": 1,
        },
        {"id": 5, "category_id": 3, "segmentation": {**compressed, "counts": compressed["counts"].decode()}},
    ]
    return [{**one, "image_id": 7} for one in annotations], covered


CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "person"}, {"id": 3, "name": "potted_plant"},
              {"id": 9, "name": "kite"}]  # fmt: skip
IMAGES = [{"id": 7, "file_name": "chelsea.jpg", "width": WIDTH, "height": HEIGHT},
          {"id": 8, "file_name": "coffee.jpg", "width": WIDTH, "height": HEIGHT}]  # fmt: skip


def written(path: Path, annotations: Sequence[dict[str, Any]], images: Any = None, categories: Any = None) -> Path:
    content = {"images": images or IMAGES, "annotations": list(annotations), "categories": categories or CATEGORIES}
    path.write_text(json.dumps(content))
    return path


def by_loops(view: View, image: int, mask: np.ndarray) -> np.ndarray:
    return np.array([share_by_loops(mask, box) for box in view.original_boxes[image]])


def test_polygons_crowds_and_run_lengths_are_exact_shares_through_the_models_own_crop(tmp_path: Path) -> None:
    annotations, covered = drawn(seeds.rng())
    bank = CocoMasks(written(tmp_path / "instances.json", annotations))
    assert [(c.kind, c.value, c.phrase) for c in bank.concepts("picture")][2] == (
        "thing",
        "potted plant",
        "potted plant",
    )
    assert bank.concepts("text") == ()
    view = seen("coffee", "chelsea", response="two pictures")
    boxes = view.original_boxes[1]
    assert boxes[:, 0].min() > 5 and boxes[:, 2].max() < WIDTH - 5, "the sides are cut off"
    assert (boxes % 1 > 0.01).any(), "edges of patches lie inside of pixels"
    maps = bank.maps(view)
    assert maps.picture.shape == (32, 4) and maps.text.shape == (len(view.tokens), 0)
    assert not maps.picture[:16].any(), "a picture that is listed without drawings has none of them"
    for column, mask in covered.items():
        np.testing.assert_allclose(maps.picture[16:, column - 1], by_loops(view, 1, mask), atol=1e-6)
    assert not maps.picture[:, 3].any() and 0 < maps.picture[16:, 1].mean() < 1


def test_panoptic_segments_are_read_from_their_pngs(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    labels[:30], labels[30:, 40:], labels[50:, :20] = 5 + 256 * 3, 70000, 11
    pixels = np.stack([labels % 256, labels // 256 % 256, labels // 65536], -1).astype(np.uint8)
    (tmp_path / "panoptic_mine").mkdir()
    Image.fromarray(pixels).save(tmp_path / "panoptic_mine" / "chelsea.png")
    segments = [{"id": 5 + 256 * 3, "category_id": 1}, {"id": 70000, "category_id": 2}, {"id": 11, "category_id": 2}]
    one = {"image_id": 7, "file_name": "chelsea.png", "segments_info": segments}
    categories = [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "cat", "isthing": 1}]
    bank = CocoMasks(written(tmp_path / "panoptic_mine.json", [one], IMAGES, categories), missing="unannotated")
    assert [c.name for c in bank.concepts("picture")] == ["stuff:sky", "thing:cat"]
    view = seen("chelsea", "coffee")
    found = bank.maps(view).picture
    np.testing.assert_allclose(found[:16, 0], by_loops(view, 0, labels == 5 + 256 * 3), atol=1e-6)
    np.testing.assert_allclose(found[:16, 1], by_loops(view, 0, (labels == 70000) | (labels == 11)), atol=1e-6)
    assert np.isnan(found[16:]).all(), "listed, but without a PNG"
    pixels[0, 0] = 9
    Image.fromarray(pixels).save(tmp_path / "panoptic_mine" / "chelsea.png")
    with pytest.raises(ValueError, match="has a segment"):
        bank.maps(view)


def test_what_nobody_looked_for_is_unannotated_and_not_absent(tmp_path: Path) -> None:
    annotations, _ = drawn(seeds.rng())
    images = [{**IMAGES[0], "neg_category_ids": [9], "not_exhaustive_category_ids": [3]}]  # as LVIS has them
    categories = [*CATEGORIES, {"id": 10, "name": "zebra"}]
    bank = CocoMasks(written(tmp_path / "lvis.json", annotations, images, categories), missing="unannotated")
    found = bank.maps(seen("chelsea", "coffee")).picture
    assert np.isnan(found[:16]).all(0).tolist() == [False, False, True, False, True]
    assert not np.isnan(found[:16, :2]).any() and not found[:16, 3].any()
    assert np.isnan(found[16:]).all()
    strict = replace(bank, missing="error")
    with pytest.raises(ValueError, match=r"mine: .*lvis.json has no annotation of '/photos/coffee.jpg'.*missing="):
        strict.maps(seen("chelsea", "coffee"))
    assert strict.identity() != bank.identity()


def test_annotations_of_other_pictures_are_refused_by_name_and_size(tmp_path: Path) -> None:
    annotations, _ = drawn(seeds.rng())
    bank = CocoMasks(written(tmp_path / "a.json", annotations))
    with pytest.raises(ValueError, match=r"has no annotation of '/photos/rocket.jpg'"):
        bank.maps(seen("rocket"))
    larger = view_of(model(), [photograph().resize((180, 122))], paths=["chelsea.jpg"])
    with pytest.raises(ValueError, match="annotates a picture of 90 x 61 pixels, it has 180 x 122"):
        bank.maps(larger)
    turned = view_of(model(), [photograph().rotate(90, expand=True)], paths=["chelsea.jpg"])
    with pytest.raises(ValueError, match="EXIF"):
        bank.maps(turned)
    elsewhere = [{**one, "file_name": f"{part}/x.jpg"} for one, part in zip(IMAGES, ("train", "val"), strict=True)]
    bank = CocoMasks(written(tmp_path / "b.json", annotations, elsewhere))
    photo = [photograph()]
    assert bank.maps(view_of(model(), photo, paths=["/data/train/x.jpg"])).picture.any()
    assert not bank.maps(view_of(model(), photo, paths=["/data/val/x.jpg"])).picture.any()
    with pytest.raises(ValueError, match=r"could be 'train/x.jpg' or 'val/x.jpg'"):
        bank.maps(view_of(model(), photo, paths=["/data/x.jpg"]))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no json", "COCO's instances"),
        ('{"images": []}', "annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "no categories"),
        (json.dumps({"images": IMAGES, "categories": CATEGORIES, "annotations": [{"image_id": 7, "category_id": 1,
                     "bbox": [0, 0, 9, 9], "id": 4}]}), "annotation 4 of image 7 has no segmentation"),
        (json.dumps({"images": IMAGES, "categories": CATEGORIES, "annotations": [{"image_id": 7, "category_id": 77,
                     "segmentation": [[0, 0, 1, 0, 1, 1]]}]}), "77"),
        (json.dumps({"images": [*IMAGES, {"id": 9, "file_name": "coffee.jpg"}], "categories": CATEGORIES,
                     "annotations": []}), "two images have file_name 'coffee.jpg'"),
        (json.dumps({"images": [*IMAGES, {"id": 7, "file_name": "tea.jpg"}], "categories": CATEGORIES,
                     "annotations": []}), "two images have id 7"),
    ],
)  # fmt: skip
def test_a_file_in_another_format_is_refused_when_the_bank_is_made(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=rf"x.json: .*{told}"):
        CocoMasks(tmp_path / "x.json")


def test_masks_of_another_size_than_the_picture_are_refused(tmp_path: Path) -> None:
    one = {"image_id": 7, "category_id": 1, "segmentation": {"counts": [12], "size": [3, 4]}}
    with pytest.raises(ValueError, match=r"mine: .*a mask is 4 x 3, the picture 90 x 61"):
        CocoMasks(written(tmp_path / "x.json", [one])).maps(seen())


def labels_in(folder: Path, labels: np.ndarray, name: str = "chelsea.png") -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(labels).save(folder / name)
    return folder


def test_label_images_are_exact_shares_by_name(tmp_path: Path) -> None:
    labels = seeds.rng().integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint16)
    labels[:20] = 300
    folder = labels_in(tmp_path / "labels", labels)
    bank = Masks(folder, {1: "cat", 2: "sky", 300: "sky", 3: ""}, missing="unannotated")
    assert [c.phrase for c in bank.concepts("picture")] == ["cat", "sky"]
    view = seen("coffee", "chelsea")
    found = bank.maps(view).picture
    assert np.isnan(found[:16]).all()
    np.testing.assert_allclose(found[16:, 0], by_loops(view, 1, labels == 1), atol=1e-6)
    np.testing.assert_allclose(found[16:, 1], by_loops(view, 1, (labels == 2) | (labels == 300)), atol=1e-6)
    (folder / "names.json").write_text('{"1": "cat", "2": "sky", "300": "sky", "3": ""}')
    assert replace(bank, names=None).identity() == bank.identity()
    before = bank.identity()
    labels_in(folder, labels + np.uint16(0), "rocket.png")
    assert replace(bank).identity() != before, "another label image, other maps"


def test_label_images_that_say_nothing_clear_are_refused(tmp_path: Path) -> None:
    labels = np.ones((HEIGHT, WIDTH), np.uint8)
    with pytest.raises(ValueError, match=r"names.json.*pass names="):
        Masks(labels_in(tmp_path / "a", labels))
    with pytest.raises(ValueError, match="no label images"):
        Masks(tmp_path / "nowhere", {1: "cat"})
    with pytest.raises(ValueError, match="names nothing"):
        Masks(tmp_path / "a", {})
    for names, told in (
        ({"sky": 1}, "names= has 'sky' where a whole number"),
        ({1.7: "x"}, "names= has 1.7 where a whole number"),
        ({1: 2}, "names= has 2 where a name should be"),
        (["ab"], "names= has 'a' where a whole number"),
    ):
        with pytest.raises(ValueError, match=f"{told}.*a number has a name"):
            Masks(tmp_path / "a", names)  # type: ignore[arg-type]
    (tmp_path / "a" / "names.json").write_text('{"sky": 1}')
    with pytest.raises(ValueError, match=r"names.json has 'sky' where a whole number"):
        Masks(tmp_path / "a")
    with pytest.raises(ValueError, match="missing='none'"):
        Masks(tmp_path / "a", {1: "cat"}, missing="none")  # type: ignore[arg-type]
    bank = Masks(tmp_path / "a", {1: "cat"})
    with pytest.raises(ValueError, match=r"no annotation of '/photos/coffee.jpg'"):
        bank.maps(seen("coffee"))
    labels_in(tmp_path / "a", labels * 9)
    with pytest.raises(ValueError, match="label 9 has no name"):
        bank.maps(seen())
    labels_in(tmp_path / "a", labels[:30])
    with pytest.raises(ValueError, match="annotates a picture of 90 x 30 pixels, it has 90 x 61"):
        bank.maps(seen())
    labels_in(tmp_path / "a", labels[..., None].repeat(3, 2))
    with pytest.raises(ValueError, match="one whole number a pixel"):
        bank.maps(seen())


def test_text_without_pictures_is_no_error(tmp_path: Path) -> None:
    annotations, _ = drawn(seeds.rng())
    view = view_of(model(), [])
    for bank in (CocoMasks(written(tmp_path / "a.json", annotations)),
                 Masks(labels_in(tmp_path / "b", np.ones((4, 4), np.uint8)), {1: "x"})):  # fmt: skip
        maps = bank.maps(view)
        assert maps.picture.shape == (0, len(bank.concepts("picture"))) and maps.text.shape == (len(view.tokens), 0)

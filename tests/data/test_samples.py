"""Data from every source comes with stable ids, and bad input is refused with file, line and remedy."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import seeds
import tiny
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.data import ImageTextData, Sample
from vlm_neurons.synthetic import open_data


def save(folder, *names):
    for name in names:
        tiny.image().save(folder / name)


def test_folder_is_sorted_by_name_and_takes_captions(tmp_path):
    save(tmp_path, "b.png", "a.jpg", "C.PNG")
    (tmp_path / "captions.jsonl").write_text(
        json.dumps({"image": "b.png", "response": "B", "prompt": "What?"})
        + "\n\n"
        + json.dumps({"image": "a.jpg"})
        + "\n"
    )
    data = ImageTextData.from_folder(tmp_path)
    assert [(s.id, s.name, s.response, s.prompt) for s in data] == [
        (0, "C.PNG", None, None),
        (1, "a.jpg", None, None),
        (2, "b.png", "B", "What?"),
    ]
    assert data[2].load_images()[0].mode == "RGB"


def test_jsonl_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in", "a.png", "b.png")
    lines = [
        {"image": "in/a.png", "response": "A"},
        {"image": ["in/a.png", str(tmp_path / "in/b.png")], "response": "AB", "prompt": "Both?"},
        {"image": None, "response": "none"},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir("/")
    data = ImageTextData.from_jsonl(tmp_path / "d.jsonl")
    assert [len(s.load_images()) for s in data] == [1, 2, 0]
    assert [s.name for s in data] == ["a.png", "a.png", "line 3"]
    assert data[1].prompt == "Both?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "a.png", "response": "A"}\n{"image": "b.png"\n', r"d\.jsonl, line 2: not JSON"),
        ('{"response": "A"}\n', r"d\.jsonl, line 1: no \"image\".*null for a text-only sample"),
        ("\n[1]\n", r"d\.jsonl, line 2: list, not an object"),
        ('{"image": 3}\n', r"d\.jsonl, line 1: \"image\" holds 3"),
        ('{"image": "a.png", "response": 3}\n', r"d\.jsonl, line 1: 'response' is 3"),
        ('{"image": "a.png", "prompt": ["x"]}\n', r"d\.jsonl, line 1: 'prompt' is a list"),
        ("\n", r"d\.jsonl: no samples"),
    ],
)
def test_bad_jsonl_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        ImageTextData.from_jsonl(tmp_path / "d.jsonl")


def test_jsonl_in_another_encoding_is_refused_by_line(tmp_path):
    (tmp_path / "d.jsonl").write_bytes('{"image": "a.png"}\n{"image": "ü.png"}\n'.encode("latin-1"))
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        ImageTextData.from_jsonl(tmp_path / "d.jsonl")


def test_empty_folders_and_unknown_captions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no images in it"):
        ImageTextData.from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        ImageTextData.from_folder(tmp_path / "none")
    save(tmp_path, "a.png")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "z.png", "response": "Z"}) + "\n")
    with pytest.raises(ValueError, match=r"captions\.jsonl, line 1: 'z\.png' is no image of"):
        ImageTextData.from_folder(tmp_path)


def test_open_takes_paths_and_what_source_says(tmp_path):
    (tmp_path / "in").mkdir()
    save(tmp_path / "in", "a.png")
    (tmp_path / "d.jsonl").write_text(json.dumps({"image": "in/a.png", "response": "A"}) + "\n")
    for spec in (tmp_path / "in", tmp_path / "d.jsonl"):
        data = open_data(spec)
        again = open_data(data.source)
        assert again.fingerprint() == data.fingerprint() and again.source == data.source
    with pytest.raises(ValueError, match="is no data"):
        open_data("nothing-here")
    with pytest.raises(ValueError, match="write scenes:n=100,seed=0"):
        open_data("scenes:100")


@pytest.mark.parametrize("spec", ["scenes:n=x", "scenes:m=3", "scenes:n"])
def test_a_scenes_source_that_makes_no_sense_says_how_to_write_it(spec):
    with pytest.raises(ValueError, match="write scenes:n=100,seed=0"):
        open_data(spec)


def test_scenes_open_from_their_source():
    data = open_data("scenes:n=4,seed=3")
    assert len(data) == 4
    assert open_data(data.source).fingerprint() == data.fingerprint()


def test_fingerprint_sees_every_change(tmp_path):
    save(tmp_path, "a.png", "b.png")
    base = [
        {"image": tmp_path / "a.png", "response": "A"},
        {"image": tmp_path / "b.png", "response": "B", "prompt": "P"},
    ]
    first = ImageTextData.from_samples(base).fingerprint()
    assert ImageTextData.from_samples(base).fingerprint() == first
    changes = [
        [base[1], base[0]],
        [base[0]],
        [base[0], {**base[1], "response": "C"}],
        [base[0], {**base[1], "prompt": None}],
        [base[0], {**base[1], "response": None}],
        [base[0], {**base[1], "image": tmp_path / "a.png"}],
        [base[0], {**base[1], "image": None}],
    ]
    found = {ImageTextData.from_samples(change).fingerprint() for change in changes}
    whole = bytearray((tmp_path / "b.png").read_bytes())
    whole[len(whole) // 2] ^= 1  # one bit, same size
    (tmp_path / "b.png").write_bytes(whole)
    found.add(ImageTextData.from_samples(base).fingerprint())
    assert len(found | {first}) == len(changes) + 2


def test_duplicates_have_the_same_images_prompt_and_response():
    picture, other = tiny.image(), tiny.image()
    entries = [
        (picture, "A", None),
        (other, "A", None),
        (picture.copy(), "A", "Q"),
        (picture, "B", None),
        (None, "A", None),
    ]
    data = ImageTextData.from_samples([{"image": i, "response": r, "prompt": p} for i, r, p in entries])
    assert data.duplicates("Q") == {2: 0}
    assert data.duplicates("other") == {}
    assert ImageTextData.from_samples([{"image": None, "response": "A"}] * 3).duplicates("") == {1: 0, 2: 0}


def test_unreadable_images_raise_an_error_that_names_them(tmp_path):
    buffer = io.BytesIO()
    tiny.image().save(buffer, "PNG")
    (tmp_path / "torn.png").write_bytes(buffer.getvalue()[:-40])
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("torn.png", "empty.png", "missing.png"):
        with pytest.raises(OSError, match=name):
            Sample(0, (tmp_path / name,), None, "x", name).load_images()


def test_files_are_read_upright_and_in_rgb(tmp_path):
    picture = tiny.image(20, 10)
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    tiny.image(5, 5).convert("LA").save(tmp_path / "b.png")
    turned, grey = (Sample(0, (tmp_path / n,), None, "", n).load_images()[0] for n in ("a.jpg", "b.png"))
    assert turned.size == (10, 20) and grey.mode == "RGB"


def test_sixteen_bit_grey_is_scaled_and_what_has_no_range_is_named(tmp_path):
    grey = seeds.rng().integers(0, 65536, (9, 7), dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "b.tif")
    data = ImageTextData.from_folder(tmp_path)
    (image,) = data[0].load_images()
    assert (np.asarray(image) == (grey >> 8)[..., None]).all() and image.mode == "RGB"
    with pytest.raises(OSError, match=r"b\.tif.*'F' has no fixed range: scale it"):
        data[1].load_images()
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    told = [model.prepare(i, "Hi").pixel_values for i in (image, Image.fromarray(grey), tmp_path / "a.png")]
    assert told[0].equal(told[1]) and told[0].equal(told[2])
    with pytest.raises(OSError, match=r"image cannot be read.*no fixed range"):
        model.prepare(Image.fromarray(grey.astype(np.int32)), "Hi")


def test_samples_in_memory_are_numbered_by_place():
    data = ImageTextData.from_samples([Sample(7, (), None, "A", "seven"), {"image": None, "response": "B"}])
    assert [(s.id, s.name) for s in data] == [(0, "seven"), (1, "sample 1")]
    with pytest.raises(ValueError, match=r"sample 0: no \"image\""):
        ImageTextData.from_samples([{"response": "A"}])


def test_hugging_face_datasets_keep_broken_images_for_the_scan_to_record(tmp_path):
    datasets = pytest.importorskip("datasets")
    save(tmp_path, "a.png", "b.png")
    (tmp_path / "broken.png").write_text("no image")
    rows = {
        "image": [str(tmp_path / n) for n in ("a.png", "broken.png", "b.png")],
        "caption": ["A", "?", "B"],
        "prompt": ["P", "P", None],
    }
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data = ImageTextData.from_dataset(dataset, response_column="caption")
    assert [(s.id, s.response, s.prompt) for s in data] == [(0, "A", "P"), (1, "?", "P"), (2, "B", None)]
    assert np.array_equal(
        np.asarray(data[2].load_images()[0]), np.asarray(Image.open(tmp_path / "b.png").convert("RGB"))
    )
    with pytest.raises(OSError, match=r"row 1|broken"):
        data[1].load_images()
    assert len({data.fingerprint(), data.fingerprint()}) == 1
    with pytest.raises(ValueError, match=r"no column 'text'.*response_column="):
        ImageTextData.from_dataset(dataset, response_column="text")
    with pytest.raises(ValueError, match="choose a split"):
        ImageTextData.from_dataset(datasets.DatasetDict(train=dataset))


def test_data_with_the_responses_that_it_has_keeps_what_it_knows() -> None:
    scenes = vn.scenes(4, seed=3)
    same = scenes.with_responses([s.response for s in scenes])
    assert same.concept("color", "red")[0].shape == scenes.concept("color", "red")[0].shape
    assert scenes.with_responses(["a"] * 4)[0].response == "a" != scenes[0].response


def test_an_image_and_a_word_for_a_number_are_named_with_the_remedy(tmp_path):
    save(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=rf"a\.jpg is an image; pass its folder, {tmp_path}$"):
        open_data(tmp_path / "a.jpg")
    for spec in ("scenes:n=abc", "scenes:n=2,seed=-"):
        with pytest.raises(ValueError, match=r"is no whole number; write scenes:n=100,seed=0$"):
            open_data(spec)

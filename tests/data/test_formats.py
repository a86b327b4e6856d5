"""Formats that people have are read as they are; nothing that stands in them is ignored in silence."""

from __future__ import annotations

import json
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
import tiny
from files import shard, write

from vlm_neurons.data import ImageTextData
from vlm_neurons.synthetic import open_data


def lines(path: Path, *records: Any) -> Path:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def pictures(folder: Path, *names: str) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    for name in names:
        tiny.image().save(folder / name)
    return {name: (folder / name).read_bytes() for name in names}


def told(data: ImageTextData) -> list[tuple[str, str | None, str | None]]:
    return [(s.name, s.prompt, s.response) for s in data]


def reopened(data: ImageTextData) -> bool:
    """Whether its source gives the same, and says nothing again: a warning would be an error."""
    again = open_data(data.source)
    return told(again) == told(data) and again.fingerprint() == data.fingerprint()


# ------------------------------------------------------------------- folders and records of our own form


def test_several_captions_of_one_picture_are_several_samples(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    lines(tmp_path / "captions.jsonl", *({"image": "a.png", "response": f"caption {i}"} for i in range(5)))
    data = ImageTextData.from_folder(tmp_path)
    assert [(s.id, s.name, s.response) for s in data] == [
        *((i, "a.png", f"caption {i}") for i in range(5)),
        (5, "b.png", None),
    ]
    assert reopened(data)


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("caption", "response"), ("text", "response"), ("Response", "response"), ("captions", "response"),
        ("answer", "response"), ("conversations", "response"), ("respnse", "response"), ("question", "prompt"),
        ("Prompt", "prompt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["data.jsonl", "captions.jsonl"])
def test_text_under_another_name_is_refused_by_name_and_line(
    tmp_path: Path, field: str, meant: str, where: str
) -> None:
    pictures(tmp_path, "a.png")
    file = lines(tmp_path / where, {"image": "a.png", field: "a red square"})
    with pytest.raises(ValueError, match=rf'{where}, line 1: no "{meant}", but \'{field}\', which is not read'):
        ImageTextData.from_folder(tmp_path) if where == "captions.jsonl" else ImageTextData.from_jsonl(file)
    lines(file, {"image": "a.png", field: "a red square", meant: None})
    with pytest.warns(UserWarning, match=rf"fields not used: {field} \(1\)"):
        data = ImageTextData.from_folder(tmp_path) if where == "captions.jsonl" else ImageTextData.from_jsonl(file)
    assert getattr(data[0], meant) is None


def test_other_fields_are_counted_with_the_nearest_that_is_read(tmp_path: Path) -> None:
    records = [{"image": None, "response": str(i), "license": 1} for i in range(3)]
    file = lines(tmp_path / "d.jsonl", *records, {"image": None, "response": "x", "promt": None})
    with pytest.warns(UserWarning, match=r"d\.jsonl: fields not used: license \(3\), promt \(1\)"):
        data = ImageTextData.from_jsonl(file)
    assert data.summary().startswith(f"JSONL, jsonl:{file}: 4 samples, 4 with text, 0 without; fields used: image")


def test_what_else_lies_beside_pictures_is_counted_aloud(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    pictures(tmp_path / "more", "b.png")
    (tmp_path / "empty").mkdir()
    for name in ("b.heic", "c.HEIC", "a.txt", ".DS_Store", "d.pdf"):
        write(tmp_path / name, "x")
    lines(tmp_path / "metadata.jsonl", {"file_name": "a.png", "text": "a red square"})
    with pytest.warns(UserWarning) as caught:
        data = ImageTextData.from_folder(tmp_path)
    said = str(caught[0].message)
    for part in ("2 .heic", "1 .pdf", "1 .txt", "pillow-heif", "not from a.txt, metadata.jsonl", "1 folders", "more"):
        assert part in said
    assert "DS_Store" not in said and len(data) == 1 and all(note in data.summary() for note in data.found.notes)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"no images in it.*2 \.heic"):
        ImageTextData.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.png")),
        (unicodedata.normalize("NFC", "café.png"), unicodedata.normalize("NFD", "café.png")),
        ("a.png", "./a.png"), ("a.png", "../in/a.png"),
    ],
)  # fmt: skip
def test_other_spellings_of_a_file_name_are_the_same_file(tmp_path: Path, on_disk: str, written: str) -> None:
    pictures(tmp_path / "in", on_disk)
    lines(tmp_path / "in" / "captions.jsonl", {"image": written, "response": "a cup"})
    data = ImageTextData.from_folder(tmp_path / "in")
    assert [s.response for s in data] == ["a cup"] and data[0].load_images()
    file = lines(tmp_path / "d.jsonl", {"image": f"in/{written}", "response": "a cup"})
    assert ImageTextData.from_jsonl(file).image_digests == data.image_digests


def test_a_file_name_in_other_letters_is_another_file_and_the_error_names_the_one_that_is_there(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    lines(tmp_path / "captions.jsonl", {"image": "A.PNG", "response": "a cup"})
    with pytest.raises(ValueError, match=r"'A\.PNG' is no image of .*there is 'a\.png'"):
        ImageTextData.from_folder(tmp_path)


def test_a_mark_of_windows_at_the_beginning_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"image": null, "response": "a"}\r\n{"image": null}\r\n')
    assert [s.response for s in ImageTextData.from_jsonl(tmp_path / "d.jsonl")] == ["a", None]


# ------------------------------------------------------------------------------- conversations, captions


def turn(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


CONVERSATIONS: dict[str, tuple[list[Any], list[tuple[str | None, str | None]]]] = {
    "mark at the start": ([turn("human", "<image>\nWhat?"), turn("gpt", "A dog.")], [("What?", "A dog.")]),
    "mark at the end": ([turn("human", "What?\n<image>"), turn("gpt", "A dog.")], [("What?", "A dog.")]),
    "no mark": ([turn("human", "What?"), turn("gpt", "A dog.")], [("What?", "A dog.")]),
    "several turns": (
        [turn("human", "<image>\nWhat?"), turn("gpt", "A dog."), turn("human", "Its color?"), turn("gpt", "Red.")],
        [("What?", "A dog."), ("What?\nA dog.\nIts color?", "Red.")],
    ),
    "a last question": (
        [turn("human", "What?\n<image>"), turn("gpt", "A dog."), turn("human", "Why?")],
        [("What?", "A dog."), ("What?\nA dog.\nWhy?", None)],
    ),
    "other names": (
        [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A dog."}],
        [("What?", "A dog.")],
    ),
    "a system turn": (
        [turn("system", "Be brief."), turn("human", "<image>\nWhat?"), turn("gpt", "A dog.")],
        [("Be brief.\nWhat?", "A dog.")],
    ),
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_every_answer_of_a_conversation_is_a_sample(tmp_path: Path, kind: str, suffix: str) -> None:
    turns, right = CONVERSATIONS[kind]
    pictures(tmp_path / "train", "1.jpg")
    record = {"id": "1", "image": "1.jpg", "conversations": turns}
    file = write(tmp_path / f"d{suffix}", json.dumps([record]) if suffix == ".json" else json.dumps(record))
    data = ImageTextData.from_llava(file, images=tmp_path / "train")
    assert told(data) == [("1.jpg", *one) for one in right]
    assert all(s.load_images() for s in data) and reopened(data)
    assert told(open_data(file, images=tmp_path / "train")) == told(data)


def test_conversations_without_a_picture_with_several_and_with_odd_parts(tmp_path: Path) -> None:
    said = [turn("human", "What?"), turn("gpt", "A dog.")]
    records = [
        {"id": "t", "conversations": said},
        {"image": ["1.jpg", "2.jpg"], "conversations": [turn("human", "<image><image>\nBoth?"), said[1]]},
        {"image": "1.jpg", "conversations": [turn("human", "<image>\n<image>\nTwo?"), said[1]], "source": "x"},
        {"image": "1.jpg", "conversations": [turn("gpt", "Hello.")]},
        {"image": "1.jpg", "conversations": []},
    ]
    file = write(tmp_path / "d.json", records)
    with pytest.warns(UserWarning) as caught:
        data = ImageTextData.from_llava(file)
    assert told(data) == [("t", "What?", "A dog."), ("1.jpg", "Both?", "A dog."), ("1.jpg", "Two?", "A dog.")]
    assert [len(s.images) for s in data] == [0, 2, 1]
    said_aloud = str(caught[0].message)
    for part in ("source (1)", "1 records whose <image> marks", "1 answers without a question", "2 records without a"):
        assert part in said_aloud


TURNS_WITH_PICTURES = {
    "one in each turn": (["1.jpg", "2.jpg"], "<image>\nWhat?", "<image>\nAnd this?", [1, 2]),
    "both at first": (["1.jpg", "2.jpg"], "<image><image>\nWhat?", "And this?", [2, 2]),
    "both at last": (["1.jpg", "2.jpg"], "Hello.", "<image>\n<image>\nWhat?", [0, 2]),
    "one at last": ("1.jpg", "Hello.", "<image>\nWhat?", [0, 1]),
    "no marks": (["1.jpg", "2.jpg"], "What?", "And this?", [2, 2]),
    "not as many marks": (["1.jpg", "2.jpg"], "<image>\nWhat?", "And this?", [2, 2]),
}


@pytest.mark.filterwarnings("ignore:.*marks are not as many")
@pytest.mark.parametrize("kind", TURNS_WITH_PICTURES)
def test_an_answer_has_the_pictures_that_were_shown_by_then(tmp_path: Path, kind: str) -> None:
    image, first, second, n = TURNS_WITH_PICTURES[kind]
    turns = [turn("human", first), turn("gpt", "A."), turn("human", second), turn("gpt", "B.")]
    file = write(tmp_path / "d.json", [{"id": "7", "image": image, "conversations": turns}])
    data = ImageTextData.from_llava(file)
    assert [len(s.images) for s in data] == n and [s.response for s in data] == ["A.", "B."]
    assert all(s.images == data[1].images[: len(s.images)] for s in data)
    assert [s.name for s in data] == ["1.jpg" if k else "7" for k in n]


@pytest.mark.parametrize("kind", ["JSONL", "captions.jsonl", "LLaVA", "COCO", "shard"])
def test_a_key_that_stands_twice_is_refused_by_line_and_name(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, "a.png")
    twice = '{"image": "a.png", "response": "one", "response": "two"}'
    line = '{"image": "a.png", "response": "one"}\n' + twice
    said = turn("human", "What?"), turn("gpt", "A.")
    whole = {
        "LLaVA": f'[{{"image": "a.png", "image": "b.png", "conversations": {json.dumps(said)}}}]',
        "COCO": json.dumps(COCO)[:-1] + ', "images": []}',
    }
    read = {"JSONL": ImageTextData.from_jsonl, "LLaVA": ImageTextData.from_llava, "COCO": ImageTextData.from_coco}
    where = "line 2: " if kind in ("JSONL", "captions.jsonl") else ""
    name = {"LLaVA": "image", "COCO": "images"}.get(kind, "response")
    if kind == "shard":
        file = shard(tmp_path / "s.tar", {"a.png": (tmp_path / "a.png").read_bytes(), "a.json": twice.encode()})
        with pytest.raises(ValueError, match=r"s\.tar, a: the key 'response' stands twice"):
            ImageTextData.from_webdataset(str(file))
        return
    file = write(tmp_path / ("captions.jsonl" if kind == "captions.jsonl" else "d.jsonl"), whole.get(kind, line))
    with pytest.raises(ValueError, match=rf"{file.name}.*{where}the key '{name}' stands twice"):
        ImageTextData.from_folder(tmp_path) if kind == "captions.jsonl" else read[kind](file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not read as JSON"), ({}, "not a list of conversations"), ([3], "record 0: no"), ([], "no conversation"),
        ([{"image": "a"}], "record 0: no"),
        ([{"conversations": [{"from": "cat", "value": "x"}]}], "record 0: a turn is 'cat', 'x'"),
        ([{"conversations": [turn("human", "x"), {"from": "gpt"}]}], "record 0: a turn is 'gpt', None"),
        ([{"image": 3, "conversations": [turn("human", "x")]}], 'record 0: "image" holds 3'),
        ("[" * 100_000, "not read as JSON"),
    ],
)  # fmt: skip
def test_bad_conversations_are_refused_by_record(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"d\.json.*{message}"):
        ImageTextData.from_llava(write(tmp_path / "d.json", content))


COCO = {
    "info": {}, "licenses": [],
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 30, "license": 1} for i in (7, 3, 5)],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "A dog. "}, {"id": 2, "image_id": 7, "caption": "A cat."},
        {"id": 3, "image_id": 3, "caption": "A pet."},
    ],
}  # fmt: skip


@pytest.mark.parametrize("joined", [False, True])
def test_captions_of_coco_are_samples_or_are_joined_by_picture(tmp_path: Path, joined: bool) -> None:
    pictures(tmp_path / "train", "7.jpg", "3.jpg", "5.jpg")
    file = write(tmp_path / "d.json", COCO)
    data = ImageTextData.from_coco(file, images=tmp_path / "train", joined=joined)
    of_three = ["A dog. A pet."] if joined else ["A dog. ", "A pet."]
    assert told(data) == [("7.jpg", None, "A cat."), *(("3.jpg", None, t) for t in of_three), ("5.jpg", None, None)]
    assert reopened(data) and all(s.load_images() for s in data)
    assert f"COCO captions, coco:{file},images={tmp_path / 'train'}" in data.summary() and "1 without" in data.summary()


def test_captions_of_coco_that_belong_to_no_picture_are_counted(tmp_path: Path) -> None:
    stray = {**COCO, "annotations": [*COCO["annotations"], {"image_id": 9, "caption": "x", "score": 1}]}
    with pytest.warns(UserWarning, match=r"score \(1\); 1 captions of pictures that the file does not list"):
        assert len(ImageTextData.from_coco(write(tmp_path / "d.json", stray))) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, 'no "images" and "annotations"'),
        ({"annotations": [{"image_id": 3, "bbox": []}]}, "have no captions"),
        ({"annotations": [{"image_id": 3, "caption": 3}]}, "annotation 0: its caption is 3"),
        ({"images": [{"id": 3}]}, "image 0: no"),
        ({"images": [{"id": 3, "file_name": "a"}] * 2}, "image 1: id 3 is that of 'a'"),
        ({"images": [], "annotations": []}, "no images"),
    ],
)
def test_bad_captions_of_coco_are_refused_by_record(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"d\.json.*{message}"):
        ImageTextData.from_coco(write(tmp_path / "d.json", {**COCO, **change}))


def test_twenty_three_thousand_records_are_read_without_a_look_at_a_picture(tmp_path: Path) -> None:
    n = 23_000  # none of the pictures is there
    said = [turn("human", "<image>\nWhat is it?"), turn("gpt", "It is a dog.")]
    records = [{"id": str(i), "image": f"{i:012}.jpg", "conversations": said} for i in range(n)]
    data = ImageTextData.from_llava(write(tmp_path / "d.json", records), images="train2017")
    assert len(data) == n and f"{n:,} samples, {n:,} with text, 0 without" in data.summary()


# ------------------------------------------------------------------------------------------------- tables


def frame_of(found: dict[str, bytes], folder: Path) -> pd.DataFrame:
    first, second, third = found.items()
    return pd.DataFrame(
        {
            "image": [str(folder / first[0]), second[1], {"bytes": third[1], "path": third[0]}, None],
            "response": ["A", "B", float("nan"), "D"],
            "prompt": [None, "Why?", pd.NA, None],
        }
    )


def test_a_frame_is_read_with_its_missing_values(tmp_path: Path) -> None:
    found = pictures(tmp_path, "a.png", "b.png", "c.jpg")
    data = ImageTextData.from_frame(frame_of(found, tmp_path))
    assert [(s.prompt, s.response) for s in data] == [(None, "A"), ("Why?", "B"), (None, None), (None, "D")]
    folder = ImageTextData.from_folder(tmp_path)
    assert data.image_digests == [*folder.image_digests, ()]


def test_columns_that_are_not_used_are_named_with_the_argument_that_reads_them() -> None:
    frame = pd.DataFrame({"image": [None], "caption": ["A"], "id": [1]})
    with pytest.warns(UserWarning, match=r"columns not used: caption, id; response_column='caption' reads it"):
        data = ImageTextData.from_frame(frame)
    assert data[0].response is None
    for bad, message in ((frame.rename(columns={"id": "image"}), "image are there twice"), ([1], "no DataFrame")):
        with pytest.raises(ValueError, match=message):
            ImageTextData.from_frame(bad)
    with pytest.raises(ValueError, match=r"no column 'text'.*response_column="):
        ImageTextData.from_frame(frame, response_column="text")
    with pytest.raises(ValueError, match=r"row 0: 'response' is 3"):
        ImageTextData.from_frame(pd.DataFrame({"image": [None], "response": [3]}))


def hugging_face(tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    found = pictures(tmp_path, "a.png", "b.png", "c.png")
    rows = {"image": [{"bytes": b, "path": n} for n, b in found.items()], "response": ["A", "B", "C"]}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "arrow", None])
def test_a_dataset_in_another_format_is_read_as_itself(tmp_path: Path, kind: str | None) -> None:
    data = ImageTextData.from_dataset(hugging_face(tmp_path).with_format(kind))
    assert told(data) == [(f"{n}.png", None, n.upper()) for n in "abc"]
    assert data.image_digests == ImageTextData.from_folder(tmp_path).image_digests


def test_the_transform_of_a_dataset_is_honoured_and_a_row_that_it_refuses_is_a_broken_picture(tmp_path: Path) -> None:
    def grey(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if "B" in batch["response"]:
            raise KeyError("no B")
        return {"image": [i.convert("L") for i in batch["image"]], "response": [r + "!" for r in batch["response"]]}

    data = ImageTextData.from_dataset(hugging_face(tmp_path).with_transform(grey))
    assert [s.response for s in data] == ["A!", None, "C!"]
    shown = np.asarray(data[0].load_images()[0])
    assert (shown[..., 0] == shown[..., 1]).all()
    with pytest.raises(OSError, match=r"row 1.*KeyError: 'no B'"):
        data[1].load_images()
    assert not data.facts[1].readable


def test_a_streaming_dataset_is_what_it_is_without_streaming(tmp_path: Path) -> None:
    whole = hugging_face(tmp_path)
    stream = ImageTextData.from_dataset(whole.to_iterable_dataset())
    plain = ImageTextData.from_dataset(whole)
    assert len(stream) == 3 and told(stream) == told(plain) and stream.fingerprint() == plain.fingerprint()
    assert [stream[i].response for i in (2, 0, 0, 1)] == ["C", "A", "A", "B"]


def test_a_stream_that_differs_at_the_next_pass_is_named(tmp_path: Path) -> None:
    shuffled = hugging_face(tmp_path).to_iterable_dataset()
    order = iter([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 2, 1]])  # looked at, counted, surveyed; then another

    def rows() -> Any:
        every = list(shuffled)
        yield from (every[i] for i in next(order, [0, 2, 1]))

    import datasets

    data = ImageTextData.from_dataset(datasets.IterableDataset.from_generator(rows, features=shuffled.features))
    with pytest.raises(ValueError, match="row 1 is another than when it was first read: the stream has to give"):
        for _ in range(3):
            _ = [data[i] for i in range(3)]


def test_a_transform_that_changes_pictures_at_random_is_named(tmp_path: Path) -> None:
    turns = iter(range(100))

    def turned(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        angle = next(turns)
        return {"image": [i.rotate(90 * angle) for i in batch["image"]], "response": batch["response"]}

    photos = hugging_face(tmp_path).with_transform(turned)
    data = ImageTextData.from_dataset(photos)
    _ = data.facts
    with pytest.raises(ValueError, match=r"row 0 is another than when .* the dataset's transform has to give"):
        _ = data[0]


def test_a_stream_that_ends_sooner_the_next_time_is_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    left = [3, 3, 1]

    def rows() -> Any:
        for i in range(left.pop(0) if left else 1):
            yield {"image": None, "response": str(i)}

    data = ImageTextData.from_dataset(datasets.IterableDataset.from_generator(rows))
    with pytest.raises(ValueError, match="the stream had 3 rows and ended this time after 1"):
        [s.response for _ in range(3) for s in data]


# ------------------------------------------------------------------------------------------------- shards


def test_tar_shards_are_read_as_webdataset_writes_them(tmp_path: Path) -> None:
    found = pictures(tmp_path / "in", "a.png", "b.jpg", "c.png")
    shard(tmp_path / "s-00.tar", {"x/1.png": found["a.png"], "x/1.txt": "ein Häuschen".encode(), "x/1.cls": b"3"})
    meta = {"response": "B", "prompt": "Why?", "url": "u"}
    members = {"2.jpg": found["b.jpg"], "2.json": json.dumps(meta).encode(), "3.0.png": found["a.png"]}
    shard(tmp_path / "s-01.tar", {**members, "3.1.png": found["c.png"], "4.cls": b"1"})
    with pytest.warns(UserWarning, match=r"fields not used: \.cls \(2\), json: url \(1\)"):
        data = ImageTextData.from_webdataset(tmp_path / "s-{00..01}.tar")
    assert told(data) == [("x/1", None, "ein Häuschen"), ("2", "Why?", "B"), ("3", None, None)]
    a, b, c = (one for (one,) in ImageTextData.from_folder(tmp_path / "in").image_digests)
    assert data.image_digests == [(a,), (b,), (a, c)]
    assert reopened(data)
    with pytest.warns(UserWarning):
        assert told(open_data(str(tmp_path / "s-*.tar"))) == told(data)


def test_files_of_one_key_come_together_wherever_the_tar_has_them(tmp_path: Path) -> None:
    png = pictures(tmp_path / "in", "a.png")["a.png"]
    shard(tmp_path / "s.tar", {"1.png": png, "2.png": png, "2.txt": b"B", "1.txt": b"A"})  # as a folder lists them
    data = ImageTextData.from_webdataset(tmp_path / "s.tar")
    assert [(one.name, len(one.images), one.response) for one in data] == [("1", 1, "A"), ("2", 1, "B")]


def torn(path: Path) -> Path:
    shard(path, {"1.png": bytes(seeds.rng().integers(0, 256, 9000, dtype=np.uint8)), "1.txt": b"a"})
    path.write_bytes(path.read_bytes()[:5000])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torn, "ends within 1.png"),
        (lambda p: write(p, "no tar"), "cannot be read as a plain tar"),
        (lambda p: shard(p, {"1.cls": b"a"}), "no samples"),
        (lambda p: shard(p, {"1.txt": b"\xff"}), "not UTF-8"),
        (lambda p: shard(p, {"1.txt": b"a", "1.caption": b"b"}), "two texts"),
        (lambda p: shard(p, {"1.png": b"a", "1.json": b"{"}), "not read as JSON"),
        (lambda p: shard(p, {"1.png": b"a", "1.json": b"[]"}), "is no object"),
        (lambda p: shard(p, {"1.png": b"a", "1.json": b'{"caption": "x"}'}), "no \"response\", but 'caption'"),
        (lambda p: p, "no such file"),
        (lambda p: "https://example.org/s.tar", "download them first"),
    ],
)
def test_bad_shards_are_refused_by_name(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ImageTextData.from_webdataset(make(tmp_path / "s.tar"))


# -------------------------------------------------------------------------------- the kind, from the file


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.json", {"a": 1}, "JSON of no kind that is read"),
        ("d.json", [{"image": "a.png", "response": "A"}], "one object a line"),
        ("d.csv", "image,response\n", "from_frame"),
        ("d.parquet", "PAR1", "from_frame"),
        ("d.jsonl.gz", "x", "unpack it first"),
        ("d.jsonl", '[{"image": "a.png"}]', "list, not an object"),
    ],
)
def test_a_file_of_no_kind_that_is_read_says_what_to_do(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(write(tmp_path / name, content))


def test_a_folder_of_pictures_for_data_that_knows_its_own_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    with pytest.raises(ValueError, match="leave it out"):
        open_data(tmp_path, images=tmp_path)


def test_reading_says_nothing_where_all_is_used(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    lines(tmp_path / "captions.jsonl", {"image": "a.png", "response": "A", "prompt": None, "name": "a.png"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "not used: none" in ImageTextData.from_folder(tmp_path).summary()


@pytest.mark.parametrize("given", [None, 3, b"a.jsonl", {"a": 1}])
@pytest.mark.parametrize(
    ("reader", "argument"),
    [("from_jsonl", "path"), ("from_folder", "path"), ("from_llava", "path"), ("from_coco", "path"),
     ("from_webdataset", "shards"), ("from_samples", "samples")],
)  # fmt: skip
def test_what_is_no_path_and_no_list_is_named_by_argument(reader: str, argument: str, given: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{argument}=(None|3|a bytes|a dict): (give|pass)"):
        getattr(ImageTextData, reader)(given)


@pytest.mark.parametrize("reader", ["from_jsonl", "from_llava", "from_coco", "from_webdataset"])
def test_a_directory_where_a_file_is_needed_is_called_one(reader: str, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a directory, not a file"):
        getattr(ImageTextData, reader)(tmp_path)


def test_a_list_of_captions_says_how_several_texts_are_given() -> None:
    with pytest.raises(ValueError, match="several texts of a picture are several samples"):
        ImageTextData.from_samples([{"image": None, "response": ["a dog", "a pet"]}])

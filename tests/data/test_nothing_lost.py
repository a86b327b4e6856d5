"""What a user supplied is used, or named: each case was lost in silence once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from files import shard, write

from vlm_neurons.data import ImageTextData
from vlm_neurons.synthetic import open_data

TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dog."}]


def png() -> bytes:
    buffer = io.BytesIO()
    tiny.image().save(buffer, "PNG")
    return buffer.getvalue()


def test_pictures_of_a_conversation_under_another_name_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [{"messages": TURNS, "images": ["a.png"]}])
    with pytest.raises(ValueError, match='record 0: no "image", but "images", which is not read: call it "image"'):
        ImageTextData.from_llava(file)


def test_turns_beside_those_that_are_read_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [{"conversations": TURNS, "messages": TURNS, "image": "a.png"}])
    with pytest.warns(UserWarning, match=r"fields not used: messages \(1"):
        data = ImageTextData.from_llava(file)
    assert [sample.response for sample in data] == ["A dog."]


def test_conversations_in_lines_are_found_by_either_name_and_behind_a_mark_of_windows(tmp_path: Path) -> None:
    line = json.dumps({"messages": TURNS, "image": "a.png"}) + "\n"
    for name, text in (
        ("a.jsonl", line),
        ("b.jsonl", "\ufeff" + line),
        ("c.json", "\ufeff" + json.dumps([json.loads(line)])),
    ):
        assert [sample.response for sample in open_data(write(tmp_path / name, text))] == ["A dog."], name


def test_a_missing_picture_among_several_is_an_error_not_one_picture_fewer(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({"image": ["a.png", None], "response": "x"}))
    with pytest.raises(ValueError, match='line 1: "image" holds None'):
        ImageTextData.from_jsonl(file)
    with pytest.raises(ValueError, match='sample 0: "image" holds None'):
        ImageTextData.from_samples([{"image": ["a.png", None]}])
    assert ImageTextData.from_samples([{"image": None, "response": "x"}])[0].images == ()


def test_fields_of_dicts_in_memory_are_read_refused_or_named() -> None:
    with pytest.raises(ValueError, match=r'sample 0: no "response", but \'caption\''):
        ImageTextData.from_samples([{"image": "a.png", "caption": "x"}])
    with pytest.raises(ValueError, match="sample 1 is 3; give a Sample, or a dict"):
        ImageTextData.from_samples([{"image": "a.png"}, 3])  # type: ignore[list-item]
    with pytest.warns(UserWarning, match=r"fields not used: licence \(2\), 7 \(1\)"):
        data = ImageTextData.from_samples(
            [{"image": "a.png", "licence": "x"}, {"image": "b.png", "licence": "y", 7: 0}]
        )
    assert len(data) == 2


@pytest.mark.parametrize("source", ["scenes:n=2,seed=0", "jsonl:{path}"])
def test_a_folder_of_pictures_for_a_source_that_knows_its_own_is_refused(tmp_path: Path, source: str) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({"image": None, "response": "x"}))
    spec = source.format(path=file)
    assert len(open_data(spec)) >= 1
    with pytest.raises(ValueError, match="says itself where its pictures are"):
        open_data(spec, images="/nowhere")


@pytest.mark.parametrize("order", [("1.json", "1.txt"), ("1.txt", "1.json")])
def test_two_texts_of_one_key_are_refused_in_any_order_and_null_is_none(tmp_path: Path, order: tuple[str, str]) -> None:
    def members(response: Any) -> dict[str, bytes]:
        own = {"1.json": json.dumps({"response": response, "prompt": "What?"}).encode(), "1.txt": b"a dog"}
        return {"1.png": png(), **{name: own[name] for name in order}}

    with pytest.raises(ValueError, match="two texts"):
        ImageTextData.from_webdataset(shard(tmp_path / "a.tar", members("a cat")))
    (sample,) = ImageTextData.from_webdataset(shard(tmp_path / "b.tar", members(None)))
    assert (sample.response, sample.prompt) == ("a dog", "What?")


def test_fields_of_json_in_a_shard_that_are_not_read_are_named(tmp_path: Path) -> None:
    members = {"1.png": png(), "1.json": json.dumps({"response": "x", "image": "other.png", "name": "n"}).encode()}
    with pytest.warns(UserWarning, match=r"json: image \(1.*json: name \(1"):
        ImageTextData.from_webdataset(shard(tmp_path / "a.tar", members))


def test_shards_are_all_there_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no shards"):
        ImageTextData.from_webdataset([])
    with pytest.raises(ValueError, match=r"\{0\.\.100000\} are more than 100,000 names"):
        ImageTextData.from_webdataset("s-{0..100000}.tar")
    shard(tmp_path / "a.tar", {"1.png": png(), "1.txt": b"a dog"})
    monkeypatch.chdir(tmp_path)
    data = ImageTextData.from_webdataset("*.tar")
    monkeypatch.chdir(tmp_path.parent)
    assert data[0].load_images()[0].size == tiny.image().size


def test_a_column_that_is_not_used_may_hold_a_broken_picture(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    rows = {"image": [{"bytes": png(), "path": None}], "thumb": [{"bytes": b"broken", "path": None}], "response": ["x"]}
    features = Features({"image": Image(), "thumb": Image(), "response": Value("string")})
    dataset = Dataset.from_dict(rows, features=features)
    with pytest.warns(UserWarning, match="columns not used: thumb"):
        data = ImageTextData.from_dataset(dataset)
    assert data[0].load_images()[0].size == tiny.image().size
    assert "thumb (1" in data.summary()


def test_the_name_of_a_caption_is_the_name_of_its_sample(tmp_path: Path) -> None:
    tiny.image().save(tmp_path / "a.png")
    write(tmp_path / "captions.jsonl", json.dumps({"image": "a.png", "response": "x", "name": "the dog"}))
    assert [sample.name for sample in ImageTextData.from_folder(tmp_path)] == ["the dog"]

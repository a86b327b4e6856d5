"""What cannot be scanned is recorded with its reason, and counts for nothing."""

from __future__ import annotations

import json
import os

import pytest
import seeds
import tiny
import torch

from vlm_neurons.classification import classify
from vlm_neurons.data import ImageTextData, describe
from vlm_neurons.models import HookedVLM, SettingsError
from vlm_neurons.scanning import scan


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    return HookedVLM(tiny.llava(processor.tokenizer), processor)


def write(folder, lines):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def mixed(tmp_path):
    """Good samples with every kind of bad one between them."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(6):
        tiny.image().save(folder / f"{i}.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image at all")
    (folder / "twin.png").write_bytes(whole)
    lines = [
        {"image": "0.png", "response": "a dog"},
        {"image": "torn.png", "response": "a torn one"},
        {"image": "1.png", "response": ""},
        {"image": "1.png", "response": "two cats"},
        {"image": "text.png", "response": "text"},
        {"image": "missing.png", "response": "nobody"},
        {"image": "twin.png", "response": "a dog"},
        {"image": "twin.png", "response": "a dog", "prompt": "Another question"},
        {"image": "2.png", "response": "word " * 600},
        {"image": "2.png", "response": " \n"},
        {"image": "3.png", "response": "the end </s>"},
        {"image": ["0.png", "3.png"], "response": "a dog"},
        {"image": None, "response": "only words"},
    ]
    return write(folder, lines)


REASONS = {
    1: ("broken image", "torn.png"),
    2: ("empty response", "''"),
    4: ("broken image", "text.png"),
    5: ("broken image", "missing.png"),
    6: ("duplicate", "sample 0 (0.png)"),
    8: ("too long", "the model takes 512"),
    9: ("empty response", "\\n"),
    10: ("unusable", "</s>"),
}


@pytest.mark.parametrize("batch_size", [1, 4, 13])
def test_every_bad_sample_is_recorded_and_the_others_are_scanned(tmp_path, model, mixed, batch_size, capsys):
    data = ImageTextData.from_jsonl(mixed)
    run = scan(model, data, top_n=20, batch_size=batch_size, block_size=5, out=tmp_path / "run")
    assert {r["id"]: r["reason"] for r in run.skipped} == {i: reason for i, (reason, _) in REASONS.items()}
    for record in run.skipped:
        assert REASONS[record["id"]][1] in record["detail"]
        assert record["name"] == data[record["id"]].name
    good = sorted(set(range(13)) - set(REASONS))
    assert run.samples["id"].tolist() == good
    top = run.top("blocks.0.mlp.hook_act")
    assert all(sorted(row[:5]) == good and set(row[5:]) == {-1} for row in top.sample_ids.tolist())
    assert (classify(run)["n_samples"] == len(good)).all(), "a skipped sample was counted"
    said = capsys.readouterr().err
    assert "5 samples scanned, 8 skipped" in said and "3 broken image" in said and "1 too long" in said


def test_a_skipped_sample_changes_nothing_for_the_others(tmp_path, model, mixed):
    data = ImageTextData.from_jsonl(mixed)
    run = scan(model, data, top_n=20, batch_size=1, out=tmp_path / "a", progress=False)
    good = run.samples["id"].tolist()
    alone = ImageTextData.from_samples([data[i] for i in good])
    other = scan(model, alone, top_n=20, batch_size=1, out=tmp_path / "b", progress=False)
    for column in run.columns:
        mine, theirs = run.top(*column), other.top(*column)
        ids = torch.tensor([*good, -1], dtype=torch.int32)[theirs.sample_ids]
        n = len(good)  # places beyond it hold nothing: there are as many as samples, skipped ones counted
        assert torch.equal(mine.sample_ids[:, :n], ids) and (mine.sample_ids[:, n:] == -1).all()
        assert torch.equal(mine.visual[:, :n], theirs.visual)


def test_data_without_one_good_sample_is_an_error_that_says_why(tmp_path, model):
    path = write(tmp_path, [{"image": "missing.png", "response": "a"}, {"image": None, "response": ""}])
    with pytest.raises(ValueError, match=r"none of the 2 samples.*missing\.png.*empty response"):
        scan(model, path, out=tmp_path / "run", progress=False)


def test_missing_responses_are_generated_stored_and_scanned(tmp_path):
    processor = tiny.processor()
    # A random model's 256 tokens can be broken UTF-8, which is three times as long when it is read again.
    model = HookedVLM(tiny.llava(processor.tokenizer, context=2048), processor)
    rng = seeds.rng()
    for i in range(5):
        tiny.image(rng=rng).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("broken")
    run = scan(model, tmp_path, batch_size=2, out=tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "captions.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"{i}.png" for i in range(5)]
    assert lines[3]["response"] is None and "3.png" in lines[3]["error"]
    written = {i: line["response"] for i, line in enumerate(lines) if i != 3 and line["response"].strip()}
    by_id = {r["id"]: r["reason"] for r in run.skipped}
    assert by_id[3] == "broken image"
    assert dict(zip(run.samples["id"], run.samples["response"], strict=True)).items() <= written.items()
    assert set(run.samples["id"]) | set(by_id) == set(range(5))
    again = scan(model, tmp_path, batch_size=2, out=tmp_path / "run", progress=False)
    assert again.samples.equals(run.samples)
    responses = dict(zip(run.samples["id"], run.samples["response"], strict=True))
    assert all(run.open_data()[i].response == text for i, text in responses.items())


def test_several_processes_do_not_write_responses(tmp_path, model, monkeypatch):
    tiny.image().save(tmp_path / "a.png")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="vlm-neurons describe"):
        scan(model, tmp_path, out=tmp_path / "run", progress=False)


def test_data_from_memory_cannot_be_opened_again(tmp_path, model):
    data = ImageTextData.from_samples([{"image": tiny.image(), "response": "a cat"}])
    with pytest.raises(ValueError, match="pass that data"):
        scan(model, data, out=tmp_path, progress=False).open_data()


def test_text_and_file_names_that_are_no_utf8_are_recorded_and_the_others_are_scanned(tmp_path, model):
    for name in ("a\udcff.png", "b.png", "c.png"):
        tiny.image().save(os.fsencode(tmp_path / name))
    entries = [
        {"image": tmp_path / "a\udcff.png", "response": "a dog"},
        {"image": tmp_path / "b.png", "response": "half an emoji \ud83d"},
        {"image": tmp_path / "c.png", "response": "a cat", "prompt": "\udc00 Why?"},
        {"image": tmp_path / "c.png", "response": "two cats"},
    ]
    data = ImageTextData.from_samples(entries)
    assert (
        data.fingerprint() != data.with_responses(["a dog", "half an emoji \ud83e", "a cat", "two cats"]).fingerprint()
    )
    run = scan(model, data, top_n=4, batch_size=4, out=tmp_path / "run", progress=False)
    assert run.samples["id"].tolist() == [3]
    found = {r["id"]: (r["reason"], r["detail"]) for r in run.skipped}
    assert {reason for reason, _ in found.values()} == {"unusable"} and len(found) == 3
    assert "rename" in found[0][1] and r"\ud83d" in found[1][1] and "prompt" in found[2][1]
    assert run.skipped[0]["name"] == r"a\udcff.png"  # can be shown anywhere


def test_the_model_is_asked_about_files_whose_names_are_no_utf8(tmp_path, model):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a\udcff.png", "b.png"):
        tiny.image().save(os.fsencode(photos / name))
    said = [describe(model, ImageTextData.from_folder(photos), tmp_path / "c.jsonl", max_new_tokens=2, progress=False)]
    said += [describe(model, ImageTextData.from_folder(photos), tmp_path / "c.jsonl", max_new_tokens=2, progress=False)]
    (tmp_path / "c.jsonl").read_text(encoding="utf-8")
    assert [s.response for s in said[0]] == [s.response for s in said[1]] and said[0][0].response is not None


@pytest.mark.parametrize("mark", ["\u2028", "\u0085"])
def test_a_file_name_with_a_strange_line_break_is_one_record(tmp_path, model, mark):
    (tmp_path / f"a{mark}b.png").write_text("no image")
    tiny.image().save(tmp_path / "c.png")
    said = ImageTextData.from_folder(tmp_path).with_responses([f"one{mark}two", f"three{mark}four"])
    run = scan(model, said, out=tmp_path / "run", progress=False)
    assert [(r["name"], r["reason"]) for r in run.skipped] == [(f"a{mark}b.png", "broken image")]
    assert run.open_data()[1].response == f"three{mark}four"


def test_wrong_settings_of_the_processor_stop_a_scan(tmp_path, mixed):
    tok = tiny.tokenizer()
    model = HookedVLM(tiny.llava(tok, n_layers=1), tiny.processor(tok))
    model.bridge.processor.patch_size = 14
    with pytest.raises(SettingsError, match=r"settings are not the model's: .* expands image 0 to 4 tokens"):
        scan(model, ImageTextData.from_jsonl(mixed), out=tmp_path / "run", progress=False)

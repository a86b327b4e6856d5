"""The command line finds the kind of data from the file, and says what it found before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import tiny

from vlm_neurons.cli.main import main

TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "a red circle"}]


def scan(tmp_path: Path, data: str, *more: str) -> int:
    model = ["--model", "tiny-llava-scenes", "--device", "cpu"]
    return main(["scan", *model, "--data", data, *more, "--top-n", "2", "--out", str(tmp_path / "run")])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        tiny.image().save(folder / name)
    return folder


def test_conversations_are_scanned_as_they_are(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"id": n, "image": f"{n}.png", "conversations": TURNS, "source": "mine"} for n in "12"]
    (tmp_path / "d.json").write_text(json.dumps(records))
    assert scan(tmp_path, str(tmp_path / "d.json"), "--images", str(photos)) == 0
    said = capsys.readouterr().err
    assert (
        f"data: LLaVA conversations, llava:{tmp_path}/d.json,images={photos}: 2 samples, 2 with text, 0 without" in said
    )
    assert "fields used: image, conversations; not used: source (2)" in said and "UserWarning" not in said
    table = pd.read_parquet(tmp_path / "run" / "samples.parquet")
    assert table["prompt"].tolist() == ["What is it?"] * 2 and table["response"].tolist() == ["a red circle"] * 2


def test_text_under_another_name_stops_the_scan_before_the_model_describes_anything(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "captions.jsonl").write_text(json.dumps({"image": "1.png", "caption": "a red circle"}))
    assert scan(tmp_path, str(photos)) == 1
    assert "line 1: no \"response\", but 'caption', which is not read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_says_what_was_left_out_and_what_has_no_text(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "3.heic").write_bytes(b"x")
    (photos / "captions.jsonl").write_text(json.dumps({"image": "1.png", "response": "a red circle"}))
    assert scan(tmp_path, str(photos)) == 0
    said = capsys.readouterr().err
    assert "folder of 2 pictures with captions.jsonl" in said and "2 samples, 1 with text, 1 without" in said
    assert "left out: 1 .heic" in said

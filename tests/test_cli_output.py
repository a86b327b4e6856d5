"""What the command line prints is text: nothing in it drives the terminal, and paths are shown as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import loopback
import pytest
import runs

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.cli.main import main
from vlm_neurons.cli.output import safe

EVIL = "red\x1b]0;PWNED\x07\x1b[2J things [/b]\x9b31m"
SCAN = ["scan", "--model", "tiny-llava-scenes", "--batch-size", "4"]


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("output") / "run"
    run = runs.small(where)
    run.save(vn.classify(run))
    assert main(["explain", str(where), "--neurons", "L0N3,L1N4"]) == 0
    return where


@pytest.fixture
def where(explained: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(explained, tmp_path / "run"))


def controls(text: str) -> set[str]:
    """Those that a terminal obeys; bars of progress begin with a carriage return."""
    return {c for c in text if c not in "\r\n" and (c < " " or "\x7f" <= c < "\xa0")}


def test_control_characters_become_marks_and_lines_stay_lines() -> None:
    assert safe("a\r\x1b\x07\x85\x9b\udce9\nü✓") == "a‹U+000D›‹U+001B›‹U+0007›‹U+0085›‹U+009B›‹U+DCE9›\nü✓"


def test_what_a_model_says_cannot_drive_the_terminal(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    with loopback.running() as server:
        server.answer = {**server.answer, "phrase": EVIL}  # type: ignore[dict-item]
        assert main(runs.explain_by(server.url, where)) == 0
        said = capsys.readouterr()
        assert not controls(said.out) and "‹U+001B›[2J" in said.out and "[/b]" in said.out
        assert main(["score", where, "--simulator", "position-prior"]) == 0
        said = capsys.readouterr()
        assert not controls(said.out) and "red‹U+001B›" in said.out


def test_the_name_of_a_broken_file_cannot_drive_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "a\x1b[2J\x9b31m.jsonl"
    broken.write_text("no JSON")
    assert main([*SCAN, "--data", str(broken), "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert not controls(said) and "a‹U+001B›[2J‹U+009B›31m.jsonl, line 1" in said


def test_a_directory_whose_name_looks_like_markup_is_named_as_it_is(
    explained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = shutil.copytree(explained, tmp_path / "a[bold]b")
    assert main(["classify", str(where)]) == 0
    said = capsys.readouterr()
    assert f"figure: {where / 'classes_by_layer.svg'}\n" in said.out
    assert f"table: {where / 'neurons.parquet'} " in said.err


def test_score_counts_as_explained_what_explain_does(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    with loopback.running(fault=lambda number, body: "" if number else "refusal") as server:
        assert main([*runs.explain_by(server.url, where, "L2N1,L2N2"), "--concurrency", "1"]) == 0
        server.answer = {**server.answer, "clear_pattern": False}  # type: ignore[dict-item]
        assert main(runs.explain_by(server.url, where, "L0N3,L1N4")) == 0
    capsys.readouterr()
    assert main(["score", where, "--simulator", "position-prior"]) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["all"])
    table = vn.Run.load(where).scores()
    explained = table[[not says_nothing(text) for text in table["explanation"]]]
    assert row[:3] == ["all", str(len(table)), str(len(explained))]
    assert table["neuron"].nunique() == 4 and explained["neuron"].nunique() == 1


def test_scores_show_explanations_whole_and_wider_where_nobody_looks_at_a_terminal(
    where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    words = [f"word{i}" for i in range(40)]
    with loopback.running() as server:
        server.answer = {**server.answer, "phrase": " ".join(words)}  # type: ignore[dict-item]
        assert main(runs.explain_by(server.url, where)) == 0
    capsys.readouterr()
    assert main(["score", where, "--simulator", "position-prior"]) == 0
    said = capsys.readouterr().out
    scores = vn.Run.load(where).scores()  # a row a neuron and side
    assert [said.split().count(word) for word in words] == [len(scores)] * len(words)
    assert scores["neuron"].nunique() == 2
    assert 100 < max(map(len, said.splitlines())) <= 120

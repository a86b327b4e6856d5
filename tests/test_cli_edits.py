"""Edits on the command line, and what the report makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs

import vlm_neurons as vn
from vlm_neurons.autointerp import Explanation
from vlm_neurons.autointerp.store import append_explanations
from vlm_neurons.cli.main import main


def test_edits_of_a_run_are_kept_printed_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run = runs.small(tmp_path / "run")
    assert main(["edits", str(run.path)]) == 1 and "vlm-neurons explain" in capsys.readouterr().err
    told = {"L2N304": "pink regions", "L3N3": "the word 'cyan'", "L0N1": "dogs"}
    append_explanations(run.path, [Explanation(neuron, text, explainer="mine") for neuron, text in told.items()])
    given = ["edits", str(run.path), "--data", "scenes:n=20,seed=9", "--n", "12", "--edits", "repaint,replace"]
    given += ["--save-images", str(tmp_path / "pictures")]
    assert main(given) == 0
    said = capsys.readouterr()
    assert "2 edits, the most specific first" in said.out and "color:pink" in said.out and "1 rows have no" in said.out
    assert "inputs, each once, about" in said.err and "effects.parquet" in said.err
    lines = [json.loads(line) for line in (tmp_path / "pictures" / "edits.jsonl").read_text().splitlines()]
    files = {line[end] for line in lines for end in ("with", "without")}
    assert lines and files <= {file.name for file in (tmp_path / "pictures").iterdir()}
    assert main([*given, "--neurons", "L9N9"]) == 1 and "no explanation of L9N9" in capsys.readouterr().err
    page = vn.report(run, out=run, data=vn.scenes(60, seed=4), n_neurons=0)
    html, numbers = page.read_text(encoding="utf-8"), json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert "Does the model say" not in html and numbers["faithfulness"] == []  # nobody measured that
    assert "Does the neuron follow?" in html and "of 2 edits change their neuron more" in html
    assert [row["neuron"] for row in numbers["edits"]] == ["L2N304", "L3N3", "L0N1"]
    assert html.count("What <bdi>“") == 3 and "an object in another colour" in html and "followed most: what" in html
    (run.path / "edits" / "effects.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"effects\.parquet cannot be read"):
        vn.report(run, out=run, n_neurons=0)

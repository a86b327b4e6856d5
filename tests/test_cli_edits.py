"""Edits and faithfulness on the command line, and what the report makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import runs

import vlm_neurons as vn
from vlm_neurons.autointerp import Explanation
from vlm_neurons.autointerp.store import append_explanations
from vlm_neurons.cli.main import main
from vlm_neurons.interventions.faithful import FOLDER, TABLE
from vlm_neurons.reporting.faithful_in_words import faithfulness_of


def test_edits_and_faithfulness_of_a_run_are_kept_printed_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    run, data = runs.small(tmp_path / "run"), vn.scenes(60, seed=4)
    asked = ["faithfulness", str(run.path), "--n", "4", "--max-new-tokens", "6"]
    assert main(asked) == 1 and "no explanations with evidence; run vlm-neurons explain" in capsys.readouterr().err
    assert main(["edits", str(run.path)]) == 1 and "vlm-neurons explain" in capsys.readouterr().err
    told = {"L2N304": "pink regions", "L3N3": "the word 'cyan'", "L0N1": "no clear pattern"}
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
    faithful(run, data, asked, capsys)
    page = vn.report(run, out=run, data=data, n_neurons=0)
    html, numbers = page.read_text(encoding="utf-8"), json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    kept = pd.read_parquet(run.path / FOLDER / TABLE).set_index("neuron")
    row = numbers["faithfulness"][0]
    assert row["neuron"] == "L2N304" and row["faithfulness"] == kept["faithfulness"]["L2N304"]
    assert "Does the model say what the neuron is for?" in html and "of 1 explanations are more faithful than" in html
    assert (
        "Of 1 there is no number (1: the explanation names nothing)." in html
        and kept["note"]["L0N1"] == "the explanation names nothing"
    )
    assert "Does the neuron follow?" in html and "of 2 edits change their neuron more" in html
    assert [row["neuron"] for row in numbers["edits"]] == ["L2N304", "L3N3", "L0N1"]
    assert html.count("What <bdi>“") == 3 and "an object in another colour" in html and "followed most: what" in html
    for file, numbers_of in (("edits/effects.parquet", "change"), (f"{FOLDER}/{TABLE}", "faithfulness")):
        table = pd.read_parquet(run.path / file)
        table[table[numbers_of].isna()].to_parquet(run.path / file)
    html = vn.report(run, out=tmp_path / "none", n_neurons=0).read_text(encoding="utf-8")
    assert html.count("(1: the explanation names nothing).") == 2 and "Edits, the most specific first" not in html
    (run.path / "edits" / "effects.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"effects\.parquet cannot be read"):
        vn.report(run, out=run, n_neurons=0)
    (run.path / FOLDER / TABLE).write_bytes(b"no table")
    with pytest.raises(ValueError, match=r"table\.parquet cannot be read.*vlm-neurons faithfulness RUN"):
        faithfulness_of(run)


def faithful(run: vn.Run, data: vn.ImageTextData, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Ask of those that have evidence."""
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    vn.gather_evidence(model, data, run, ["L2N304", "L0N1", "L1N4"], n_top=8, n_spare=0, n_pool=0, out=run,
                       progress=False)  # fmt: skip
    assert main([*asked, "--neurons", "L3N3,L2N304"]) == 1
    assert "no explanation with evidence of L3N3;" in capsys.readouterr().err
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "1 of 1 explanations, the most faithful first" in said.out and "pink regions" in said.out
    assert "1 rows have no number" in said.out and TABLE in said.err and "3 units, 4 answers at each" in said.err

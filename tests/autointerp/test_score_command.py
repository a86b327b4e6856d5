"""`vlm-neurons score` works on the run directory of `explain`, says what it will cost, and where to begin."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import loopback
import pandas as pd
import pytest

import vlm_neurons as vn
import vlm_neurons.cli.score_command as cli_score
from vlm_neurons.autointerp.registry import SIMULATORS
from vlm_neurons.cli.main import main
from vlm_neurons.scanning.results import load_scores


def test_from_a_run_directory_to_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    run = vn.scan(model, vn.scenes(80, seed=4), top_n=12, batch_size=16, out=tmp_path / "run", progress=False)
    where = str(run.path)
    run.save(vn.classify(run))
    assert main(["score", where]) == 1 and "vlm-neurons explain" in capsys.readouterr().err
    assert main(["explain", where, "--top", "3"]) == 0
    capsys.readouterr()
    assert main(["score", where, "--dry-run"]) == 0
    assert "no cost" in capsys.readouterr().err
    made = (run.path / "explanations.jsonl").read_text()
    (run.path / "explanations.jsonl").write_text(made.replace('"explainer": "dissection"', '"explainer": "me"'))
    assert (
        main(["score", where, "--stability", "2"]) == 1 and "--stability explains again by" in capsys.readouterr().err
    )
    (run.path / "explanations.jsonl").write_text(made)
    assert main(["score", where, "--dry-run", "--stability", "2"]) == 0
    assert "no cost" in capsys.readouterr().err and not (run.path / "scores").exists()
    assert main(["score", where]) == 0
    out = capsys.readouterr().out
    scores = load_scores(run.path)
    said = {e["neuron"]: e["text"] for e in map(json.loads, (run.path / "explanations.jsonl").read_text().splitlines())}
    assert dict(zip(scores["neuron"], scores["explanation"], strict=True)) == said
    assert set(scores["label"]) == {"visual", "text", "multimodal"} and scores["approximate"].all()
    best = scores.sort_values("r", ascending=False).iloc[0]
    assert best["neuron"] in out and "few images" in out and "q < 0.05" in out
    assert "over all of the data" in " ".join(out.split())
    assert len(list(run.path.glob("simulations/concepts-*.parquet"))) == 1
    assert main(["score", where, "--neurons", best["neuron"]]) == 0  # the others stay
    row = ["neuron", "side"]
    after = load_scores(run.path).set_index(row)["n_null"].sort_index()
    pd.testing.assert_series_equal(
        after, scores.set_index(row)["n_null"].sort_index()
    )  # the neuron too has the others' explanations
    assert main(["score", where, "--neurons", best["neuron"], "--simulator", "position-prior"]) == 0
    assert set(load_scores(run.path)["simulator"]) == {"position-prior"}
    assert set(load_scores(run.path)["neuron"]) == {best["neuron"]}
    assert len(load_scores(run.path, "concepts")) == len(scores)
    assert main(["score", where]) == 0
    again = load_scores(run.path).set_index(row)["r"]
    pd.testing.assert_series_equal(again.sort_index(), scores.set_index(row)["r"].sort_index())
    assert len(list(run.path.glob("s*/*.parquet"))) == 4
    assert main(["score", where, "--simulator", "api"]) == 1 and "--simulator-model" in capsys.readouterr().err
    assert (
        main(["score", where, "--prompt-logprobs", "20"]) == 1
        and "concepts does not take --prompt-logprobs" in capsys.readouterr().err
    )
    for options in (["--simulator-model", "gpt-4o"], ["--max-cost", "0"], ["--simulator", "clip", "--price", "1,2"]):
        assert main(["score", where, *options]) == 1
        assert f"does not take {options[-2]}" in capsys.readouterr().err
    assert main(["score", where, "--neurons", ","]) == 1 and "names none" in capsys.readouterr().err
    with loopback.running(fault=lambda number, body: "refusal") as server:
        refused = ["--simulator", "api", "--simulator-model", "m", "--base-url", server.url, "--n-null", "0"]
        files = {p: p.read_bytes() for p in run.path.rglob("*.parquet")}
        assert main(["score", where, *refused]) == 1
        assert "every simulation failed: refusal" in capsys.readouterr().err and server.requests
        assert {p: p.read_bytes() for p in run.path.rglob("*.parquet")} == files
    classes = pd.read_parquet(run.path / "neurons.parquet")
    classes.loc[classes["neuron"] == best["neuron"], "label"] = other = "text" if best["label"] != "text" else "visual"
    classes.to_parquet(run.path / "neurons.parquet")  # classified anew, with other thresholds
    assert main(["score", where, "--n-null", "0"]) == 0
    now = load_scores(run.path).set_index("neuron").loc[[best["neuron"]]]
    assert now["label"].tolist() == [other] and now["side"].tolist() == ["picture" if other == "visual" else "text"]
    assert main(["score", where, "--device", "cpu"]) == 1 and "does not take --device" in capsys.readouterr().err


@pytest.mark.parametrize("simulator", ["grounded", "clip", "local"])
def test_models_of_transformers_compute_where_they_are_told_to(simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    kind = SIMULATORS[simulator].load()
    monkeypatch.setattr(kind, "from_pretrained", lambda *names, **options: told.update(options))
    parser = argparse.ArgumentParser()
    cli_score.add_options(parser)
    args = parser.parse_args(["run", "--simulator", simulator, "--simulator-model", "m", "--device", "cuda"])
    cli_score._simulator(args, Any)
    assert told["device"] == "cuda"

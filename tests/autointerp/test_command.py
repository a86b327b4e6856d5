"""`vlm-neurons explain` works on a classified run, and a dry run sends nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import loopback
import pandas as pd
import pytest
import runs
import torch

import vlm_neurons as vn
from vlm_neurons.autointerp.store import read_explanations
from vlm_neurons.cli.main import main


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = runs.small(tmp_path_factory.mktemp("run") / "run")
    run.save(vn.classify(run))
    return run.path


@pytest.fixture
def where(scanned: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(scanned, tmp_path / "run"))


def test_from_a_run_directory_to_explanations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs.small(tmp_path / "run")
    where = str(run.path)
    assert main(["explain", where, "--top", "2"]) == 1 and "classify" in capsys.readouterr().err
    run.save(vn.classify(run))
    assert main(["explain", where, "--neurons", "L0N3,L1N4"]) == 0
    lines = [json.loads(line) for line in (run.path / "explanations.jsonl").read_text().splitlines()]
    assert [one["neuron"] for one in lines] == ["L0N3", "L1N4"] and all(one["text"] for one in lines)
    assert "L1N4" in capsys.readouterr().out
    with loopback.running() as server:
        asked = ["explain", where, "--neurons", "L0N3,L1N4", "--explainer", "openai", "--explainer-model", "m",
                 "--base-url", server.url, "--price", "1,2"]  # fmt: skip
        assert main([*asked, "--dry-run"]) == 0 and not server.requests
        assert "2 calls" in capsys.readouterr().err
        assert main(asked) == 0 and len(server.requests) == 2
        assert main([*asked, "--dry-run"]) == 0
        assert "0 calls (2 more are in the cache)" in capsys.readouterr().err
        known = [*asked[:7], "gpt-4o", "--base-url", server.url, "--dry-run"]
        assert main(known) == 0 and re.search(r"\$.*\(table as of \d{4}-\d\d\)", capsys.readouterr().err)
    assert main(["explain", where, "--neurons", "L0N3", "--explainer", "openai"]) == 1
    assert "--explainer-model" in capsys.readouterr().err
    assert main(["explain", where, "--neurons", "L9N3"]) == 1


def test_a_model_explains_its_own_neurons_by_what_they_write(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["explain", where, "--neurons", "L3N3,L3N33", "--explainer", "vocabulary"]
    assert main([*asked, "--dry-run"]) == 0 and "no calls, no cost; vocabulary: 2 neurons" in capsys.readouterr().err
    assert main(asked) == 0
    found = read_explanations(where)
    assert {e.explainer for e in found.values()} == {"vocabulary"}
    assert any("the word '" in e.text for e in found.values())
    assert (
        main([*asked, "--explainer-model", "m"]) == 1 and "does not take --explainer-model" in capsys.readouterr().err
    )


@pytest.mark.parametrize("explainer", ["dissection", "local"])
@pytest.mark.parametrize(
    "option", [["--base-url", "http://x"], ["--max-cost", "0"], ["--price", "1,2"], ["--attempt", "1"],
               ["--concurrency", "2"], ["--explainer-model", "gpt-4o"]], ids=str,
)  # fmt: skip
def test_options_that_an_explainer_does_not_take_are_refused(
    option: list[str], explainer: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if (explainer, option[0]) == ("local", "--explainer-model"):
        return
    assert main(["explain", where, "--neurons", "L0N3", "--explainer", explainer, *option]) == 1
    said = capsys.readouterr().err
    assert f"--explainer {explainer} does not take {option[0]}" in said
    assert not (Path(where) / "explanations.jsonl").exists()


@pytest.mark.parametrize("neurons", ["", ",", " , "])
def test_an_empty_list_of_neurons_is_refused(neurons: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", where, "--neurons", neurons]) == 1
    assert "--neurons" in capsys.readouterr().err and not (Path(where) / "explanations.jsonl").exists()


def test_evidence_that_is_there_has_the_classes_that_the_run_has_now(where: str) -> None:
    run = vn.Run.load(where)
    first = pd.read_parquet(run.path / "neurons.parquet").set_index("neuron")["label"]
    now = vn.classify(run, t_visual=6.0, t_text=0.5).set_index("neuron")["label"]
    other = [str(n) for n in now.index[(first == "visual") & (now != "visual")][:2]]
    assert len(other) == 2 and main(["explain", where, "--neurons", ",".join(other)]) == 0
    assert {e.label for e in vn.evidence.load(run.path).values()} == {"visual"}
    run.save(vn.classify(run, t_visual=6.0, t_text=0.5))
    assert main(["explain", where, "--neurons", other[0]]) == 0
    stored = vn.evidence.load(run.path)
    assert {n: e.label for n, e in stored.items()} == {n: now[n] for n in other}


def test_data_of_another_length_than_the_scans_is_refused_whether_evidence_is_there_or_not(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["explain", where, "--neurons", "L0N3", "--data"]
    assert main([*asked, "scenes:n=59,seed=4"]) == 1
    assert f"data= has 59 samples, {where} was made with 60" in capsys.readouterr().err
    assert main([*asked, "scenes:n=60,seed=4"]) == 0
    assert main([*asked, "scenes:n=61,seed=4"]) == 1
    assert f"data= has 61 samples, {where} was made with 60" in capsys.readouterr().err


@pytest.mark.parametrize("neuron", ["L9N1", "L0N1-", "post:L0N1", "P0N1"])
def test_a_neuron_that_was_not_scanned_is_told_what_was(
    neuron: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", where, "--neurons", neuron]) == 1
    said = f"{neuron}: not scanned; this run has layers 0-3 at site gate (pole +)\n"
    assert capsys.readouterr().err.endswith(said)


def test_a_server_without_http_is_refused_before_anything_is_done(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(runs.explain_by("localhost:8000/v1", where)) == 1
    assert "base_url='localhost:8000/v1': begin with http://" in capsys.readouterr().err
    assert not (Path(where) / "evidence").exists()


def test_failures_say_where_and_why_once_and_what_they_replaced(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", where, "--neurons", "L0N3,L1N4,L2N5"]) == 0
    assert "replaced" not in capsys.readouterr().err
    with loopback.running(fault=lambda number, body: "refusal") as server:
        secret = server.url.replace("http://", "http://me:canary@")
        assert main(runs.explain_by(secret, where)) == 1
        said = capsys.readouterr().err
        assert (
            "canary" not in said
            and said.count("I cannot help with that.") == 1
            and f"refusal at {server.url}: " in said
        )
        assert "replaced" not in said
        assert "earlier explanations that still count, since the new ones failed: 2\n" in said
        assert not any(e.failed for e in read_explanations(where).values())
        assert "vlm-neurons explain: no neuron has an answer" in said
    with loopback.running(fault=lambda number, body: "" if number else "refusal") as server:
        assert main([*runs.explain_by(server.url, where), "--concurrency", "1"]) == 0
        said = capsys.readouterr().err
        assert f"refusal at {server.url}: " in said
        assert "earlier explanations replaced: 1\n" in said and "since the new ones failed: 1\n" in said
        assert main(["explain", where, "--neurons", "L0N3,L1N4"]) == 0
        assert "earlier explanations replaced: 1\n" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), (None, torch.float32)])
def test_a_local_explainer_is_loaded_as_it_was_asked_for(
    dtype: str | None, expected: torch.dtype, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[torch.nn.Module] = []

    def spy(self: vn.explainers.LocalExplainer, evidence: object) -> Iterator[object]:
        used.append(self.model)
        yield from ()

    monkeypatch.setattr(vn.explainers.LocalExplainer, "explain", spy)
    assert main(["explain", where, "--neurons", "L0N3"]) == 0  # evidence: the scanned model is not needed any more
    asked = ["explain", where, "--neurons", "L0N3", "--explainer", "local", "--explainer-model", "tiny-llava-scenes"]
    assert main([*asked, "--device", "cpu", *(["--dtype", dtype] if dtype else [])]) == 0
    assert {p.dtype for p in used[0].parameters()} == {expected}
    with pytest.raises(SystemExit) as stopped:
        main([*asked, "--device", "moon"])
    assert stopped.value.code == 2

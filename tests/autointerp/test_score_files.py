"""What a call of score, or of the command, leaves in a run directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
from pieces import Answers
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators import Job, Prediction, Simulator
from vlm_neurons.autointerp.store import load_simulations as load
from vlm_neurons.scanning.results import load_scores

RNG = seeds.rng()
N = 40


def probe(name: str) -> vn.Evidence:
    """Pictures of one colour each with a red half, so that "red regions" is constant in no draw."""
    images = [Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in range(N)]
    for image in images:
        image.paste((230, 20, 20), (0, 0, 16, 32))
    return vn.Evidence.from_arrays(name, images=images, patch_acts=[RNG.random((4, 4)) for _ in range(N)])


def scored(explanations: dict[str, str], evidence: dict[str, vn.Evidence], *args: Any, **options: Any) -> pd.DataFrame:
    return vn.score(explanations, evidence, *args, n_null=0, n_permutations=999, progress=False, full=True, **options)


class Broken(Simulator):
    """Fails: every exemplar, or the whole call."""

    def __init__(self, name: str = "broken") -> None:
        self.name = name

    def settings(self) -> str:
        return self.name

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        if self.name == "no-key":
            raise ValueError("no API key")
        yield from ((place, Prediction(failure=Failure("network", "cut"))) for place in range(len(jobs)))


def halfway(job: Job) -> Prediction:
    """Fails for one explanation, and predicts the same everywhere for any other."""
    if job.explanation == "what fails":
        return Prediction(failure=Failure("network", "cut"))
    return Prediction(tuple(np.ones(p.shape) for p in job.exemplar.patch_acts))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["broken", "no-key"])
def test_a_simulator_that_brought_nothing_leaves_the_files_of_the_last_one(tmp_path: Path, name: str) -> None:
    evidence, words = {"a": probe("a")}, {"a": "red regions"}
    scored(words, evidence, out=tmp_path)
    before = files(tmp_path)
    if name == "no-key":
        with pytest.raises(ValueError, match="no API key"):
            scored(words, evidence, Broken(name), out=tmp_path)
    else:
        assert scored(words, evidence, Broken(name), out=tmp_path).n_failed.tolist() == [
            len(evidence["a"].split("test"))
        ]
    assert files(tmp_path) == before


def test_the_scores_and_simulations_that_are_read_are_those_written_last_or_named(tmp_path: Path) -> None:
    evidence, words = {"a": probe("a")}, {"a": "red regions"}
    for simulator in ("concepts", "image-only", "concepts", "image-only"):
        scored(words, evidence, simulator, out=tmp_path)
        assert load_scores(tmp_path).simulator.tolist() == [simulator]
        before = files(tmp_path / "simulations")
        vn.simulate(words, evidence, "concepts", out=tmp_path, progress=False)  # all there: nothing is written
        assert files(tmp_path / "simulations") == before
    for simulator in ("concepts", "image-only"):
        assert load_scores(tmp_path, simulator).simulator.tolist() == [simulator]
        assert load(tmp_path, simulator)["a", "picture"].simulator == simulator
    assert len([file for file in files(tmp_path) if not file.endswith(".lock")]) == 4
    with pytest.raises(FileNotFoundError, match=r"no scores by 'clip' .* vn\.score"):
        load_scores(tmp_path, "clip")


def test_a_simulation_that_is_constant_came_and_is_written_though_another_failed(tmp_path: Path) -> None:
    evidence = {"a": probe("a"), "b": probe("b")}
    table = scored({"a": "what fails", "b": "what is everywhere"}, evidence, Answers(halfway), out=tmp_path)
    assert table.n_failed.tolist() == [len(evidence["a"].split("test")), 0] and table.r.isna().all()
    assert load_scores(tmp_path).note.tolist() == table.note.tolist()
    assert "every simulation failed" in table.note[0] and table.note[1] == "constant simulation"


def test_half_a_character_in_one_explanation_blocks_no_other(tmp_path: Path) -> None:
    evidence = {"a": probe("a"), "b": probe("b")}
    words = {"a": "red \ud83d regions", "b": "red regions"}
    scored(words, evidence, out=tmp_path)
    assert load(tmp_path)["a", "picture"].explanation == "red \ufffd regions"
    table = load_scores(tmp_path).set_index("neuron")
    assert table.explanation["a"] == "red \ufffd regions" and np.isfinite(table.r["b"])


def test_a_simulation_that_failed_takes_the_place_of_none_that_came_unless_asked_for_again(tmp_path: Path) -> None:
    evidence = {"a": probe("a"), "b": probe("b")}
    says = Answers(halfway)
    scored({"a": "what is there", "b": "it too"}, evidence, says, out=tmp_path)
    table = scored({"a": "what fails", "b": "another thing"}, evidence, says, out=tmp_path)
    assert "every simulation failed" in table.note[0]
    kept = load(tmp_path)
    assert [kept[name, "picture"].explanation for name in "ab"] == ["what is there", "another thing"]
    again = {"a": "what fails", "b": "a third"}
    vn.simulate(again, evidence, says, out=tmp_path, redo=True, progress=False)
    assert load(tmp_path)["a", "picture"].failed


def test_a_score_that_failed_takes_the_place_of_none_that_there_is(tmp_path: Path) -> None:
    def moody(job: Job) -> Prediction:
        if job.explanation == "what fails":
            return Prediction(failure=Failure("network", "cut"))
        return Prediction(tuple(RNG.random(p.shape) for p in job.exemplar.patch_acts))

    evidence = {name: probe(name) for name in "abc"}
    first = scored({"a": "there", "b": "too"}, evidence, Answers(moody), out=tmp_path).set_index("neuron")
    second = scored({"b": "what fails", "c": "there"}, evidence, Answers(moody), out=tmp_path).set_index("neuron")
    assert list(second.index) == ["a", "b", "c"] and np.isnan(second.r["b"])
    stored = load_scores(tmp_path).set_index("neuron")
    assert stored.r["b"] == first.r["b"] and stored.explanation["b"] == "too" and np.isfinite(stored.r).all()

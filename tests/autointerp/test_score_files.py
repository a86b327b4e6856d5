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
from vlm_neurons.autointerp.simulations import load
from vlm_neurons.autointerp.simulators import Job, Prediction, Simulates

RNG = seeds.rng()
N = 40


def probe(name: str) -> vn.Evidence:
    """Pictures of one colour each with a red half, so that "red regions" is constant in no draw."""
    images = [Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in range(N)]
    for image in images:
        image.paste((230, 20, 20), (0, 0, 16, 32))
    return vn.Evidence.from_arrays(name, images=images, patch_acts=[RNG.random((4, 4)) for _ in range(N)])


def scored(explanations: dict[str, str], evidence: dict[str, vn.Evidence], *args: Any, **options: Any) -> pd.DataFrame:
    return vn.score(explanations, evidence, *args, n_null=0, n_permutations=999, progress=False, **options)


class Broken(Simulates):
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


@pytest.mark.parametrize("name", ["broken", "no-key"])
def test_a_simulator_that_brought_nothing_leaves_the_files_of_the_last_one(tmp_path: Path, name: str) -> None:
    evidence, words = {"a": probe("a")}, {"a": "red regions"}
    scored(words, evidence, out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    if name == "no-key":
        with pytest.raises(ValueError, match="no API key"):
            scored(words, evidence, Broken(name), out=tmp_path)
    else:
        assert scored(words, evidence, Broken(name), out=tmp_path).n_failed.tolist() == [
            len(evidence["a"].split("test"))
        ]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_scores_and_simulations_in_front_are_of_one_simulator(tmp_path: Path) -> None:
    evidence, words = {"a": probe("a")}, {"a": "red regions"}
    for simulator in ("concepts", "image-only", "concepts", "image-only"):
        scored(words, evidence, simulator, out=tmp_path)
        assert pd.read_parquet(tmp_path / "scores.parquet").simulator.tolist() == [simulator]
        assert load(tmp_path)["a"].simulator == simulator
        vn.simulate(words, evidence, "concepts", out=tmp_path, progress=False)  # all there: nothing moves
        assert load(tmp_path)["a"].simulator == simulator


def test_a_simulation_that_is_constant_came_and_is_written_though_another_failed(tmp_path: Path) -> None:
    evidence = {"a": probe("a"), "b": probe("b")}
    table = scored({"a": "what fails", "b": "what is everywhere"}, evidence, Answers(halfway), out=tmp_path)
    assert table.n_failed.tolist() == [len(evidence["a"].split("test")), 0] and table.r.isna().all()
    assert pd.read_parquet(tmp_path / "scores.parquet").note.tolist() == table.note.tolist()
    assert "every simulation failed" in table.note[0] and table.note[1] == "constant simulation"


def test_half_a_character_in_one_explanation_blocks_no_other(tmp_path: Path) -> None:
    evidence = {"a": probe("a"), "b": probe("b")}
    words = {"a": "red \ud83d regions", "b": "red regions"}
    scored(words, evidence, out=tmp_path)
    assert load(tmp_path)["a"].explanation == "red \ufffd regions"
    table = pd.read_parquet(tmp_path / "scores.parquet").set_index("neuron")
    assert table.explanation["a"] == "red \ufffd regions" and np.isfinite(table.r["b"])

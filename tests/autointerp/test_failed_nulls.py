"""What failed is no evidence that an explanation is specific."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import seeds
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators import Job, Prediction, Simulator

RNG = seeds.rng()
N = 40


def probe(name: str) -> vn.Evidence:
    images = [Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in range(N)]
    return vn.Evidence.from_arrays(name, images=images, patch_acts=[RNG.random((4, 4)) for _ in range(N)])


class Partly(Simulator):
    """Predicts the truth for the explanation "own"; for any other one only in the first exemplars of every neuron."""

    name = "partly"

    def __init__(self, share: float) -> None:
        self.share = share

    def settings(self) -> str:
        return "partly"

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        seen: dict[Any, int] = {}
        for place, job in enumerate(jobs):
            seen[job.explanation] = number = seen.get(job.explanation, -1) + 1
            n = sum(j.explanation == job.explanation for j in jobs)
            if (job.explanation.startswith("own") and self.own(jobs)) or number < self.share * n:
                yield place, Prediction(tuple(p + 0.01 * RNG.random(p.shape) for p in job.exemplar.patch_acts))
            else:
                yield place, Prediction(failure=Failure("cost", "max_cost"))

    @staticmethod
    def own(jobs: Sequence[Job]) -> bool:
        """Whether these are the neurons' own explanations: the empty one is tried with the others'."""
        return all(j.explanation for j in jobs)


@pytest.mark.parametrize(("share", "n_null"), [(0.0, 0), (0.1, 0), (0.95, 2)])
def test_a_null_that_failed_is_counted_and_is_no_zero(share: float, n_null: int) -> None:
    evidence = {name: probe(name) for name in ("a", "b", "c")}
    table = vn.score({name: f"own {name}" for name in evidence}, evidence, Partly(share), n_permutations=999,
                     progress=False, full=True)  # fmt: skip
    assert (table.r > 0.9).all() and (table.n_null == n_null).all() and (table.n_failed == 0).all()
    assert table.r_null.isna().all() == (n_null == 0) == table.r_empty.isna().all()
    said = [f"{3 - n_null} null simulations failed" in note for note in table.note]
    assert all(said) == any(said) == (n_null == 0), table.note.tolist()

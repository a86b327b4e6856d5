"""A multi-modal neuron is two jobs: where one side fails the other is scored, and each row says what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import seeds
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators import Job, Prediction, Simulator

RNG = seeds.rng()
N = 40


class OneEyed(Simulator):
    """Says the truth, of the pictures and of the words only in the first exemplars."""

    name = "one-eyed"

    def __init__(self, n_seen: int, n_read: int) -> None:
        self.n = {"picture": n_seen, "text": n_read}

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        done = {"picture": 0, "text": 0}
        for place, job in enumerate(jobs):
            done[job.side] += 1
            if done[job.side] > self.n[job.side]:
                yield place, Prediction(failure=Failure("network", "cut"))
            elif job.side == "picture":
                yield place, Prediction(job.exemplar.patch_acts)
            else:
                yield place, Prediction(token_acts=job.exemplar.token_acts)


UNHEARD = (
    "no r: every simulation of samples with activity that is not foreseen failed (network); r of the others would not "
    "be of all the data (r_top_random stands)"
)


@pytest.mark.parametrize(("n_seen", "n_read", "n_failed", "notes"), [
    (0, N, [16, 0], ["every simulation failed: network", ""]),
    (N, 0, [0, 16], ["", "every simulation failed: network"]),
    (13, 14, [3, 2], ["", ""]),
    (12, 14, [4, 2], [UNHEARD, ""]),  # the last four are all there are of a part of the data
    (0, 0, [16, 16], ["every simulation failed: network"] * 2),
    (N, N, [0, 0], ["", ""]),
])  # fmt: skip
def test_every_side_has_a_row_that_says_what_is_missing(n_seen, n_read, n_failed, notes):
    evidence = vn.Evidence.from_arrays(
        "probe", images=[Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in range(N)],
        patch_acts=[RNG.random((4, 4)) for _ in range(N)], tokens=[["a ", "dog", str(i)] for i in range(N)],
        token_acts=[RNG.random(3) for _ in range(N)],
    )  # fmt: skip
    test = evidence.split("test")[:16]
    evidence = replace(evidence, label="multimodal", exemplars=test)
    table = vn.score({"probe": "x"}, {"probe": evidence}, OneEyed(n_seen, n_read), n_null=0, n_permutations=999,
                     progress=False, full=True)  # fmt: skip
    assert table.side.tolist() == ["picture", "text"]
    assert (table.n_failed.tolist(), table.note.tolist()) == (n_failed, notes)
    assert table.n_images.tolist() == [16 - n for n in n_failed]
    assert table.r.notna().tolist() == [note == "" for note in notes]
    assert table.r_top_random.notna().tolist() == [n < 16 for n in n_failed]


def test_a_class_whose_sides_a_simulator_lacks_fails_and_one_side_is_enough():
    evidence = vn.Evidence.from_arrays(
        "probe", tokens=[["a ", "dog", str(i)] for i in range(N)], token_acts=[RNG.random(3) for _ in range(N)],
        images=[Image.new("RGB", (32, 32), (i, 0, 0)) for i in range(N)],
        patch_acts=[RNG.random((4, 4)) for _ in range(N)],
    )  # fmt: skip

    def sides(label: str) -> list[str]:
        one = replace(evidence, label=label)
        found = vn.simulate({"probe": "x"}, {"probe": one}, "token-frequency", progress=False)
        return [f"{side} {one.failed}" for (_, side), one in found.items()]

    assert sides("multimodal") == sides("text") == ["text False"] and sides("visual") == ["picture True"]

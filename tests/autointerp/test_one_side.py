"""Where one side of a multi-modal neuron fails the other is scored, and the row says which it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import seeds
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.simulators import Job, Prediction, Simulates

RNG = seeds.rng()
N = 40


class OneEyed(Simulates):
    """Says the truth, of the pictures only in the first exemplars."""

    name = "one-eyed"

    def __init__(self, n_seen: int, n_read: int) -> None:
        self.n_seen, self.n_read = n_seen, n_read

    def settings(self) -> str:
        return "one-eyed"

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        for place, job in enumerate(jobs):
            seen, read = place < self.n_seen, place < self.n_read
            failure = None if seen and read else Failure("network", "cut")
            yield (
                place,
                Prediction(job.exemplar.patch_acts if seen else (), job.exemplar.token_acts if read else None, failure),
            )


@pytest.mark.parametrize(("n_seen", "n_read", "modality", "n_failed", "note"), [
    (0, N, "text", 0, "no visual side (network)"),
    (N, 0, "visual", 0, "no text side (network)"),
    (12, N, "multimodal", 0, "no visual side of 4 exemplars (network)"),
    (12, 14, "multimodal", 2, "no visual side of 2 exemplars (network)"),
    (12, 12, "multimodal", 4, ""),
    (0, 0, "", 16, "every simulation failed: network"),
    (N, N, "multimodal", 0, ""),
])  # fmt: skip
def test_the_row_names_the_sides_that_are_scored_and_what_is_missing(n_seen, n_read, modality, n_failed, note):
    evidence = vn.Evidence.from_arrays(
        "probe", images=[Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in range(N)],
        patch_acts=[RNG.random((4, 4)) for _ in range(N)], tokens=[["a ", "dog", str(i)] for i in range(N)],
        token_acts=[RNG.random(3) for _ in range(N)],
    )  # fmt: skip
    test = evidence.split("test")[:16]
    evidence = replace(evidence, label="multimodal", exemplars=test)
    row = vn.score({"probe": "x"}, {"probe": evidence}, OneEyed(n_seen, n_read), n_null=0, n_permutations=999,
                   progress=False).iloc[0]  # fmt: skip
    assert (row.modality, row.n_failed, row.note) == (modality, n_failed, note)
    assert row.n_images == 16 - n_failed

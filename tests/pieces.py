"""Pieces for tests of scores: smooth maps, drawn afresh; and a simulator that says what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import seeds

from vlm_neurons.autointerp.scorers.aligned import Piece
from vlm_neurons.autointerp.simulators import Job, Prediction, Simulator

RNG = seeds.rng()


def blob(rng: np.random.Generator, shape: tuple[int, int] = (8, 8)) -> np.ndarray:
    """A map in which neighbours are alike, the same kind of thing wherever it lies (on a torus)."""
    small = np.zeros(shape)
    small[:3, :4] = rng.uniform(2, 9)
    return np.roll(small, (int(rng.integers(shape[0])), int(rng.integers(shape[1]))), (0, 1)) + rng.uniform(0, 1, shape)


def piece(i: int, real: np.ndarray, simulated: np.ndarray, top: bool = True, counts: np.ndarray | None = None) -> Piece:
    side = "picture" if real.ndim == 2 else "text"
    return Piece(i, top, side, real, simulated, np.ones(real.shape, bool) if counts is None else counts)


def random_pieces(n: int, rng: np.random.Generator, text: bool = False) -> list[Piece]:
    """Simulations that have nothing to do with the truth; some places do not count."""
    found = []
    for i in range(n):
        if text:
            size = int(rng.integers(6, 20))
            real, simulated = rng.lognormal(0, 1, size), rng.lognormal(0, 1, size)
        else:
            real, simulated = blob(rng), blob(rng)
        counts = rng.random(real.shape) < 0.9
        counts.flat[:2] = True
        found.append(piece(i, real, simulated, bool(rng.random() < 0.5), counts))
    return found


class Answers(Simulator):
    """Gives whatever it is told to."""

    name = "mine"

    def __init__(self, answer: Callable[[Job], Any], last: int | None = None) -> None:
        self.answer, self.last = answer, last

    def settings(self) -> str:
        return "mine"

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        yield from ((place, self.answer(job)) for place, job in enumerate(jobs[: self.last]))

"""What a simulator is: it predicts activations from an explanation, and says where it could not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vlm_neurons.autointerp.explanation import Failure

if TYPE_CHECKING:
    from vlm_neurons.evidence import Exemplar

Side = Literal["visual", "text"]
SIDES: tuple[Side, ...] = ("visual", "text")


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted activations of one exemplar, on the 0-10 scale; or why there are none.

    Attributes:
        patch_acts: for each image of the exemplar a map [rows, columns]; empty if the visual side was not asked for, or
            failed.
        token_acts: a value for each of `exemplar.seen.tokens`, NaN at those that were not asked for (template); None if
            the text side was not asked for, or failed.
        failure: why a side that was asked for is missing. Never zeros in its place.
        tokens_in: of the requests behind it.
        tokens_out: the same.
        cost: in US dollars.
    """

    patch_acts: tuple[Float[np.ndarray, "rows columns"], ...] = ()
    token_acts: Float[np.ndarray, "token"] | None = None
    failure: Failure | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


@dataclass(frozen=True, eq=False)
class Job:
    """One question to a simulator.

    Attributes:
        explanation: in words; `""` for the empty explanation.
        exemplar: whose activations it may not look at (`exemplar.seen` is what it may).
        sides: which are asked for.
    """

    explanation: str
    exemplar: Exemplar
    sides: tuple[Side, ...] = SIDES


@dataclass(frozen=True)
class Resolution:
    """How fine a simulator's answers are: what they cannot say bounds every score from above.

    Attributes:
        levels: number of values that it can give from 0 to 10 (11 for whole numbers); None for any number.
        grid: (rows, columns) of the cells over the image that have one value each; None for every patch its own.
    """

    levels: int | None = None
    grid: tuple[int, int] | None = None

    def of_map(self, scaled: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """The truth as the simulator could say it: the mean over every cell, rounded to a level.

        >>> Resolution(levels=11, grid=(1, 1)).of_map(np.array([[0.0, 3.0]])).tolist()
        [[2.0, 2.0]]
        """
        if self.grid is None:
            return self.of_values(scaled)
        rows, columns = (
            ((np.arange(n) + 0.5) / n * g).astype(int) for n, g in zip(scaled.shape, self.grid, strict=True)
        )
        cells = rows[:, None] * self.grid[1] + columns[None]
        sums = np.bincount(cells.ravel(), np.nan_to_num(scaled).ravel(), self.grid[0] * self.grid[1])
        counts = np.bincount(cells.ravel(), (~np.isnan(scaled)).ravel(), self.grid[0] * self.grid[1])
        return self.of_values((sums / np.maximum(counts, 1))[cells])

    def of_values(self, scaled: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Values rounded to a level."""
        if self.levels is None:
            return scaled
        step = 10 / (self.levels - 1)
        return np.rint(scaled / step) * step


@runtime_checkable
class Simulator(Protocol):
    """What `vn.simulate` and `vn.score` take. Inherit `Simulates` to have `simulate` made from `run`."""

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    @property
    def sides(self) -> frozenset[Side]:
        """What it can predict."""
        ...

    @property
    def resolution(self) -> Resolution:
        """How finely."""
        ...

    @property
    def paid(self) -> bool:
        """Whether its answers cost money, or time worth a warning."""
        ...

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        ...

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included, as they come. A job asks for no side that the
        simulator lacks."""
        ...

    def simulate(self, explanation: str, exemplars: Sequence[Exemplar]) -> list[Prediction]:
        """A prediction for each exemplar."""
        ...


class Simulates:
    """`simulate` for simulators that define `run`."""

    sides: frozenset[Side] = frozenset(SIDES)
    resolution = Resolution()
    paid = False

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """See `Simulator.run`."""
        raise NotImplementedError

    def simulate(self, explanation: str, exemplars: Sequence[Exemplar]) -> list[Prediction]:
        """A prediction for each exemplar, of all sides that the simulator can do."""
        sides = tuple(s for s in SIDES if s in self.sides)
        jobs = [Job(explanation, e, sides) for e in exemplars]
        found = dict(self.run(jobs))
        return [found[i] for i in range(len(jobs))]


def constant(job: Job, value: float = 0.0) -> Prediction:
    """The same value everywhere: what an explanation that says nothing predicts. It has no correlation."""
    patches: tuple[np.ndarray, ...] = ()
    if "visual" in job.sides:
        patches = tuple(np.full(p.shape, value) for p in job.exemplar.patch_acts)
    return Prediction(patches, text_values(job, value) if "text" in job.sides else None)


def fault(prediction: Prediction, job: Job) -> str | None:
    """What is wrong with an answer to a job, in words; None if nothing is."""
    if not isinstance(prediction, Prediction):
        return f"{type(prediction).__name__}, not a Prediction"
    maps, tokens = [np.asarray(m, float) for m in prediction.patch_acts], prediction.token_acts
    grids, n = [p.shape for p in job.exemplar.patch_acts], len(job.exemplar.seen.tokens)
    if maps and [m.shape for m in maps] != grids:
        return f"patches {[m.shape for m in maps]} for images with {grids}"
    if tokens is not None and np.shape(tokens) != (n,):
        return f"tokens {np.shape(tokens)} for a sample with {n}, those of the template among them"
    if any(np.isinf(v).any() for v in (*maps, *([] if tokens is None else [np.asarray(tokens, float)]))):
        return "infinite values"
    missing = ("visual" in job.sides and grids and not maps) or ("text" in job.sides and tokens is None)
    return "neither values of a side that was asked for nor a failure" if missing and not prediction.failure else None


def text_values(job: Job, value: float | Iterable[float]) -> Float[np.ndarray, "token"]:
    """Values of the response's tokens, NaN at the others.

    Args:
        job: the question.
        value: one for all, or one for each token of the response.
    """
    tokens = np.full(len(job.exemplar.seen.tokens), np.nan)
    tokens[job.exemplar.seen.is_text] = value if isinstance(value, float) else np.fromiter(value, float)
    return tokens

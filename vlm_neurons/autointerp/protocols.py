"""What explainers, simulators and judges are; whatever is optional has its default here. And the sides of a neuron."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float

from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.protocols import SIDES as SIDES
from vlm_neurons.protocols import Side as Side

if TYPE_CHECKING:
    from vlm_neurons.autointerp.client import Plan
    from vlm_neurons.evidence import Evidence, Exemplar
    from vlm_neurons.evidence.evidence import Kind

AtOnce = Callable[[str], np.ndarray | None]
OTHER: dict[Side, Side] = {"picture": "text", "text": "picture"}
SIDES_OF: dict[Kind, tuple[Side, ...]] = {"visual": ("picture",), "text": ("text",), "multimodal": SIDES}


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted activations of one exemplar on one side, on the 0-10 scale; or why there are none.

    Attributes:
        patch_acts: of the side `"picture"`: for each image of the exemplar a map [rows, columns].
        token_acts: of the side `"text"`: a value for each of `exemplar.seen.tokens`, NaN where none is asked for
            (template).
        failure: why there are no values. Never zeros in their place.
        tokens_in: of the requests behind it.
        tokens_out: the same.
        cost: in US dollars.
    """

    patch_acts: tuple[Float[np.ndarray, "_rows _columns"], ...] = ()
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
        side: which is asked for.
    """

    explanation: str
    exemplar: Exemplar
    side: Side


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

    def of(self, scaled: Float[np.ndarray, "*place"]) -> Float[np.ndarray, "*place"]:
        """`of_map` of a map, `of_values` of tokens."""
        return self.of_map(scaled) if scaled.ndim == 2 else self.of_values(scaled)

    def of_values(self, scaled: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Values rounded to a level."""
        if self.levels is None:
            return scaled
        step = 10 / (self.levels - 1)
        return np.rint(scaled / step) * step


class _OwnName:
    """The name of a class, for those that give none."""

    def __get__(self, one: object, kind: type) -> str:
        return kind.__name__


class _Named:
    """A name, and settings, for classes that give none of their own."""

    name: str = _OwnName()  # type: ignore[assignment]

    def settings(self) -> str:
        """All that decides its answers, as one string: equal questions to equal settings are asked once."""
        return f"{type(self).__module__}.{type(self).__qualname__} {vars(self)}"


class Explainer(_Named):
    """What `vn.explain` takes: inherit it and write `explain`. Everything else has a default.

    Attributes:
        name: what it is called in records; the class's own name if not given.
        sides_apart: whether `by_side` of its explanations is what it would say of evidence of either side alone.

    >>> class SaysRed(Explainer):
    ...     def explain(self, evidence):
    ...         for key, one in evidence.items():
    ...             yield key, vn.Explanation(one.neuron, "red regions", explainer=self.name)
    >>> vn.explain(evidence, SaysRed(), progress=False)["L2N304"].explainer
    'SaysRed'
    """

    sides_apart = False

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key of the evidence, explanation) of every neuron, failures included, as they come. It may use the split
        `"explain"` only."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """Of the server that is asked; `""` where none is."""
        return ""

    def plan(self, evidence: Mapping[str, Evidence]) -> Plan | None:
        """What `explain` would send and cost; None where nobody is asked."""
        return None

    def effort(self, evidence: Mapping[str, Evidence]) -> str:
        """What takes long or costs something, said before it starts; `""` for what takes seconds."""
        return ""

    def settings_of(self, evidence: Evidence) -> str:
        """What decides its answer about one neuron beside the settings and the evidence, such as the weights of a
        dictionary; `""` for nothing."""
        return ""

    def with_cache(self, file: Path) -> Self:
        """The same with a file of replies, if it keeps replies and has none."""
        return self


class Simulator(_Named):
    """What `vn.simulate` and `vn.score` take: inherit it and write `predict`, or `run` for many at once. Everything
    else has a default.

    Attributes:
        name: what it is called in records; the class's own name if not given.
        sides: what it can predict.
        resolution: how finely.
        paid: whether its answers cost money, or time worth a warning.

    >>> class Everywhere(Simulator):
    ...     def predict(self, job):
    ...         return Prediction(tuple(np.ones(p.shape) for p in job.exemplar.patch_acts))
    ...     sides = frozenset({"picture"})
    >>> vn.score(explanations, evidence, Everywhere(), n_null=0, progress=False).set_index("neuron").note["L2N304"]
    'constant simulation'
    """

    sides: frozenset[Side] = frozenset(SIDES)
    resolution = Resolution()
    paid = False

    def predict(self, job: Job) -> Prediction:
        """One prediction. A job asks for no side that the simulator lacks."""
        raise NotImplementedError

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included, as they come."""
        for place, job in enumerate(jobs):
            yield place, self.predict(job)

    def simulate(self, explanation: str, exemplars: Sequence[Exemplar], side: Side) -> list[Prediction]:
        """A prediction for each exemplar."""
        found = dict(self.run([Job(explanation, e, side) for e in exemplars]))
        return [found[i] for i in range(len(exemplars))]

    def at_once(self, exemplars: Sequence[Exemplar], side: Side) -> AtOnce | None:
        """For simulators that need no more for many exemplars than for one: the predictions of an explanation, at all
        patches of all images, or at all tokens of the responses, in their order; None where one of them fails. It
        gives the values of `run`."""
        return None

    def resolution_on(self, side: Side) -> Resolution:
        """How finely it predicts a side."""
        return self.resolution

    def for_neuron(self, evidence: Evidence) -> Simulator:
        """The same about one neuron, for those that do not go by the explanation."""
        return self

    @property
    def per_neuron(self) -> bool:
        """Whether it is about single neurons, told by `for_neuron`, and not about explanations."""
        return type(self).for_neuron is not Simulator.for_neuron

    def plan(self, jobs: Sequence[Job]) -> Plan | None:
        """What `run` would send and cost at most; None where nobody is asked."""
        return None

    def with_cache(self, file: Path) -> Self:
        """The same with a file of replies, if it keeps replies and has none."""
        return self

    def on_one_purse(self) -> Self:
        """The same, all of whose runs together keep to its `max_cost`; one that pays nobody as it is."""
        return self


class Judge(_Named):
    """Says whether samples fit an explanation: what `vn.autointerp.detect` takes. Inherit it and write `judge`."""

    def judge(self, explanation: str, exemplars: Sequence[Exemplar]) -> Sequence[float | Failure]:
        """For each exemplar the chance that it fits, or why there is none. It may look at `exemplar.seen` only."""
        raise NotImplementedError


def constant(job: Job, value: float = 0.0) -> Prediction:
    """The same value everywhere: what an explanation that says nothing predicts. It has no correlation."""
    if job.side == "picture":
        return Prediction(tuple(np.full(p.shape, value) for p in job.exemplar.patch_acts))
    return Prediction(token_acts=text_values(job, value))


def text_values(job: Job, value: float | Iterable[float]) -> Float[np.ndarray, "token"]:
    """Values of the response's tokens, NaN at the others.

    Args:
        job: the question.
        value: one for all, or one for each token of the response.
    """
    tokens = np.full(len(job.exemplar.seen.tokens), np.nan)
    tokens[job.exemplar.seen.is_text] = value if isinstance(value, float) else np.fromiter(value, float)
    return tokens


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
    if tokens is not None if job.side == "picture" else maps:
        return f"values of another side than {job.side!r}, which was asked for"
    there = (bool(maps) or not grids) if job.side == "picture" else tokens is not None
    if prediction.failure is not None:
        return "values and a failure" if maps or tokens is not None else None
    return None if there else "neither values nor a failure"


def sides_of(evidence: Evidence) -> tuple[Side, ...]:
    """The sides on which a neuron is explained, simulated and scored.

    >>> sides_of(evidence["L2N304"]), sides_of(evidence["L3N3"])
    (('picture',), ('picture', 'text'))
    """
    return SIDES_OF[evidence.kind]

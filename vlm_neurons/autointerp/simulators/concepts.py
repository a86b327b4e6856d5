"""A simulator without key and weights, for explanations that name concepts of the banks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.protocols import AtOnce, Job, Prediction, Resolution, Side, Simulator, text_values
from vlm_neurons.autointerp.simulators.concept_stack import Flat, Stack

if TYPE_CHECKING:
    from vlm_neurons.evidence import Exemplar


@dataclass(frozen=True)
class ConceptSimulator(Simulator):
    """Predicts 10 times the share of every patch, or token, that has what the explanation names.

    Alternatives (between semicolons) are joined by the larger value, or, where "less strongly:" (.5) or "weakly:" (.25)
    tells their weights, by the weighted mean; concepts of one alternative by the smaller; "anything but" is the rest.
    An explanation that names one side only stands for the same thing on the other: red regions for the word "red" (so
    that an explanation made from images can be tried on words). An explanation that names something that the banks do
    not have is a failure of the kind `"vocabulary"`, never a zero.

    Attributes:
        truth: of scenes, use the ground truth too.

    It shares its banks with the dissection explainer: together they show that an explanation of this kind predicts
    activations on new samples, not that a person, or a model that sees, would.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> prediction = ConceptSimulator().simulate("cyan regions", made.split("test"), "picture")[0]
    >>> float(prediction.patch_acts[0].max()) > 5
    True
    """

    truth: bool = True
    name: str = "concepts"

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return f"concepts-2 {self.truth}"

    def resolution_on(self, side: Side) -> Resolution:
        """A token has what is named, or has it not; a patch may have any share of it."""
        return Resolution(levels=2) if side == "text" else Resolution()

    def at_once(self, exemplars: Sequence[Exemplar], side: Side) -> AtOnce:
        """All places of many exemplars, from one array for each concept."""
        return Stack([e.seen for e in exemplars], side, self.truth)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job; those of one explanation that follow each other at once."""
        for _, alike in groupby(enumerate(jobs), key=lambda item: (item[1].explanation, item[1].side)):
            places, own = zip(*alike, strict=True)
            yield from zip(places, self._predictions(own), strict=True)

    def predict(self, job: Job) -> Prediction:
        """The values of one exemplar."""
        return self._predictions([job])[0]

    def _predictions(self, jobs: Sequence[Job]) -> list[Prediction]:
        """Of jobs that differ in their exemplars alone."""
        stack = Stack([job.exemplar.seen for job in jobs], jobs[0].side, self.truth)
        found = stack.predict(jobs[0].explanation)
        if isinstance(found, Failure):  # of one of them
            return [Prediction(failure=found)] if len(jobs) == 1 else [self.predict(job) for job in jobs]
        return [_prediction(job, values) for job, values in zip(jobs, stack.parts(found), strict=True)]


def _prediction(job: Job, values: Flat) -> Prediction:
    if job.side == "text":
        return Prediction(token_acts=text_values(job, values))
    parts, start = [], 0
    for boxes in job.exemplar.seen.boxes:
        rows, columns = boxes.shape[:2]
        parts.append(values[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    return Prediction(tuple(parts))

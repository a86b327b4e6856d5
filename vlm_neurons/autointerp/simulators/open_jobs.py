"""Jobs that wait for answers: which questions they need, and what has come. Equal questions are asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlm_neurons.autointerp.client.asking import Ask, Reply
from vlm_neurons.autointerp.explanation import Failure, says_nothing
from vlm_neurons.autointerp.protocols import Job, Prediction, constant, text_values
from vlm_neurons.autointerp.simulators.cell_questions import Cells, Grid, at_patches, cells_of, refined
from vlm_neurons.autointerp.simulators.questions import Values, Wording
from vlm_neurons.autointerp.simulators.word_questions import Words

Question = Cells | Words
Done = Callable[[Values | Failure], None]


@dataclass
class _Open:
    """A job that waits for answers.

    Attributes:
        job: the question of the user.
        left: answers that have not come.
        maps: predicted patches of each image, as they come.
        tokens: predicted tokens.
        failures: of its answers.
        used: tokens in, tokens out and dollars of the requests that were sent for it.
    """

    job: Job
    left: int = 0
    maps: dict[int, np.ndarray] = field(default_factory=dict)
    tokens: np.ndarray | None = None
    failures: list[Failure] = field(default_factory=list)
    used: list[float] = field(default_factory=lambda: [0, 0, 0.0])

    def prediction(self) -> Prediction:
        used = int(self.used[0]), int(self.used[1]), self.used[2]
        if self.failures:
            return Prediction((), None, self.failures[0], *used)
        return Prediction(tuple(self.maps[i] for i in sorted(self.maps)), self.tokens, None, *used)


class OpenJobs:
    """A portion of jobs, whose questions are asked in two steps.

    Args:
        jobs: the portion.
        grid: rows and columns of cells at most.
        coarse: the same of the first step; 0 for one step.
        wording: how questions are put.
        start: place of the first job among all.
    """

    def __init__(self, jobs: Sequence[Job], grid: int, coarse: int, wording: Wording, start: int = 0) -> None:
        self.grid, self.coarse, self.wording = grid, coarse, wording
        self.open: dict[int, _Open] = {}
        self.done: list[tuple[int, Prediction]] = []
        self.waiting: dict[Question, list[tuple[int, Done]]] = {}
        self.steps: tuple[dict[Question, Ask], dict[Question, Ask]] = ({}, {})
        for place, job in enumerate(jobs, start):
            if says_nothing(job.explanation):
                self.done.append((place, constant(job)))
                continue
            self.open[place] = _Open(job)
            self._ask_all(place, job)
            if self.open[place].left == 0:
                self._close(place)

    def first(self) -> list[Ask]:
        """Questions of the first step."""
        return list(self.steps[0].values())

    def second(self) -> list[Ask]:
        """Questions that the answers to the first ones raised."""
        return list(self.steps[1].values())

    def ready(self) -> Iterator[tuple[int, Prediction]]:
        """Jobs that have all their answers; each once."""
        while self.done:
            yield self.done.pop(0)

    def take(self, reply: Reply) -> None:
        """Give an answer to all that wait for it. The first of them bears its cost."""
        question: Question = reply.ask.key
        values = question.read(reply)
        jobs = self.waiting.pop(question)
        used = self.open[jobs[0][0]].used
        for i, amount in enumerate((reply.tokens_in, reply.tokens_out, reply.cost)):
            used[i] += amount
        for place, done in jobs:
            done(values)
            self._close(place)

    def suppose(self, ask: Ask) -> None:
        """An answer after which everything is asked about again: what a plan reckons with."""
        n = np.full(len(ask.key.numbers) if isinstance(ask.key, Cells) else len(ask.key.tokens), 10.0)
        for place, done in self.waiting.pop(ask.key):
            done(Values(n, n))
            self._close(place)

    def _ask_all(self, place: int, job: Job) -> None:
        seen, one = job.exemplar.seen, self.open[place]
        if job.side == "picture":
            for number in range(len(seen.images)):
                self._ask_image(place, number)
            return
        told = tuple(t for t, is_text in zip(seen.tokens, seen.is_text, strict=True) if is_text)
        words = Words(job.explanation, told)

        def done(values: Values | Failure) -> None:
            if isinstance(values, Failure):
                one.failures.append(values)
            else:
                one.tokens = text_values(job, values.expected)

        if words.tokens:
            self._ask(0, words, place, done, lambda: words.ask(self.wording))
        else:
            one.tokens = text_values(job, [])

    def _ask_image(self, place: int, number: int) -> None:
        one = self.open[place]
        seen, explanation = one.job.exemplar.seen, one.job.explanation
        image, boxes, digest = seen.images[number], seen.boxes[number], seen.image_digests[number]
        fine: Grid = (min(self.grid, boxes.shape[0]), min(self.grid, boxes.shape[1]))

        def finish(cells: np.ndarray) -> None:
            one.maps[number] = at_patches(cells, boxes, image.size)

        def ask(step: int, grid: Grid, numbers: tuple[int, ...], done: Done) -> None:
            question = Cells(explanation, digest, grid, numbers)
            self._ask(step, question, place, done, lambda: question.ask(image, self.wording))

        def fail_or(use: Callable[[Values], None]) -> Done:
            return lambda values: one.failures.append(values) if isinstance(values, Failure) else use(values)

        def refine(values: Values) -> None:
            cells = refined(values.expected.reshape(coarse), fine).ravel()
            again = np.flatnonzero(refined(values.said.reshape(coarse), fine).ravel() > 0)
            if not again.size:
                return finish(cells.reshape(fine))

            def use(finer: Values) -> None:
                cells[again] = finer.expected
                finish(cells.reshape(fine))

            ask(1, fine, tuple((again + 1).tolist()), fail_or(use))

        if self.coarse == 0 or max(fine) <= self.coarse:
            ask(0, fine, tuple(cells_of(fine)), fail_or(lambda values: finish(values.expected.reshape(fine))))
        else:
            coarse: Grid = (min(self.coarse, fine[0]), min(self.coarse, fine[1]))
            ask(0, coarse, tuple(cells_of(coarse)), fail_or(refine))

    def _ask(self, step: int, question: Question, place: int, done: Done, make: Callable[[], Ask]) -> None:
        self.open[place].left += 1

        def answered(values: Values | Failure) -> None:
            done(values)  # which may ask again
            self.open[place].left -= 1

        if question not in self.steps[step]:
            self.steps[step][question] = make()
        self.waiting.setdefault(question, []).append((place, answered))

    def _close(self, place: int) -> None:
        if place in self.open and self.open[place].left == 0:
            self.done.append((place, self.open.pop(place).prediction()))

"""A simulator without key and weights, for explanations that name concepts of the banks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons.autointerp.explanation import Failure, says_nothing
from vlm_neurons.autointerp.protocols import AtOnce, Job, Prediction, Resolution, Side, Simulator, constant, text_values
from vlm_neurons.autointerp.simulators.concept_stack import Stack, all_of, any_of
from vlm_neurons.concepts.lexical import mask_of
from vlm_neurons.concepts.naming import Alternative, Named, named
from vlm_neurons.concepts.visual import visual_bank

if TYPE_CHECKING:
    from vlm_neurons.evidence import Exemplar, Seen


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

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job."""
        read: dict[str, Named] = {}
        for place, job in enumerate(jobs):
            if says_nothing(job.explanation):
                yield place, constant(job)
                continue
            if job.explanation not in read:
                read[job.explanation] = named(job.explanation)
            yield place, self._predict(job, read[job.explanation])

    def at_once(self, exemplars: Sequence[Exemplar], side: Side) -> AtOnce:
        """All places of many exemplars, from one array for each concept."""
        return Stack([e.seen for e in exemplars], side, self.truth)

    def _predict(self, job: Job, what: Named) -> Prediction:
        if what.unknown:
            return _failed(f"the banks have no concept for: {', '.join(what.unknown)}")
        seen = job.exemplar.seen
        visual, lexical = what.regions, what.words
        if not (visual if job.side == "picture" else lexical):
            return _failed(f"it names nothing that {'images' if job.side == 'picture' else 'words'} could show")
        maps: tuple[np.ndarray, ...] = ()
        if visual and (job.side == "picture" or what.together):
            try:
                maps = self._maps(seen, visual)
            except KeyError as error:
                return _failed(f"the pixels alone do not tell {error.args[0]}")
        words = _words(seen, lexical) if lexical and (job.side == "text" or what.together) else np.zeros(0)
        there = not what.together or (max((m.max() for m in maps), default=0) > 0 and words.max(initial=0) > 0)
        if job.side == "picture":
            return Prediction(tuple(10.0 * there * m for m in maps))
        return Prediction(token_acts=text_values(job, (10.0 * there * words)[seen.is_text]))

    def _maps(self, seen: Seen, alternatives: Sequence[Alternative]) -> tuple[np.ndarray, ...]:
        found = []
        for maps, boxes in zip(visual_bank(seen, self.truth), seen.boxes, strict=True):

            def share(alternative: Alternative, maps=maps, shape=boxes.shape[:2]) -> np.ndarray:  # type: ignore[no-untyped-def]
                for c in alternative.concepts:
                    if c not in maps:
                        raise KeyError(c.name)
                return all_of([np.clip(maps[c], 0, 1) for c in alternative.concepts], shape)

            found.append(any_of(alternatives, share))
        return tuple(found)


def _words(seen: Seen, alternatives: Sequence[Alternative]) -> np.ndarray:
    """Share, 0 or 1, of every token; the banks read the response alone."""
    found, n = np.zeros(len(seen.tokens)), len(seen.response)
    found[seen.is_text] = any_of(
        alternatives, lambda a: all_of([mask_of(c, seen.response).astype(float) for c in a.concepts], (n,))
    )
    return found


def _failed(detail: str) -> Prediction:
    return Prediction(failure=Failure("vocabulary", detail))

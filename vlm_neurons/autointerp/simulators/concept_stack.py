"""Concepts of many exemplars as one array each: what `ConceptSimulator` predicts, for many explanations in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.autointerp.explanation import Failure, says_nothing
from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.lexical import mask_of
from vlm_neurons.concepts.naming import Alternative, named
from vlm_neurons.concepts.visual import Maps, visual_bank

if TYPE_CHECKING:
    from vlm_neurons.autointerp.protocols import Side
    from vlm_neurons.evidence import Seen

Flat = Float[np.ndarray, "_place"]  # pictures and texts have other places


@dataclass
class Stack:
    """What some samples show and say. Places are all patches of all images, and all tokens of the responses.

    Attributes:
        samples: one after the other.
        side: which of both is predicted.
        truth: of scenes, use the ground truth too.
    """

    samples: Sequence[Seen]
    side: Side
    truth: bool
    _known: dict[Concept, Flat] = field(default_factory=dict)

    def __call__(self, explanation: str) -> Flat | None:
        """Predictions from 0 to 10 at all places; None where a sample has none."""
        found = self.predict(explanation)
        return None if isinstance(found, Failure) else found

    def predict(self, explanation: str) -> Flat | Failure:
        """The same, or why a sample has none."""
        if says_nothing(explanation):
            return np.zeros(self._ends[self.side][-1])
        what = named(explanation)
        if what.unknown:
            return Failure("vocabulary", f"the banks have no concept for: {', '.join(what.unknown)}")
        if not (what.regions if self.side == "picture" else what.words):
            shown = "images" if self.side == "picture" else "words"
            return Failure("vocabulary", f"it names nothing that {shown} could show")
        asked = {"picture": (what.regions, self._shares), "text": (what.words, self._masks)}
        try:
            found = {
                side: _any(alternatives, self._share(of, side))
                for side, (alternatives, of) in asked.items()
                if alternatives and (side == self.side or what.together)  # type: ignore[comparison-overlap]
            }
        except KeyError as error:
            return Failure("vocabulary", f"the pixels alone do not tell {error.args[0].name}")
        values = 10.0 * found[self.side]
        return values * self._both(found) if what.together else values

    def parts(self, values: Flat) -> list[Flat]:
        """Values at all places, cut into those of each sample."""
        ends = self._ends[self.side]
        return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _both(self, found: dict[str, Flat]) -> Flat:
        """1 at the places of samples that have both sides, else 0."""
        there = np.ones(len(self.samples), bool)
        for side in ("picture", "text"):
            if side not in found:
                return np.zeros(self._ends[self.side][-1])
            parts = np.split(found[side], self._ends[side][:-1])
            there &= [bool(part.max(initial=0) > 0) for part in parts]
        return np.repeat(there, np.diff(self._ends[self.side], prepend=0)).astype(float)

    @cached_property
    def _banks(self) -> list[tuple[Maps, ...]]:
        return [visual_bank(seen, self.truth) for seen in self.samples]

    @cached_property
    def _ends(self) -> dict[str, list[int]]:
        """Where the places of each sample end, by side; at least one number."""
        sizes = {
            "picture": [sum(b.shape[0] * b.shape[1] for b in s.boxes) for s in self.samples],
            "text": [len(s.response) for s in self.samples],
        }
        return {side: np.cumsum(own).tolist() or [0] for side, own in sizes.items()}

    def _share(self, of: Callable[[Concept], Flat], side: str) -> Callable[[Alternative], Flat]:
        def share(alternative: Alternative) -> Flat:
            return _all([of(c) for c in alternative.concepts], (self._ends[side][-1],))

        return share

    def _shares(self, concept: Concept) -> Flat:
        if concept not in self._known:
            maps = [one[concept].ravel() for bank in self._banks for one in bank]
            self._known[concept] = np.clip(np.concatenate(maps), 0, 1) if maps else np.zeros(0)
        return self._known[concept]

    def _masks(self, concept: Concept) -> Flat:
        if concept not in self._known:
            masks = [mask_of(concept, s.response) for s in self.samples]
            self._known[concept] = np.concatenate(masks).astype(float) if masks else np.zeros(0)
        return self._known[concept]


def _any(alternatives: Sequence[Alternative], share: Callable[[Alternative], np.ndarray]) -> np.ndarray:
    """Where one of some alternatives holds; the weighted mean of all where they are told to differ in strength."""
    parts = [1 - share(a) if a.negated else share(a) for a in alternatives]
    strengths = [a.strength for a in alternatives]
    if min(strengths) < max(strengths):
        return np.asarray(sum(s * part for s, part in zip(strengths, parts, strict=True)) / sum(strengths))
    return np.asarray(np.max(parts, axis=0)) if len(parts) > 1 else parts[0]


def _all(parts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Where all hold; everywhere if there is nothing that has to."""
    if len(parts) == 1:
        return parts[0]
    return np.asarray(np.min(parts, axis=0)) if parts else np.ones(shape)

"""What is edited, and the inputs that this makes: each once, whoever asks for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from vlm_neurons.protocols import Side

Pair = tuple[int, int]  # numbers of two inputs
MISSING: Pair = (-1, -1)


class Row(NamedTuple):
    """One input of the model.

    Attributes:
        images: of the row.
        prompt: what is asked.
        response: None for a question about a picture alone.
    """

    images: Sequence[Image.Image]
    prompt: str
    response: str | None


@dataclass
class Inputs:
    """Inputs of one side, numbered; one that is asked for again has its old number. They are made when they are run.

    Attributes:
        made: of each a function that makes it.
    """

    made: list[Callable[[], Row]] = field(default_factory=list)
    _numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, key: Hashable, make: Callable[[], Row]) -> int:
        """The number of what has this key."""
        if key not in self._numbers:
            self._numbers[key] = len(self.made)
            self.made.append(make)
        return self._numbers[key]

    def fingerprint(self) -> str:
        """SHA-256 of what was asked for, in its order."""
        return hashlib.sha256(repr([*self._numbers]).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Wanted:
    """An edit that an explanation asks for; neurons whose explanations say the same share it.

    Attributes:
        side: what is edited.
        edit: `"repaint"`, `"reshape"`, `"resize"`, `"move"`, `"object"` (added, or removed); of texts `"replace"`, and
            `"word"` (inserted, or removed).
        named: what is named: alternatives, each (kind, value) pairs that hold together.
    """

    side: Side
    edit: str
    named: tuple[tuple[tuple[str, str], ...], ...]


class Trial(NamedTuple):
    """One sample with what is named, and without, and otherwise the same.

    Attributes:
        sample: id in the data.
        present: with it.
        absent: without it.
        brought: whether the edit brought it, rather than took it away.
        others: changes of something else, by name: before and after.
        control: the same edit where nothing is named, neither before nor after.
        again: `present`, encoded anew.
    """

    sample: int
    present: int
    absent: int
    brought: bool
    others: dict[str, Pair]
    control: Pair
    again: int


@dataclass(frozen=True, eq=False)
class Sheet:
    """All trials of one edit, as numbers of inputs; -1 where there is none.

    Attributes:
        sample: id in the data.
        others: names of what else is changed.
        left_out: samples that the edit cannot be made in.
        unchanged: samples that it would leave as they are.
    """

    sample: Int[np.ndarray, " trial"]
    present: Int[np.ndarray, " trial"]
    absent: Int[np.ndarray, " trial"]
    brought: Bool[np.ndarray, " trial"]
    others: tuple[str, ...]
    other: Int[np.ndarray, "other trial 2"]
    control: Int[np.ndarray, "trial 2"]
    again: Int[np.ndarray, " trial"]
    left_out: int
    unchanged: int

    @classmethod
    def of(cls, trials: Sequence[Trial], n_samples: int) -> Sheet:
        """Of the trials that `n_samples` samples gave; those whose edit changes nothing are counted, not kept."""
        kept = [t for t in trials if t.present != t.absent]
        names = tuple(sorted({name for t in kept for name in t.others}))
        other = [[t.others.get(name, MISSING) for t in kept] for name in names]
        return cls(
            np.array([t.sample for t in kept], int), np.array([t.present for t in kept], int),
            np.array([t.absent for t in kept], int),
            np.array([t.brought for t in kept], bool), names,
            np.array(other, int).reshape(len(names), len(kept), 2),
            np.array([t.control for t in kept], int).reshape(-1, 2), np.array([t.again for t in kept], int),
            n_samples - len(trials), len(trials) - len(kept),
        )  # fmt: skip

"""What is edited, and the inputs that this makes: each once, whoever asks for it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from vlm_neurons._files import readable, write_atomic
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
        folder: where pictures are kept that are slow to make, or are another one every time; None: for this call.
    """

    made: list[Callable[[], Row]] = field(default_factory=list)
    folder: Path | None = None
    _numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, key: Hashable, make: Callable[[], Row]) -> int:
        """The number of what has this key."""
        if key not in self._numbers:
            self._numbers[key] = len(self.made)
            self.made.append(make)
        return self._numbers[key]

    def kept(self, key: Hashable, draw: Callable[[], Image.Image]) -> Image.Image:
        """A picture by what decides it: read if it was made before, with the same bytes.

        Raises:
            ValueError: the file is damaged.
        """
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="vlm_neurons-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        file = self.folder / f"{hashlib.sha256(repr(key).encode('utf-8', 'surrogatepass')).hexdigest()}.png"
        if not file.is_file():
            image = draw().convert("RGB")
            write_atomic(file, lambda path: Image.frombytes("RGB", image.size, image.tobytes()).save(path, "PNG"))
            return image
        with readable(file, "the same call"), Image.open(file) as opened:
            return opened.convert("RGB")

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

    def changed(self, digests: Int[np.ndarray, " input"]) -> Sheet:
        """Without the trials that an edit left as they were: they are counted."""
        kept = digests[self.present] != digests[self.absent]
        return replace(
            self, sample=self.sample[kept], present=self.present[kept], absent=self.absent[kept],
            brought=self.brought[kept], other=self.other[:, kept], control=self.control[kept], again=self.again[kept],
            unchanged=self.unchanged + int((~kept).sum()),
        )  # fmt: skip


def digest_of(row: Row) -> int:
    """Of all that the model is given."""
    total = hashlib.sha256(repr((row.prompt, row.response)).encode("utf-8", "surrogatepass"))
    for image in row.images:
        total.update(f"{image.mode}{image.size}".encode() + image.tobytes())
    return int.from_bytes(total.digest()[:8], "little", signed=True)

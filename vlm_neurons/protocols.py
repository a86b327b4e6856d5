"""What parts that can be exchanged have to do. Subclass a protocol: what has a body here is its default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

if TYPE_CHECKING:
    from PIL import Image
    from torch import device

Side = Literal["picture", "text"]
SIDES: tuple[Side, ...] = ("picture", "text")


@dataclass(frozen=True, order=True)
class Concept:
    """One concept of a bank: `kind` and `value` say which, for programs; `phrase` says it to people.

    Attributes:
        kind: `"color"`, `"shape"`, `"size"`, `"place"`, `"brightness"`, `"texture"`, `"edge"`, `"position"`,
            `"object"`; of words `"word"`, `"class"`, `"punctuation"`, `"position"`, `"after"`, `"before"`, `"capital"`;
            or a kind of your own.
        value: which one, such as `"red"`.
        phrase: in words, such as `"red regions"`; the name if not given.
        generic: whether it holds so widely (brightness, positions, punctuation) that to answer to it says little.
    """

    kind: str
    value: str
    phrase: str = field(default="", compare=False, repr=False)
    generic: bool = field(default=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """`"color:red"`."""
        return f"{self.kind}:{self.value}"


@dataclass(frozen=True, eq=False)
class View:
    """What a bank is told of one sample: what the model was shown, and how that lies in what was given.

    Patches of one image are in the order of its visual tokens; they need not form a grid.

    Attributes:
        name: of the sample.
        images: as the model saw them: resized and cropped.
        boxes: of each image, pixels (left, top, right, bottom) of every patch in it.
        cells: of each image, row, column and tile of every patch (tile -1: the image as a whole).
        grids: of each image, rows and columns that those count in.
        originals: the images as given, upright, in RGB.
        original_boxes: pixels of every patch in the original.
        paths: file of every image; None for one in memory.
        digests: SHA-256 of the pixels of every original.
        tokens: tokens of the response as they read, blanks included.
        truth: (kind, word) -> [rows, columns], where the data set knows; see `vlm_neurons.Sample`.
    """

    name: str
    images: tuple[Image.Image, ...]
    boxes: tuple[Float[np.ndarray, "_patch 4"], ...]
    cells: tuple[Int[np.ndarray, "_patch 3"], ...]
    grids: tuple[tuple[int, int], ...]
    originals: tuple[Image.Image, ...]
    original_boxes: tuple[Float[np.ndarray, "_patch 4"], ...]
    paths: tuple[str | None, ...]
    digests: tuple[str, ...]
    tokens: tuple[str, ...]
    truth: Any = None

    @property
    def n_patches(self) -> int:
        """Patches of all images."""
        return sum(map(len, self.boxes))


class Maps(NamedTuple):
    """How much of every concept each place of one sample has; NaN where nobody knows. An array of any real dtype.

    Attributes:
        picture: of every patch of every image, one image after the other, concepts in the order of the bank.
        text: of every token of the response.
    """

    picture: Shaped[np.ndarray, "patch concept"]
    text: Shaped[np.ndarray, "token concept2"]


@runtime_checkable
class ConceptBank(Protocol):
    """Concepts, and where a sample has them.

    Attributes:
        name: short, such as `"pixels"`; without "+".
        on_device: whether the bank is a model, that is asked for a batch at a time by the process that scans.
    """

    name: str
    on_device: bool = False

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """The concepts of one side, each once; the same, in the same order, at every call. A bank may have none."""
        ...

    def identity(self) -> dict[str, Any]:
        """All that decides what `maps` gives: vocabulary, digests of weights and files, version of the code, sizes. As
        JSON can hold it. A run goes on only with the same."""
        ...

    def maps(self, view: View) -> Maps:
        """Where one sample has the concepts.

        It depends on the view and on `identity()` alone. It is called in loader threads and processes: it changes
        nothing that others see. A concept that the sample is not annotated for is NaN at all of its places, and left
        out of what the scan sums up; 0 says that the concept is not there.
        """
        ...

    def maps_of_batch(self, views: Sequence[View], device: device | str) -> list[Maps]:
        """`maps` of several samples; called instead of it where the bank is a model (`on_device`)."""
        return [self.maps(view) for view in views]

    def fitted(self, responses: Iterable[str]) -> ConceptBank:
        """The bank with what it takes from the data, such as a vocabulary; called once, before a scan, with the text
        of every response. By default the bank as it is."""
        return self

    def remark(self, model: Any) -> str:
        """What a reader of the results has to know of this bank beside this model, in a sentence; empty by default."""
        return ""

    def __add__(self, other: ConceptBank) -> ConceptBank:
        """Both banks as one. A concept that both have is the latter's."""
        return Joined((*_parts(self), *_parts(other)))


def _parts(bank: ConceptBank) -> tuple[ConceptBank, ...]:
    return bank.banks if isinstance(bank, Joined) else (bank,)


@dataclass(frozen=True)
class Joined(ConceptBank):
    """Several banks as one; made by `+`.

    Attributes:
        banks: each of them.
    """

    banks: tuple[ConceptBank, ...]
    _known: dict[Side, list[list[int]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Names of the banks, joined by "+"."""
        return "+".join(bank.name for bank in self.banks)

    @property
    def on_device(self) -> bool:  # type: ignore[override]
        """Whether one of them is a model."""
        return any(bank.on_device for bank in self.banks)

    def _kept(self, side: Side) -> list[list[int]]:
        """Of each bank, which of its concepts no later bank has; asked for at every sample."""
        if side in self._known:
            return self._known[side]
        kept: list[list[int]] = []
        later: set[Concept] = set()
        for bank in reversed(self.banks):
            own = bank.concepts(side)
            kept.append([i for i, concept in enumerate(own) if concept not in later])
            later |= {*own}
        self._known[side] = kept[::-1]
        return self._known[side]

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """Of all banks, one bank after the other."""
        each = [bank.concepts(side) for bank in self.banks]  # once: a bank makes them anew
        return tuple(own[i] for own, kept in zip(each, self._kept(side), strict=True) for i in kept)

    def identity(self) -> dict[str, Any]:
        """That of each, in order."""
        return {"banks": [{"name": bank.name, **bank.identity()} for bank in self.banks]}

    def maps(self, view: View) -> Maps:
        """Maps of all banks side by side."""
        return self._beside([bank.maps(view) for bank in self.banks])

    def maps_of_batch(self, views: Sequence[View], device: device | str) -> list[Maps]:
        """Maps of all banks side by side, of several samples."""
        each = [bank.maps_of_batch(views, device) for bank in self.banks]
        return [self._beside(maps) for maps in zip(*each, strict=True)]

    def _beside(self, each: Sequence[Maps]) -> Maps:
        def beside(side: Side) -> np.ndarray:
            arrays = [getattr(maps, side) for maps in each]
            kept = self._kept(side)
            return np.concatenate([a[:, k] for a, k in zip(arrays, kept, strict=True)], 1)

        return Maps(beside("picture"), beside("text"))

    def fitted(self, responses: Iterable[str]) -> ConceptBank:
        """With what each takes from the data."""
        texts = list(responses)
        return Joined(tuple(bank.fitted(texts) for bank in self.banks))

    def remark(self, model: Any) -> str:
        """What each has to say."""
        return " ".join(filter(None, (bank.remark(model) for bank in self.banks)))

"""Banks that need no model and no files: what pixels say, what words say, and what a data set knows."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from vlm_neurons._checks import whole
from vlm_neurons.concepts.concept import phrase
from vlm_neurons.concepts.lexical import MIN_TEXTS, Key, keys_of, pieces_of, vocabulary, words_for
from vlm_neurons.concepts.shown import pictures_of
from vlm_neurons.concepts.visual import PIXEL_CONCEPTS, pixel_shares
from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View
from vlm_neurons.synthetic.dataset import truth_of
from vlm_neurons.synthetic.scene import draw_scene

# Kinds, or names, of concepts that hold so widely that half of all neurons answer to them a little.
GENERIC = ("object", "edge", "texture", "brightness", "position", "punctuation", "class", "color:black", "color:white",
           "color:gray", "color:brown")  # fmt: skip


def labelled(concept: Concept, words: str, generic: Collection[str]) -> Concept:
    """The concept with its phrase, and whether its kind or name is among the generic ones."""
    return replace(concept, phrase=words, generic=concept.kind in generic or concept.name in generic)


def digest(value: Any) -> str:
    """Of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def no_text(view: View) -> np.ndarray:
    """Maps of the text side of a bank without words."""
    return np.zeros((len(view.tokens), 0), bool)


@dataclass(frozen=True)
class Pixels(ConceptBank):
    """What pixels alone say of every patch: colour names, bright and dark, textured and smooth, edges and their
    directions, regions unlike the picture's border (objects, and where they are), positions. Shares of the patch, from
    0 to 1; positions are 0 or 1.

    The rules are those that the dissection explainer uses; it takes about 10 ms for a picture of 336 x 336.

    Attributes:
        generic: kinds of concepts, or names of single ones, that are said to be generic.

    >>> bank = vn.concepts.Pixels()
    >>> [c.phrase for c in bank.concepts("picture")][:2], [c.name for c in bank.concepts("picture") if c.generic][:2]
    (['red regions', 'orange regions'], ['color:brown', 'color:white'])
    """

    generic: tuple[str, ...] = GENERIC
    name = "pixels"

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """Colours first; none of words."""
        return tuple(labelled(c, phrase([c]), self.generic) for c in PIXEL_CONCEPTS) if side == "picture" else ()

    def identity(self) -> dict[str, Any]:
        """The version of the rules."""
        return {"version": 1}

    def maps(self, view: View) -> Maps:
        """Shares of every patch."""
        found = np.zeros((view.n_patches, len(PIXEL_CONCEPTS)), np.float32)
        for shown in pictures_of(view):
            found[shown.where] = pixel_shares(np.asarray(shown.pixels), shown.boxes)
        return Maps(found, no_text(view))


@dataclass(frozen=True)
class Words(ConceptBank):
    """Which tokens of a response are a word, a mark, of a class of words, at the start, or beside a word; 0 or 1.

    A word of several tokens has its concepts at all of them. The vocabulary is taken from the responses, before the
    scan: words, marks and neighbours that are in at least two of them.

    Attributes:
        n_words: so many words, those in most responses first.
        n_neighbours: so many words and marks are `after` and `before` tried with, the most frequent ones.
        generic: kinds of concepts, or names of single ones, that are said to be generic.
        vocabulary: the concepts as (kind, value), once they are known.

    >>> bank = vn.concepts.Words(n_words=1, n_neighbours=0).fitted(["a red dog", "the red cat"])
    >>> [c.phrase for c in bank.concepts("text")]
    ["the word 'red'", 'words for animals', 'articles', 'words for colors', 'the first word of a sentence', \
'the first word of the text']
    """

    n_words: int = 200
    n_neighbours: int = 50
    generic: tuple[str, ...] = GENERIC
    vocabulary: tuple[Key, ...] | None = field(default=None, repr=False)
    name = "words"

    def __post_init__(self) -> None:
        whole(1, n_words=self.n_words)
        whole(0, n_neighbours=self.n_neighbours)

    def fitted(self, responses: Iterable[str]) -> Words:
        """The bank with the vocabulary of these responses; as it is if it has one.

        Raises:
            ValueError: no two responses have a word in common.
        """
        if self.vocabulary is not None:
            return self
        read = [pieces_of([text])[0] for text in responses]
        words, near = vocabulary(read, self.n_words, self.n_neighbours)
        if not words:
            raise ValueError(
                f"no word is in two of {len(read)} responses: Words() has no vocabulary; give more responses, or leave "
                "Words() out"
            )
        counts = Counter(key for pieces in read for key in {key for _, key in keys_of(pieces, words, near)})
        order = {word: i for i, word in enumerate(dict.fromkeys([*words, *near]))}
        kinds = ("word", "class", "punctuation", "capital", "position", "after", "before")
        found = [key for key, n in counts.items() if n >= MIN_TEXTS]
        found.sort(key=lambda key: (kinds.index(key[0]), order.get(key[1], len(order)), key[1]))
        return replace(self, vocabulary=tuple(found))

    @property
    def _known(self) -> tuple[Key, ...]:
        if self.vocabulary is None:
            raise ValueError("Words() has no vocabulary yet: call .fitted(responses), as a scan does")
        return self.vocabulary

    @cached_property
    def _places(self) -> tuple[dict[Key, int], frozenset[str], frozenset[str]]:
        """Column of every concept; the words and the neighbours among them."""
        columns = {key: i for i, key in enumerate(self._known)}
        near = frozenset(value for kind, value in columns if kind in ("after", "before"))
        return columns, frozenset(value for kind, value in columns if kind == "word"), near

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """Words first; none of pictures.

        Raises:
            ValueError: there is no vocabulary yet.
        """
        known = () if side == "picture" else (Concept(*key) for key in self._known)
        return tuple(labelled(c, words_for(c), self.generic) for c in known)

    def identity(self) -> dict[str, Any]:
        """The version of the rules, and a digest of the vocabulary."""
        return {"version": 1, "concepts": len(self._known), "vocabulary": digest(self._known)}

    def maps(self, view: View) -> Maps:
        """Which tokens have which concepts."""
        columns, words, near = self._places
        pieces, home = pieces_of(view.tokens)
        found = np.zeros((len(pieces) + 1, len(columns)), bool)  # the last row is for tokens of no word
        for place, key in keys_of(pieces, words, near):
            if key in columns:
                found[place, columns[key]] = True
        return Maps(np.zeros((view.n_patches, 0), bool), found[np.array(home, int)])


@dataclass(frozen=True)
class Truth(ConceptBank):
    """What the data set knows of its pictures: of scenes the colour, shape, size and place of every object, as shares
    of patches. A sample of which the data knows nothing is unannotated.

    Attributes:
        keys: (kind, word) of every concept; None: those of `vn.scenes`.
        generic: kinds of concepts, or names of single ones, that are said to be generic.

    >>> [c.phrase for c in vn.concepts.Truth([("color", "red"), ("shape", "ring")]).concepts("picture")]
    ['red regions', 'rings']
    """

    keys: Sequence[Key] | None = None
    generic: tuple[str, ...] = GENERIC
    name = "truth"

    @cached_property
    def _keys(self) -> tuple[Key, ...]:
        given = truth_of(draw_scene(0, 0)) if self.keys is None else self.keys
        return tuple(dict.fromkeys((str(kind), str(word)) for kind, word in given))

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """In the order of the keys; none of words."""
        known = [Concept(*key) for key in self._keys] if side == "picture" else []
        return tuple(labelled(c, phrase([c]), self.generic) for c in known)

    def identity(self) -> dict[str, Any]:
        """The keys; what is true of the samples is part of the data."""
        return {"version": 1, "keys": [list(key) for key in self._keys]}

    def maps(self, view: View) -> Maps:
        """What is known of every patch.

        Raises:
            ValueError: the data knows other concepts, or other patches than the model's, or one truth for two pictures.
        """
        found = np.full((view.n_patches, len(self._keys)), np.nan, np.float32)
        known = (view.truth() if callable(view.truth) else view.truth) or {}
        if not known or not view.n_patches:
            return Maps(found, no_text(view))
        if not known.keys() & {*self._keys}:
            raise ValueError(f"{view.name}: the data knows {sorted(known)[:5]} ...; name those: Truth(keys=[...])")
        shapes = {shares.shape for shares in known.values()}
        if len(view.images) != 1 or shapes != {view.grids[0]} or len({*view.cells[0][:, 2].tolist()}) != 1:
            raise ValueError(
                f"{view.name}: the truth is of one picture of {' or '.join(' x '.join(map(str, s)) for s in shapes)} "
                f"patches, the model has {', '.join(' x '.join(map(str, g)) for g in view.grids)}: take a model with "
                "the data's patches, or leave Truth() out"
            )
        rows, columns, _ = view.cells[0].T
        for i, key in enumerate(self._keys):
            if key in known:
                found[:, i] = known[key][rows, columns]
        return Maps(found, no_text(view))

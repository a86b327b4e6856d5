"""Texts: a word replaced by one of its class and length, removed, or inserted; the rest of the sentence stays."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vlm_neurons.concepts.lexical import CLASSES
from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData, Sample
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Pair, Row, Trial, Wanted
from vlm_neurons.synthetic.language import WORD_CLASSES
from vlm_neurons.synthetic.scene import COLUMNS, ROWS

_WORD = re.compile(r"\w+(?:['’]\w+)*")
# words of scenes, closer than those of the lexical bank: a row in the place of a column makes no sentence
SCENE_WORDS = {k: v for k, v in WORD_CLASSES.items() if k != "place"} | {"row": ROWS, "column": COLUMNS}


@dataclass(frozen=True)
class Vocabulary:
    """Words that can take each other's place.

    Attributes:
        class_of: word, in small letters -> its class; "" for one of none.
        length_of: word -> tokens and characters.
    """

    class_of: dict[str, str]
    length_of: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, texts: Iterable[str], more: Iterable[str], tokenizer: Any, rendered: bool) -> Vocabulary:
        """The words of texts, and more.

        Args:
            texts: of the data.
            more: what explanations name.
            tokenizer: that counts tokens.
            rendered: the texts are of scenes.
        """
        known = SCENE_WORDS if rendered else CLASSES
        classes = {word: name for name, members in known.items() for word in members}
        words = Counter(word.lower() for text in texts for word in set(_WORD.findall(text)))
        every = sorted({w for w in words if not w[0].isdigit()} | {w.lower() for w in more})
        lengths = {w: (len(tokenizer(f" {w}", add_special_tokens=False)["input_ids"]), len(w)) for w in every}
        return cls({w: classes.get(w, "") for w in every}, lengths)

    @cached_property
    def by_class(self) -> dict[str, list[str]]:
        """The words of every class."""
        found: dict[str, list[str]] = {}
        for word, name in self.class_of.items():
            found.setdefault(name, []).append(word)
        return found

    def like(self, word: str, but: frozenset[str], rng: np.random.Generator) -> str | None:
        """A word of the same class and as nearly as possible the same length, none of `but`; of another class where
        that has no other; None if there is none at all."""
        tokens, characters = self.length_of[word]
        own = self.by_class[self.class_of[word]]
        others = next(
            (kept for pool in (own, self.class_of) if (kept := [w for w in pool if w not in {word, *but}])), []
        )
        if not others:
            return None
        away = [(abs(self.length_of[w][0] - tokens), abs(self.length_of[w][1] - characters) // 3) for w in others]
        return str(rng.choice([w for w, a in zip(others, away, strict=True) if a == min(away)]))


@dataclass(frozen=True)
class Text:
    """A sample's text, to be changed.

    Attributes:
        inputs: where texts get their numbers.
        sample: with its image, which stays.
        words: that can take each other's place.
        seed: of what is drawn.
    """

    inputs: Inputs
    sample: Sample
    words: Vocabulary
    seed: tuple[int, ...]

    def rng(self, name: str) -> np.random.Generator:
        """Draws that depend on seed, sample and name only."""
        return np.random.default_rng([*self.seed, zlib.crc32(name.encode())])

    def number(self, text: str, again: bool = False) -> int:
        """The number of the sample with this text."""

        def make() -> Row:
            return Row(self.sample.load_images(), self.sample.question(DEFAULT_PROMPT), text)

        return self.inputs.number((self.sample.id, text, again), make)

    def pair(self, before: str, after: str | None) -> Pair:
        """Numbers of two texts."""
        return MISSING if after is None else (self.number(before), self.number(after))

    def other_words(self, text: str, but: frozenset[str]) -> list[str]:
        """Words of a text that are in the vocabulary, none of `but`, each once."""
        for word in sorted(but, key=len, reverse=True):  # no part of `x-ray` is a word of its own
            text = standing(word).sub(" ", text)
        found = dict.fromkeys(w.lower() for w in _WORD.findall(text))
        return [w for w in found if w in self.words.class_of and w not in but]


def standing(word: str) -> re.Pattern[str]:
    """Finds a word, which may be several (`x-ray`), wherever it stands alone."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def replaced(text: str, word: str, new: str) -> str:
    """A word replaced wherever it stands, capitals kept; without `new`, it goes with the blank before it.

    >>> replaced("A red ring. The red one.", "red", "blue"), replaced("A red ring.", "a", "the")
    ('A blue ring. The blue one.', 'The red ring.')
    >>> replaced("A red ring.", "red", "")
    'A ring.'
    """
    if not new:
        return re.sub(rf"\s?{standing(word).pattern}", "", text, flags=re.IGNORECASE).strip()

    def put(match: re.Match[str]) -> str:
        return new.capitalize() if match[0][0].isupper() else new

    return standing(word).sub(put, text)


def natural(data: ImageTextData, samples: Sequence[int], inputs: Inputs, words: Vocabulary) -> list[int]:
    """Numbers of the texts as they are."""
    return [Text(inputs, data[i], words, ()).number(data[i].response or "") for i in samples]


def trials(
    data: ImageTextData, samples: Sequence[int], wanted: Wanted, inputs: Inputs, seed: int, words: Vocabulary
) -> list[Trial]:
    """One trial a sample, where it can be made."""
    named = [surface(kind, value) for one in wanted.named for kind, value in one]
    every = frozenset().union(*named)
    found = []
    for turn, i in enumerate(samples):
        text = Text(inputs, data[i], words, (seed, i))
        mine = sorted(w for w in named[turn % len(named)] if w in words.class_of)
        word = str(text.rng("named").choice(mine)) if mine else ""
        make = _replaced if wanted.edit == "replace" else _inserted
        one = make(text, data[i].response or "", word, every) if word else None
        if one is not None:
            found.append(one)
    return found


def surface(kind: str, value: str) -> frozenset[str]:
    """Words that a lexical concept names, in small letters; words beside a word are told by that word."""
    return CLASSES[value] if kind == "class" else frozenset({value.lower()})


def _there(text: str, every: frozenset[str]) -> list[str]:
    return sorted(word for word in every if standing(word).search(text))


def _replaced(text: Text, said: str, word: str, every: frozenset[str]) -> Trial | None:
    """The named word in the place of one of its class, or the other way round."""
    there, rng = _there(said, every), text.rng("replace")
    if there:
        present, absent, new = said, said, ""
        for one in there:
            mate = text.words.like(one, every, rng) if one in text.words.class_of else None
            if mate is None:
                return None
            absent, word, new = replaced(absent, one, mate), one, mate
    else:
        found = text.other_words(said, every)
        named = {text.words.class_of[w] for w in every if w in text.words.class_of}
        mates = [w for w in found if text.words.class_of[w] in named] or found
        if not mates:
            return None
        new = str(rng.choice(mates))
        present, absent = replaced(said, new, word), said
    third = text.words.like(new, every | {word}, rng)
    control = text.pair(absent, None if third is None else replaced(absent, new, third))
    others = _others(text, present, every | {word, new}, text.words.class_of[word])
    return _trial(text, present, absent, not there, others, control)


def _others(text: Text, present: str, but: frozenset[str], own: str) -> dict[str, Pair]:
    """Of every other class one word replaced by another of its class."""
    found = {}
    words = text.other_words(present, but)
    for name in sorted({text.words.class_of[w] for w in words} - {own}):
        rng = text.rng(f"class {name}")
        word = str(rng.choice([w for w in words if text.words.class_of[w] == name]))
        new = text.words.like(word, but, rng)
        if new is not None:
            found[f"words: {name}" if name else "other words"] = text.pair(present, replaced(present, word, new))
    return found


def _inserted(text: Text, said: str, word: str, every: frozenset[str]) -> Trial | None:
    """The named word inserted, or removed; and another word of its class, inserted in the same place."""
    there, rng = _there(said, every), text.rng("insert")
    if there:
        present, absent = said, said
        for one in there:
            absent, word = replaced(absent, one, ""), one
        if not absent or word not in text.words.class_of:
            return None
    else:
        gaps = [m.start() for m in re.finditer(r" (?=\w)", said)]
        if not gaps:
            return None
        gap = int(rng.choice(gaps))
        present, absent = f"{said[:gap]} {word}{said[gap:]}", said
    unnamed = text.words.like(word, every, rng)
    swapped = present
    for one in there or [word]:
        swapped = swapped if unnamed is None else replaced(swapped, one, unnamed)
    control = MISSING if unnamed is None else text.pair(absent, swapped)
    others = {} if control == MISSING else {"another word": control}
    return _trial(text, present, absent, not there, others, control)


def _trial(text: Text, present: str, absent: str, brought: bool, others: dict[str, Pair], control: Pair) -> Trial:
    numbers = text.number(present), text.number(absent)
    return Trial(text.sample.id, *numbers, brought, others, control, text.number(present, again=True))

"""Rules of planted neurons, with explanations that are true, nearly true, too broad, too narrow and wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.lexical import CLASSES, words_for
from vlm_neurons.synthetic.scene import COLORS, COLUMNS, ROWS, SHAPES, SIZES

KINDS = ("color", "shape", "size", "position", "conjunction", "word", "word_class", "context", "picture_or_word",
         "picture_and_word", "polysemantic", "sign_flipped", "outside", "noise")  # fmt: skip
# a part of each class of the lexical bank: the bank knows more words than occur, and some of these are in two classes
WORDS: dict[str, frozenset[str]] = {
    "animals": frozenset({"dog", "cat", "horse", "cow", "sheep", "bird", "elephant", "giraffe"}),
    "vehicles": frozenset({"train", "car", "bus", "truck", "bicycle", "boat", "airplane"}),
    "food": frozenset({"cake", "pizza", "bread", "apple", "sandwich", "soup"}),
    "people": frozenset({"man", "woman", "boy", "girl", "child", "player"}),
    "clothes": frozenset({"shirt", "hat", "jacket", "dress", "helmet", "scarf"}),
    "furniture": frozenset({"table", "chair", "bed", "sofa", "bench", "desk"}),
    "colors": frozenset({"red", "blue", "green", "yellow", "white", "black"}),
    "numbers": frozenset({"two", "three", "four", "five", "several", "many"}),
    "sizes": frozenset({"small", "large", "big", "tall", "tiny"}),
}
OUTSIDE: dict[str, frozenset[str]] = {  # classes that the lexical bank does not have
    "weather": frozenset({"rain", "snow", "wind", "fog", "sunshine", "storm"}),
    "music": frozenset({"guitar", "piano", "violin", "drums", "song", "trumpet"}),
    "buildings": frozenset({"house", "tower", "church", "bridge", "castle", "barn"}),
}
_TEMPLATES = (
    "The {sizes} {animals} and a {people} with a {colors} {clothes} wait near the {buildings}.",
    "A {people} rides the {colors} {vehicles}, and {numbers} {animals}s walk behind it.",
    "There is {food} on the {sizes} {furniture}, with a {music} beside it.",
    "In the {weather}, a {vehicles} passes the {buildings} and the {people} waves.",
    "{Numbers} {people}s sit on a {furniture} with {food}.",
    "The {colors} {clothes} of the {people} is on the {furniture}.",
    "A {animals} looks at the {food}, but the {people} with the {music} laughs.",
    "The {weather} stops, and the {sizes} {vehicles} leaves.",
)
_SLOT = re.compile(r"\{(\w+)\}")
_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")
EXPLANATIONS = ("true", "near_miss", "too_broad", "too_narrow", "wrong")


@dataclass(frozen=True)
class Rule:
    """When a planted neuron is active.

    Attributes:
        kind: one of `KINDS`.
        visual: at patches where any of these alternatives holds; of each, all concepts have to hold.
        text: at tokens that have any of these.
        mode: `"or"` where either side does on its own; `"and"` where a sample has to have both.
        sign: -1 for a neuron that is active everywhere but there.
        explanations: by name, see `EXPLANATIONS`; `""` for the true explanation of noise.
    """

    kind: str
    visual: tuple[tuple[Concept, ...], ...] = ()
    text: tuple[Concept, ...] = ()
    mode: str = "or"
    sign: int = 1
    explanations: dict[str, str] = field(default_factory=dict)

    @property
    def concepts(self) -> frozenset[str]:
        """Names of all its concepts."""
        return frozenset(c.name for c in (*(c for a in self.visual for c in a), *self.text))


def draw_rule(kind: str, rng: np.random.Generator) -> Rule:
    """A rule of one kind, drawn at random, with its explanations.

    Raises:
        ValueError: no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose from {', '.join(KINDS)}")
    c1, c2, c3 = (str(c) for c in rng.permutation(list(COLORS))[:3])
    s1, s2, _ = (str(s) for s in rng.permutation(SHAPES)[:3])
    color, other = Concept("color", c1), Concept("color", c2)
    shape = Concept("shape", s1)
    match kind:
        case "color":
            return _visual(kind, color, other, Concept("object", ""), (color, shape), Concept("shape", s2))
        case "shape":
            return _visual(kind, shape, Concept("shape", s2), Concept("object", ""), (color, shape), other)
        case "size":
            z1, z2 = (Concept("size", str(z)) for z in rng.permutation(list(SIZES)))
            return _visual(kind, z1, z2, Concept("object", ""), (z1, color), other)
        case "position":
            return _position(rng, color)
        case "conjunction":
            near = (color, Concept("shape", s2))
            narrow = (Concept("size", "small"), color, shape)
            return _visual(kind, (color, shape), near, color, narrow, (other, Concept("shape", s2)))
        case "word" | "word_class" | "context":
            return _text_rule(kind, rng)
        case "outside":
            name = str(rng.choice(list(OUTSIDE)))
            others = {"near_miss": "words for furniture", "too_broad": "nouns", "wrong": "punctuation"}
            narrow_one = sorted(OUTSIDE[name])[0]
            texts = {"true": f"words for {name}", "too_narrow": f"the word '{narrow_one}'", **others}
            return Rule(kind, text=(Concept("outside", name),), explanations=texts)
        case "picture_or_word" | "picture_and_word":
            return _both(kind, c1, c2, c3, s1)
        case "polysemantic":
            place = Concept("shape", s1)
            texts = _texts([color], [other], [Concept("object", "")], [color, place], [Concept("color", c3)])
            texts = {**texts, "true": f"{phrase([color])}; {phrase([place])}", "near_miss": phrase([color])}
            return Rule(kind, visual=((color,), (place,)), explanations=texts)
        case "sign_flipped":
            texts = _texts([color], [other], [Concept("object", "")], [color, shape], [shape])
            return Rule(kind, visual=((color,),), sign=-1,
                        explanations={k: f"anything but {v}" for k, v in texts.items()})  # fmt: skip
    return Rule("noise", explanations={"true": "", "near_miss": f"{c1} regions", "too_broad": "objects",
                                       "too_narrow": f"small {c1} {s1}s", "wrong": f"{c2} regions"})  # fmt: skip


def _listed(concepts: Any) -> list[Concept]:
    return [concepts] if isinstance(concepts, Concept) else list(concepts)


def _texts(*concepts: Sequence[Concept]) -> dict[str, str]:
    return {name: phrase(c) for name, c in zip(EXPLANATIONS, concepts, strict=True)}


def _visual(kind: str, true: Any, near: Any, broad: Any, narrow: Any, wrong: Any) -> Rule:
    listed = [_listed(c) for c in (true, near, broad, narrow, wrong)]
    return Rule(kind, visual=(tuple(listed[0]),), explanations=_texts(*listed))


def _position(rng: np.random.Generator, color: Concept) -> Rule:
    """A third of the picture, or objects at one of nine places."""
    if rng.random() < 0.5:
        opposite = {"top": "bottom", "bottom": "top", "left side": "right side", "right side": "left side"}
        true = str(rng.choice(list(opposite)))
        texts = {"true": f"the {true} of the image", "near_miss": "the corners of the image",
                 "too_broad": "any part of the image",
                 "too_narrow": f"{color.value} regions at the {true} of the image",
                 "wrong": f"the {opposite[true]} of the image"}  # fmt: skip
        return Rule("position", visual=((Concept("position", true),),), explanations=texts)
    row, column = int(rng.integers(3)), int(rng.integers(3))
    here = Concept("place", f"{ROWS[row]} {COLUMNS[column]}")
    near = Concept("place", f"{ROWS[row]} {COLUMNS[(column + 1) % 3]}")
    far = Concept("place", f"{ROWS[(row + 1) % 3]} {COLUMNS[(column + 1) % 3]}")
    return _visual("position", here, near, Concept("object", ""), (color, here), far)


def _text_rule(kind: str, rng: np.random.Generator) -> Rule:
    classes = sorted(WORDS)
    first, second = (str(c) for c in rng.permutation(classes)[:2])
    word, sibling = (str(w) for w in rng.permutation(sorted(WORDS[first]))[:2])
    if kind == "word":
        true = Concept("word", word)
        where = "before 'sofa'" if first == "sizes" else "after 'the'"  # a size always comes after "the"
        narrow, wrong = f"the word '{word}' {where}", words_for(Concept("word", sorted(WORDS[second])[0]))
        near, broad = words_for(Concept("word", sibling)), words_for(Concept("class", first))
    elif kind == "word_class":
        true = Concept("class", first)
        assert WORDS[first] <= CLASSES[first]
        near, broad = words_for(Concept("class", second)), "all nouns and adjectives"
        narrow, wrong = words_for(Concept("word", word)), "punctuation"
    else:
        options = [Concept("after", "the"), Concept("after", "a"), Concept("after", "with"), Concept("after", "and"),
                   Concept("position", "first word of a sentence"), Concept("punctuation", "."),
                   Concept("punctuation", ","), Concept("before", "and"), Concept("before", "with")]  # fmt: skip
        true, next_ = (options[i] for i in rng.permutation(len(options))[:2])
        near, broad = words_for(next_), "all words"
        narrow, wrong = f"{words_for(true)} when a color follows", words_for(Concept("class", first))
    texts = dict(zip(EXPLANATIONS, (words_for(true), near, broad, narrow, wrong), strict=True))
    return Rule(kind, text=(true,), explanations=texts)


def _both(kind: str, c1: str, c2: str, c3: str, s1: str) -> Rule:
    joined = "; " if kind == "picture_or_word" else ", where the image shows them, and "

    def text(a: str, b: str) -> str:
        return f"{a} regions{joined}the word '{b}'"

    texts = {"true": text(c1, c1), "near_miss": text(c1, c2), "too_broad": "objects; words for colors",
             "too_narrow": f"{c1} {s1}s; the word '{c1}' before '{s1}'", "wrong": text(c2, c3)}  # fmt: skip
    mode = "or" if kind == "picture_or_word" else "and"
    return Rule(kind, ((Concept("color", c1),),), (Concept("word", c1),), mode, explanations=texts)


def sentences(rng: np.random.Generator, n: int = 3) -> str:
    """A few sentences, each from another template."""
    pools = {**WORDS, **OUTSIDE}

    def word(match: re.Match[str]) -> str:
        chosen = str(rng.choice(sorted(pools[match[1].lower()])))
        return chosen.capitalize() if match[1][0].isupper() else chosen

    picked = rng.permutation(len(_TEMPLATES))[:n]
    return " ".join(_SLOT.sub(word, _TEMPLATES[i]) for i in picked)


def tokens_of(text: str) -> tuple[str, ...]:
    """Words with the blanks before them; words of more than six letters in two pieces, as tokenizers cut them.

    >>> tokens_of("a red elephant.")
    ('a', ' red', ' elep', 'hant', '.')
    """
    found: list[str] = []
    for token in _TOKEN.findall(text):
        found += [token[:5], token[5:]] if len(token.strip()) > 6 else [token]
    return tuple(found)

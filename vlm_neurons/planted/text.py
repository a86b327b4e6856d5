"""Everyday sentences for planted text neurons, and how a text becomes tokens."""

from __future__ import annotations

import re

import numpy as np

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

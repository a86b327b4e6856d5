"""Whether an answer says what an explanation names."""

from __future__ import annotations

import re
from collections.abc import Collection

from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.lexical import CLASSES, words
from vlm_neurons.concepts.naming import TOGETHER, Alternative, named

OF_GRAMMAR = ("articles", "prepositions", "conjunctions", "pronouns", "forms of to be")
GRAMMAR = frozenset().union(*(CLASSES[name] for name in OF_GRAMMAR))
FILLERS = words(
    "region regions area areas patch patches part parts thing things image images picture pictures photo photos "
    "presence word words less strongly weakly"
)
SPOKEN = ("color", "shape", "size", "place", "brightness", "word")  # kinds of concepts whose name is what says them
Ways = tuple[tuple[frozenset[str], ...], ...]


def ways_to_say(explanation: str) -> Ways:
    """What an answer has to say: any of some alternatives; of each, a word of every group. Concepts that no single word
    says (edges, words before others, "anything but") are left out, and an alternative with one; of words that no bank
    has, all of a phrase count.

    >>> [[sorted(group) for group in one] for one in ways_to_say("red circles; the word 'pink'; edges")]
    [[['red', 'reds'], ['circle', 'circles']], [['pink', 'pinks']]]
    >>> [[sorted(group) for group in one] for one in ways_to_say("dogs in the snow")]
    [[['dog', 'dogs'], ['snow', 'snows']]]
    """
    if says_nothing(explanation):
        return ()
    found = []
    for part in explanation.replace(TOGETHER, ";").split(";"):
        read = named(part)
        if read.unknown:
            content = [w.lower() for w in re.findall(r"\w+", part) if w.lower() not in GRAMMAR | FILLERS]
            found.append(tuple(_forms(word) for word in content))
        else:
            found += [_groups(one) for one in (*read.visual, *read.text)]
    return tuple(dict.fromkeys(one for one in found if one))


def _groups(alternative: Alternative) -> tuple[frozenset[str], ...]:
    """Groups of words of an alternative; none where it cannot be said."""
    if alternative.negated or any(c.kind not in (*SPOKEN, "class") for c in alternative.concepts):
        return ()
    return tuple(group for c in alternative.concepts for group in _of_concept(c))


def _of_concept(concept: Concept) -> list[frozenset[str]]:
    if concept.kind == "class":
        return [CLASSES[concept.value]]
    return [_forms(word) for word in concept.value.lower().split()]


def _forms(word: str) -> frozenset[str]:
    """A word in the singular and the plural, as far as English spells it simply; where only a dictionary tells whether
    a plural is that of "horse" or of "box", both."""
    single = {word}
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        single = {word[:-1]}
        if len(word) > 4 and re.search(r"(s|x|z|ch|sh|o)es$", word):
            single.add(word[:-2])
        if re.search(r"..[^aeiou]ies$", word):
            single.add(word[:-3] + "y")
    return frozenset({word, *single, *(many for one in single for many in _plurals(one))})


def _plurals(word: str) -> tuple[str, ...]:
    """As far as English spells them simply.

    >>> [_plurals(word) for word in ("horse", "box", "baby", "day", "tomato")]
    [('horses',), ('boxes',), ('babies',), ('days',), ('tomatos', 'tomatoes')]
    """
    if re.search(r"[^aeiou]y$", word):
        return (word[:-1] + "ies",)
    if word.endswith("o"):
        return (word + "s", word + "es")
    return (word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s"),)


def says(said: Collection[str], ways: Ways) -> bool:
    """Whether words, in lower case, say one of the alternatives.

    >>> says({"a", "red", "circle"}, ways_to_say("red circles")), says({"red", "ring"}, ways_to_say("red circles"))
    (True, False)
    """
    return any(all(not group.isdisjoint(said) for group in one) for one in ways)

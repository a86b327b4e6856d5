"""On which samples an explanation foresees activity, so cheaply that hundreds can be asked before a few are simulated.

It decides where a score draws its samples from, not the score: what is foreseen wrongly costs precision, no truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool

from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.lexical import index_of
from vlm_neurons.concepts.naming import Alternative, Named, named
from vlm_neurons.concepts.visual import visual_bank

if TYPE_CHECKING:
    from vlm_neurons.autointerp.protocols import Side
    from vlm_neurons.evidence import Seen

COMMON = 4  # letters of the words that are too short to tell samples apart
SHARE = 0.2  # of a patch: the paper's threshold of visual activity, on the scale of a full one


def foreseen(text: str, samples: Sequence[Seen], sides: Sequence[Side]) -> Bool[np.ndarray, " sample"]:
    """Samples on which the words speak of something that is there, on one of the sides.

    By the concept banks; of words that they do not know, where the response has one of them.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> samples = [e.seen for e in made.split("test")]
    >>> bool(0 < sum(foreseen("cyan regions", samples, ["picture"])) < len(samples))
    True
    """
    if says_nothing(text):
        return np.zeros(len(samples), bool)
    what = named(text)
    said = frozenset(w for w in re.findall(r"\w+", text.lower()) if len(w) >= COMMON)
    return np.array([any(_speaks_of(what, said, seen, side) for side in sides) for seen in samples], bool)


def _speaks_of(what: Named, said: frozenset[str], seen: Seen, side: Side) -> bool:
    visual, lexical = what.regions, what.words
    named_here = visual if side == "picture" else lexical
    try:
        if what.unknown or not named_here:
            raise KeyError
        shown = not visual or (side == "text" and not what.together) or _any(visual, lambda c: _most(seen)[c] > SHARE)
        written = (
            not lexical or (side == "picture" and not what.together) or _any(lexical, _written(seen)[0].__contains__)
        )
    except KeyError:  # no bank knows the words, or the pixels alone do not tell what they name
        return not said.isdisjoint(_written(seen)[1])
    return shown and written


def _any(alternatives: Sequence[Alternative], there: Callable[[Concept], bool]) -> bool:
    return any(a.negated or all(there(c) for c in a.concepts) for a in alternatives)


def _most(seen: Seen) -> dict[Concept, float]:
    """Of every visual concept that is known of a sample, the largest share of a patch that has it."""
    if seen not in _MOST:
        found: dict[Concept, float] = {}
        for maps in visual_bank(seen):
            for concept, shares in maps.items():
                found[concept] = max(found.get(concept, 0.0), float(np.nanmax(shares, initial=0)))
        _MOST[seen] = found
    return _MOST[seen]


def _written(seen: Seen) -> tuple[frozenset[Concept], frozenset[str]]:
    """Lexical concepts that a response has, and its words."""
    if seen not in _WRITTEN:
        words = frozenset(re.findall(r"\w+", "".join(seen.response).lower()))
        _WRITTEN[seen] = frozenset(Concept(*key) for key in index_of(seen.response)[1]), words
    return _WRITTEN[seen]


# many neurons share their samples; what is known of one goes when it goes
_MOST: WeakKeyDictionary[Seen, dict[Concept, float]] = WeakKeyDictionary()
_WRITTEN: WeakKeyDictionary[Seen, tuple[frozenset[Concept], frozenset[str]]] = WeakKeyDictionary()

"""On which samples an explanation foresees activity, so cheaply that hundreds can be asked before a few are simulated.

It decides where a score draws its samples from, not the score: what is foreseen wrongly costs precision, no truth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Bool

from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.concepts.lexical import Key, index_of
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
    found = np.zeros(len(samples), bool)
    for side in sides:
        there, known = _spoken_of(what, samples, side)
        found |= there & known
        for i in np.flatnonzero(
            ~known
        ).tolist():  # no bank knows the words, or the pixels alone do not tell what they name
            found[i] |= not said.isdisjoint(_written(samples[i])[1])
    return found


def _spoken_of(
    what: Named, samples: Sequence[Seen], side: Side
) -> tuple[Bool[np.ndarray, " sample"], Bool[np.ndarray, " sample"]]:
    """Samples that have what is named, and those of which the banks can tell."""
    there, known = np.ones(len(samples), bool), np.ones(len(samples), bool)
    if what.unknown or not (what.regions if side == "picture" else what.words):
        return there, ~known
    if what.regions and (side == "picture" or what.together):
        every = [_most(seen) for seen in samples]
        shares = {key: np.array([most.get(key, np.nan) for most in every]) for a in what.regions for key in _keys(a)}
        for values in shares.values():
            known &= ~np.isnan(values)
        there &= _any(what.regions, {c: values > SHARE for c, values in shares.items()}, len(samples))
    if what.words and (side == "text" or what.together):
        written = [_written(seen)[0] for seen in samples]
        words = {key: np.array([key in own for own in written], bool) for a in what.words for key in _keys(a)}
        there &= _any(what.words, words, len(samples))
    return there, known


def _any(
    alternatives: Sequence[Alternative], there: Mapping[Key, Bool[np.ndarray, " sample"]], n: int
) -> Bool[np.ndarray, " sample"]:
    """Samples that one of some alternatives fits; all for what is negated, which nearly all samples have somewhere."""
    found = np.zeros(n, bool)
    for one in alternatives:
        fits = np.ones(n, bool)
        for key in () if one.negated else _keys(one):
            fits &= there[key]
        found |= fits
    return found


def _keys(one: Alternative) -> list[Key]:
    return [(c.kind, c.value) for c in one.concepts]


def _most(seen: Seen) -> dict[Key, float]:
    """Of every visual concept that is known of a sample, the largest share of a patch that has it."""
    found = _MOST.get(seen)
    if found is None:
        found = {}
        for maps in visual_bank(seen):
            values = np.array([*maps.values()]).reshape(len(maps), -1)
            for concept, share in zip(maps, np.nanmax(values, axis=1, initial=0).tolist(), strict=True):
                key = concept.kind, concept.value
                found[key] = max(found.get(key, 0.0), share)
        _MOST[seen] = found
    return found


def _written(seen: Seen) -> tuple[frozenset[Key], frozenset[str]]:
    """Lexical concepts that a response has, and its words."""
    found = _WRITTEN.get(seen)
    if found is None:
        words = frozenset(re.findall(r"\w+", "".join(seen.response).lower()))
        _WRITTEN[seen] = found = frozenset(index_of(seen.response)[2]), words
    return found


# many neurons share their samples; what is known of one goes when it goes
_MOST: WeakKeyDictionary[Seen, dict[Key, float]] = WeakKeyDictionary()
_WRITTEN: WeakKeyDictionary[Seen, tuple[frozenset[Key], frozenset[str]]] = WeakKeyDictionary()

"""Whether two explanations name the same: then one is no sham of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from vlm_neurons.interventions.edits.photographs import Boxes
from vlm_neurons.interventions.edits.pixels import Box
from vlm_neurons.interventions.edits.texts import surface
from vlm_neurons.interventions.edits.trials import Wanted


def shared(one: Wanted, other: Wanted, boxes: Mapping[str, Boxes]) -> bool:
    """Whether two edits of one kind are of the same thing: an attribute, a word, or regions that overlap in a sample.
    Any object (no attribute is named) is all objects.

    >>> red, colors = (Wanted("text", "word", ((pair,),)) for pair in (("word", "red"), ("class", "colors")))
    >>> shared(red, colors, {}), shared(red, Wanted("text", "word", ((("word", "dog"),),)), {})
    (True, False)
    """
    mine, its = ({pair for each in w.named for pair in each} for w in (one, other))
    if one.side == "text":
        return bool(_words(mine) & _words(its))
    if mine & its or () in one.named or () in other.named:
        return True
    here, there = ([boxes[value] for kind, value in pairs if kind == "region"] for pairs in (mine, its))
    return any(_overlap(a[i], b[i]) for a, b in product(here, there) for i in a.keys() & b.keys())


def _words(pairs: set[tuple[str, str]]) -> frozenset[str]:
    return frozenset().union(*(surface(*pair) for pair in pairs))


def _overlap(some: Sequence[Box], others: Sequence[Box]) -> bool:
    return any(a < r and left < c and b < s and top < d
               for (a, b, c, d), (left, top, r, s) in product(some, others))  # fmt: skip

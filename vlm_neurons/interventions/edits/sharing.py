"""Whether two explanations name the same: then one is no sham of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from vlm_neurons.interventions.edits.regions import Part, Regions
from vlm_neurons.interventions.edits.texts import surface
from vlm_neurons.interventions.edits.trials import Wanted


def shared(one: Wanted, other: Wanted, regions: Mapping[str, Regions]) -> bool:
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
    here, there = ([regions[value] for kind, value in pairs if kind == "region"] for pairs in (mine, its))
    return any(_overlap(a[i], b[i]) for a, b in product(here, there) for i in a.keys() & b.keys())


def _words(pairs: set[tuple[str, str]]) -> frozenset[str]:
    return frozenset().union(*(surface(*pair) for pair in pairs))


def _overlap(some: Sequence[Part], others: Sequence[Part]) -> bool:
    """Whether any boxes around parts do."""
    return any(
        a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
        for a, b in product(some, others)
    )

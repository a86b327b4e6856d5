"""Whether two explanations name the same: then one is no sham of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from vlm_neurons.interventions.edits.finding import pictured, plain
from vlm_neurons.interventions.edits.regions import Part, Regions, mask_of
from vlm_neurons.interventions.edits.texts import surface
from vlm_neurons.interventions.edits.trials import Wanted


def shared(
    one: Wanted, other: Wanted, regions: Mapping[str, Regions], texts_of: Mapping[str, str] | None = None
) -> bool:
    """Whether two edits of one kind are of the same thing: an attribute, a word, regions that overlap in a sample or
    whose words are the same, or prompts that are. Any object (no attribute is named) is all objects.

    Args:
        one: an edit.
        other: of the same kind.
        regions: of neurons.
        texts_of: words of neurons that have regions.

    >>> red, colors = (Wanted("text", "word", ((pair,),)) for pair in (("word", "red"), ("class", "colors")))
    >>> shared(red, colors, {}), shared(red, Wanted("text", "word", ((("word", "dog"),),)), {})
    (True, False)
    """
    mine, its = ({pair for each in w.named for pair in each} for w in (one, other))
    if one.side == "text":
        return bool(_words(mine) & _words(its))
    if mine & its or () in one.named or () in other.named:
        return True
    if any(
        f" {a} " in f" {b} " or f" {b} " in f" {a} " for a, b in product(*(_called(w, texts_of) for w in (mine, its)))
    ):
        return True
    here, there = ([regions[value] for kind, value in pairs if kind == "region"] for pairs in (mine, its))
    return any(_overlap(a[i], b[i]) for a, b in product(here, there) for i in a.keys() & b.keys())


def _words(pairs: set[tuple[str, str]]) -> frozenset[str]:
    return frozenset().union(*(surface(*pair) for pair in pairs))


def _called(pairs: set[tuple[str, str]], texts_of: Mapping[str, str] | None) -> set[str]:
    """What regions and prompts are called, however it is written."""
    told = [(texts_of or {}).get(value, "") if kind == "region" else value for kind, value in pairs
            if kind in ("region", "prompt")]  # fmt: skip
    return {plain(part) for text in told for part in (*pictured(text), text)} - {""}


def _overlap(some: Sequence[Part], others: Sequence[Part]) -> bool:
    """Whether any parts have a pixel in common."""
    return any(_touch(a, b) for a, b in product(some, others))


def _touch(a: Part, b: Part) -> bool:
    bottom, right = max(a.bottom, b.bottom), max(a.right, b.right)
    if not (a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom):
        return False  # what most are is told without unpacking them
    return bool((mask_of([a], bottom, right) & mask_of([b], bottom, right)).any())

"""Which samples become exemplars, and of which split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlm_neurons.evidence.exemplars import Exemplar, Split

# Interleaved by rank, as in openai/automated-interpretability: each split has strong and less strong samples. Of 50,
# 10 explain, 10 select and 30 test, so that with as many random ones a score rests on 60 images.
PATTERN: tuple[Split, ...] = ("explain", "test", "select", "test", "test")
QUANTILES = (0.9, 0.75, 0.5, 0.25)


def split_of(rank: int) -> Split:
    """Split of the exemplar with one rank among the top, or the random, ones.

    >>> [split_of(r) for r in range(6)]
    ['explain', 'test', 'select', 'test', 'test', 'explain']
    """
    return PATTERN[rank % len(PATTERN)]


def assign(top: Sequence[Exemplar], drawn: Sequence[Exemplar]) -> tuple[Exemplar, ...]:
    """Put exemplars into splits, disjoint by sample and by image.

    Args:
        top: the strongest, in order.
        drawn: a random draw, in its order. Its first ones, as many as there are top ones, are the random exemplars, so
            that each split is half top and half random; from the rest, samples at lower quantiles are taken, which go
            to `"explain"`.

    A sample whose sample id or image came before is left out.
    """
    taken: set[object] = set()

    def fresh(exemplars: Sequence[Exemplar]) -> list[Exemplar]:
        kept = []
        for e in exemplars:
            keys = {e.seen.sample, *e.seen.image_digests}
            if not keys & taken:
                taken.update(keys)
                kept.append(e)
        return kept

    strong = [replace(e, group="top", split=split_of(i), rank=i) for i, e in enumerate(fresh(top))]
    rest = fresh(drawn)
    other = [replace(e, group="random", split=split_of(i), rank=i) for i, e in enumerate(rest[: len(strong)])]
    ordered = sorted(rest[len(strong) :], key=lambda e: e.peak)
    places = dict.fromkeys(round(q * (len(ordered) - 1)) for q in QUANTILES) if ordered else {}
    lower = [replace(ordered[p], group="quantile", split="explain", rank=i) for i, p in enumerate(places)]
    return (*strong, *lower, *other)


def draw(n: int, size: int, seed: int) -> list[int]:
    """`size` different places below n in random order; the same arguments give the same, and a larger size only
    appends."""
    return np.random.default_rng([seed, 4]).permutation(n)[:size].tolist()

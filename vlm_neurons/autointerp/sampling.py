"""Which samples an explanation is tested on, and how many of the whole data each of them stands for.

Top and random samples alone do not see an explanation that is too broad: what it falsely speaks of is hardly ever among
them where concepts are rare (Oikarinen, Yan, Weng 2025, arXiv 2506.05774). So some are drawn from where it speaks.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from vlm_neurons.autointerp.foreseeing import foreseen
from vlm_neurons.autointerp.jobs import Explanations, text_of
from vlm_neurons.autointerp.protocols import sides_of
from vlm_neurons.autointerp.scorers.measures import ACTIVE
from vlm_neurons.evidence.exemplars import peaks_of

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar

LEAST = 2  # samples: a top one and another
LEAST_FORESEEN = 0.75  # of the samples beyond top and random ones
STRATA = ("rest", "active", "foreseen")
STRATA_IN_WORDS = {"top": "top samples", "rest": "samples without activity, where none is foreseen",
                   "active": "samples with activity that is not foreseen",
                   "foreseen": "samples where the explanation foresees activity"}  # fmt: skip


def drawn(explanations: Explanations, evidence: Mapping[str, Evidence], n_test: int | None) -> dict[str, Evidence]:
    """Evidence of explained neurons whose split `"test"` is what their explanation is tested on.

    A third top samples, a third random ones; the others, out of the rest of a random draw (the pool), mostly where the
    explanation foresees activity, some where there is activity that it does not foresee. Weights are those of a
    stratified estimate with the strata's sizes taken from the draw (Neyman 1938, double sampling; Horvitz, Thompson
    1952).

    Args:
        explanations: neuron -> explanation.
        evidence: of the same neurons; one that was drawn before stays.
        n_test: samples of each; as many as the split has if None.
    """
    return {key: _drawn(text_of(key, one), evidence[key], n_test) for key, one in explanations.items()}


def _drawn(text: str, evidence: Evidence, n_test: int | None) -> Evidence:
    test = evidence.split("test")
    if not test or any(e.stratum for e in test):
        return evidence
    n = max(LEAST, len(test) if n_test is None else n_test)
    tops = [e for e in test if e.group == "top"]
    rest = [*(e for e in test if e.group != "top"), *evidence.pool]  # a random draw, in its order
    kinds = _kinds(text, evidence, rest)
    third = max(1, n // 3)
    n_random = min(third, len(rest))
    chosen = _chosen(kinds, n_random, n - min(third, len(tops)) - n_random)
    strong = _spread(len(tops), n - len(chosen), evidence)
    n_tops = sum(e.group == "top" for e in evidence.exemplars)
    n_rest = np.nan if evidence.n_samples is None else evidence.n_samples - n_tops
    if (n_tops and not strong) or (n_rest and not chosen):
        n_rest = np.nan  # nothing speaks for a part of the data, so nothing for the whole
    found = [_marked(tops[i], "top", n_tops / len(strong) if n_rest == n_rest else np.nan) for i in strong]
    if chosen:
        kinds[~np.isin(kinds, kinds[chosen])] = kinds[chosen[0]]  # a stratum that nothing is drawn from joins another
        sizes = n_rest * np.bincount(kinds, minlength=3) / len(rest)
        counts = np.bincount(kinds[chosen], minlength=3)
        found += [_marked(rest[i], STRATA[kinds[i]], sizes[kinds[i]] / counts[kinds[i]]) for i in chosen]
    return replace(evidence, exemplars=(*(e for e in evidence.exemplars if e.split != "test"), *found), pool=())


def _marked(e: Exemplar, stratum: str, weight: float) -> Exemplar:
    return replace(e, stratum=stratum, weight=float(weight))


def _chosen(kinds: Int[np.ndarray, " rest"], n_random: int, n_more: int) -> list[int]:
    """Places of the first `n_random`, and of others by kind; what a kind does not have goes to the next."""
    chosen = list(range(n_random))
    left = range(n_random, len(kinds))
    foreseen, active = ([i for i in left if kinds[i] == kind] for kind in (2, 1))
    n_active = min(len(active), max(n_more - int(np.ceil(LEAST_FORESEEN * n_more)), n_more - len(foreseen)))
    more = [*foreseen[: max(0, n_more - n_active)], *active[: max(0, n_active)]]
    taken = set(more)
    more += [i for i in left if i not in taken][: max(0, n_more - len(more))]
    return [*chosen, *more]


def _spread(n: int, size: int, evidence: Evidence) -> list[int]:
    """`size` of n ranks, evenly, from a random start."""
    size = min(n, max(size, 0))
    start = np.random.default_rng([evidence.seed, 6, zlib.crc32(evidence.neuron.encode())]).random()
    return sorted({int((i + start) * n / size) for i in range(size)})


def _kinds(text: str, evidence: Evidence, rest: Sequence[Exemplar]) -> Int[np.ndarray, " rest"]:
    """0, or 1 where there is activity, or 2 where the explanation foresees it."""
    least = min(ACTIVE.values())
    active = evidence.scale(peaks_of(rest)) > least
    spoken_of = foreseen(text, [e.seen for e in rest], sides_of(evidence))
    return np.where(spoken_of, 2, active.astype(int))

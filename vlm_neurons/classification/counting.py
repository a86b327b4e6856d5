"""How many top samples of every neuron are of which class, under one rule of thresholds or many.

Samples lie in the first dimension and neurons in the second: sums over samples then run along the memory. What a
neuron's values have to reach is found once a threshold, so that they are compared, not normalised. And it is numpy that
counts, on one thread: the arrays of a layer are so small that threads cost more than they give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt

from vlm_neurons.classification.thresholds import SCALE, Thresholds
from vlm_neurons.tokens import MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    from vlm_neurons.scanning import Run, TopSamples

Exceeding = tuple[str, int, float]  # the n-th largest value at tokens of a kind exceeds a threshold
Seen = Bool[np.ndarray, "some *scale d"]
Counts = UInt[np.ndarray, "*scale d"]
Values = Float[np.ndarray, "top_n d"]
_AT_ONCE = 256  # neurons whose values are turned: they stay in a cache meanwhile
_BYTES = 3 * 2**18  # of comparisons at a time
_OPEN = 8  # columns that a file is opened for: that takes half a millisecond, and what was read stays while it is open


def each_state(
    run: Run, columns: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], TopSamples, np.ndarray | slice]]:
    """Some columns of a finished run, each with what `run.states` says of it."""
    for start in range(0, len(columns), _OPEN):
        with run.open_result() as file:
            for column in columns[start : start + _OPEN]:
                yield column, *run.states(column["hook"], column["pole"], file)


@dataclass(eq=False)
class Counter:
    """Counts classes of the top samples of one tensor; what several rules have in common is done once.

    Attributes:
        state: the samples.
        peak: the activation that is mapped to 10, or several such scales; by default the largest at visual and text
            tokens.

    >>> from vlm_neurons.classification.counting import Counter
    >>> Counter(run.top("blocks.2.mlp.hook_act")).counts([vn.classification.Thresholds()])[0, :, 304].tolist()
    [9, 0, 0, 1]
    """

    state: TopSamples
    peak: Tensor | None = None
    _values: dict[tuple[str, int], Values] = field(default_factory=dict)

    def by(self, peak: Float[Tensor, "*scale d"]) -> Counter:
        """The same samples on other scales."""
        other = Counter(self.state, peak, self._values)
        other.n_samples, other._all_there = self.n_samples, self._all_there
        return other

    def counts(self, rules: Sequence[Thresholds]) -> UInt[np.ndarray, "rule 4 *scale d"]:
        """How many are of each class, in the order of `Modality`; with several scales those of each."""
        pairs = [(("visual", r.n_visual, float(r.t_visual)), ("text", r.n_text, float(r.t_text))) for r in rules]
        n = self._n_where(pairs)
        found = np.empty((len(rules), 4, *self._scale.shape), _narrow(self.state.sample_ids.shape[1]))
        for own, (sees, reads) in zip(found, pairs, strict=True):
            own[2] = n[sees, reads]
            np.subtract(n[sees,], own[2], out=own[0])
            np.subtract(n[reads,], own[2], out=own[1])
            np.subtract(self.n_samples - n[sees,], own[1], out=own[3])
        return found

    def _n_where(self, pairs: Sequence[tuple[Exceeding, Exceeding]]) -> dict[tuple[Exceeding, ...], Counts]:
        """In how many samples one exceeds its threshold, or both of a pair; some samples at a time, which stay in a
        cache."""
        every = [*dict.fromkeys((one,) for pair in pairs for one in pair), *dict.fromkeys(pairs)]
        least = {t: least_exceeding(self._scale, t) for ((*_, t), *_) in every}
        top_n, one_each = self.state.sample_ids.shape[1], (slice(None), *[None] * (self._scale.ndim - 1))
        size = min(top_n, max(1, _BYTES // max(1, self._scale.size)))
        room = np.empty((size, *self._scale.shape), bool)  # new memory costs more than counting
        found = {what: np.zeros(self._scale.shape, _narrow(top_n)) for what in every}
        for start in range(0, top_n, size):
            there: dict[Exceeding, Seen] = {}
            for what in every:
                if len(what) == 1:
                    kind, n, t = what[0]
                    there[what[0]] = own = self.values(kind, n)[start : start + size][one_each] >= least[t]
                else:
                    own = np.logical_and(there[what[0]], there[what[1]], out=room[: min(size, top_n - start)])
                found[what] += _sum(own)
        return found

    @cached_property
    def n_samples(self) -> Counts:
        """How many there are."""
        d, n = self.state.sample_ids.shape
        if self._all_there:
            return np.full(d, n, _narrow(n))
        return _sum(np.ascontiguousarray(self._there.T))

    @cached_property
    def _all_there(self) -> bool:
        """Whether no neuron has fewer samples than others, as with all data but small."""
        return bool(self.state.sample_ids.numpy().min(initial=0) >= 0)

    @property
    def _there(self) -> Bool[np.ndarray, "d top_n"]:
        """Where there are samples."""
        return self.state.sample_ids.numpy() >= 0

    @cached_property
    def _scale(self) -> Float[np.ndarray, "*scale d"]:
        return scale_of((self.state.peak if self.peak is None else self.peak).float().numpy())

    def values(self, kind: str, n: int) -> Values:
        """The n-th largest value of every sample at tokens of a kind; below all where there is no sample."""
        if (kind, n) not in self._values:
            kept = getattr(self.state, kind)[..., n - 1].float().numpy()
            values = np.empty(kept.shape[::-1], np.float32)
            for k in range(0, len(kept), _AT_ONCE):
                values[:, k : k + _AT_ONCE] = kept[k : k + _AT_ONCE].T
            if not self._all_there:
                values[~self._there.T] = -np.inf
            self._values[kind, n] = values
        return self._values[kind, n]


def scale_of(peak: Float[np.ndarray, "*d"]) -> Float[np.ndarray, "*d"]:
    """What is mapped to 10: peaks, and NaN for those that are not positive, or not finite."""
    return np.where((peak > 0) & np.isfinite(peak), peak, np.float32(np.nan))


def least_exceeding(scale: Float[np.ndarray, "*d"], threshold: float) -> Float[np.ndarray, "*d"]:
    """The smallest float32 that exceeds a threshold by the arithmetic of `normalise`, rounding included; NaN, which
    nothing reaches, where the scale is (see `scale_of`).

    `x / peak * 10 > t` in float32 says that x / peak rounds to a y or more, the smallest whose product exceeds t. That
    is so from the middle between y and the number before it on; peak times that middle is exact in float64. At the
    middle itself x / peak rounds to the one of both that is even.

    >>> least_exceeding(np.float32([1.0, 5.0, np.nan]), 2.0).tolist()
    [0.20000001788139343, 1.0000001192092896, nan]
    """
    y = _first_beyond(threshold)
    before = np.nextafter(y, np.float32(0))
    even = y.view(np.uint32) % 2 == 0
    at = scale.astype(np.float64) * ((float(y) + float(before)) / 2)
    with np.errstate(over="ignore"):  # what no float32 reaches but infinity
        least = at.astype(np.float32)
    low = least < at if even else least <= at
    bits: UInt[np.ndarray, "*d"] = least.view(np.uint32) + low  # of positive numbers the next one has the next bits
    return bits.view(np.float32)


def _first_beyond(threshold: float) -> np.float32:
    """The smallest float32 that, times 10, exceeds a threshold."""
    y, scale, at = np.float32(threshold / SCALE), np.float32(SCALE), np.float32(threshold)
    while y * scale > at:
        y = np.nextafter(y, np.float32(0))
    while not y * scale > at:
        y = np.nextafter(y, np.float32(np.inf))
    return y


def most_common(counts: Int[np.ndarray, "4 *d"] | UInt[np.ndarray, "4 *d"]) -> Int[np.ndarray, "*d"]:
    """Number of the class that most samples are, the first of equals; unknown for a neuron without samples.

    >>> most_common(np.array([[1, 0], [2, 0], [2, 0], [0, 0]])).tolist()
    [1, 3]
    """
    n, unknown = len(MODALITIES), MODALITIES.index("unknown")
    place = np.arange(n - 1, -1, -1, dtype=counts.dtype).reshape(
        n, *[1] * (counts.ndim - 1)
    )  # of equals the first has to win
    best = (counts * n + place).max(0)
    found: np.ndarray = (n - 1 - (best & (n - 1))).astype(np.int8)  # n is a power of two
    found[best < n] = unknown
    return found


def _sum(found: Seen) -> Counts:
    """Over samples, as numbers that are as narrow as `most_common` can use: these take an eighth of the time."""
    return np.add.reduce(found.view(np.uint8), axis=0, dtype=_narrow(len(found)))


def _narrow(n: int) -> np.dtype[Any]:
    """Of counts up to n."""
    return np.min_scalar_type(4 * n + 3)

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
    from vlm_neurons.scanning import Run, TopSamples

Seen = Bool[np.ndarray, "top_n *scale d"]
Counts = UInt[np.ndarray, "*scale d"]
Values = Float[np.ndarray, "top_n d"]
_AT_ONCE = 256  # neurons whose values are turned: they stay in a cache meanwhile
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
    >>> Counter(run.top("blocks.2.mlp.hook_act")).counts(vn.classification.Thresholds())[:, 304].tolist()
    [9, 0, 0, 1]
    """

    state: TopSamples
    peak: Float[np.ndarray, "*scale d"] | None = None
    _values: dict[tuple[str, int], Values] = field(default_factory=dict)
    _least: dict[float, Float[np.ndarray, "*scale d"]] = field(default_factory=dict)
    _passed: dict[tuple[str, int, float], tuple[Seen, Counts]] = field(default_factory=dict)

    def by(self, peak: Float[np.ndarray, "*scale d"]) -> Counter:
        """The same samples on other scales."""
        other = Counter(self.state, peak, self._values)
        other.n_samples, other._all_there = self.n_samples, self._all_there
        return other

    def counts(self, rule: Thresholds) -> UInt[np.ndarray, "4 *scale d"]:
        """How many are of each class, in the order of `Modality`; with several scales those of each."""
        sees, n_sees = self._exceeding("visual", rule.n_visual, rule.t_visual)
        reads, n_reads = self._exceeding("text", rule.n_text, rule.t_text)
        both = _sum(np.logical_and(sees, reads, out=self._both))
        found = np.empty((4, *both.shape), both.dtype)
        np.subtract(n_sees, both, out=found[0])
        np.subtract(n_reads, both, out=found[1])
        found[2] = both
        np.subtract(self.n_samples - n_sees, found[1], out=found[3])
        return found

    def _exceeding(self, kind: str, n: int, threshold: float) -> tuple[Seen, Counts]:
        """In which samples the n-th largest value exceeds a threshold once normalised; and how many these are."""
        if (kind, n, threshold) not in self._passed:
            if threshold not in self._least:
                self._least[threshold] = least_exceeding(self._scale, threshold)
            values = self.values(kind, n)
            one_each = (len(values), *[1] * (self._scale.ndim - 1), values.shape[1])
            found = values.reshape(one_each) >= self._least[threshold]
            self._passed[kind, n, threshold] = found, _sum(found)
        return self._passed[kind, n, threshold]

    @cached_property
    def _both(self) -> Seen:
        """Room for what every rule needs: new memory costs more than counting."""
        return np.empty((self.state.sample_ids.shape[1], *self._scale.shape), dtype=bool)

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
        return scale_of(self.state.peak.float().numpy() if self.peak is None else self.peak)

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
    last_first = np.arange(n - 1, -1, -1, dtype=counts.dtype)  # of equals the first has to win
    place = last_first.reshape(n, *[1] * (counts.ndim - 1))
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

"""Statistics that several rooms need, once each."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float


def wilson(count: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927); NaN where there is nothing to share.

    >>> [round(x, 3) for x in wilson(0, 10)]
    [0.0, 0.278]
    """
    if n == 0:
        return float("nan"), float("nan")
    share, scale = count / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def false_discovery(p: Float[np.ndarray, "n"], correction: Literal["bh", "by"] = "bh") -> Float[np.ndarray, "n"]:
    """q-values: the smallest false-discovery rate at which a test would be called; NaN, and not counted, where p is.

    Args:
        p: p-values.
        correction: `"bh"` (Benjamini, Hochberg 1995: independent or positively dependent tests) or `"by"` (Benjamini,
            Yekutieli 2001: any dependence, less power). As scipy.stats, whose import takes as long as the tests of
            100,000 neurons.

    Raises:
        ValueError: another correction, or a p-value outside 0 ... 1.

    >>> false_discovery(np.array([0.01, 0.04, np.nan, 0.03])).tolist()
    [0.03, 0.04, nan, 0.04]
    """
    p = np.asarray(p, float)
    q, there = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    if correction not in ("bh", "by") or ((p[there] < 0) | (p[there] > 1)).any():
        at_most = f"p up to {p[there].max(initial=0.0):g}, from {p[there].min(initial=1.0):g}"
        raise ValueError(f"correction={correction!r}, {at_most}: choose 'bh' or 'by', for p-values from 0 to 1")
    order, n = there[np.argsort(p[there], kind="stable")], len(there)
    rank = np.arange(1, n + 1)
    scaled = p[order] * (n / rank) * (np.sum(1 / rank) if correction == "by" else 1.0)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def auroc(values: Float[np.ndarray, "n"], on: Bool[np.ndarray, "n"]) -> float:
    """Chance that one that is on has a larger value than one that is not (ties count half); NaN where one kind is
    missing.

    >>> auroc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False]))
    1.0
    """
    return auroc_of_ranks(ranks(values), on)


def auroc_of_ranks(ranked: Float[np.ndarray, "n"], on: Bool[np.ndarray, "n"]) -> float:
    """`auroc` of values that were ranked before."""
    n_on, n_off = int(on.sum()), int((~on).sum())
    if not n_on or not n_off:
        return float("nan")
    return float((ranked[on].sum() - n_on * (n_on + 1) / 2) / (n_on * n_off))


def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Ranks from 1; equal values have their mean rank.

    >>> ranks(np.array([5.0, 2.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    # scipy.stats has it too, but its import takes longer than all ranks of a run
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])[: len(values)])  # of equal values
    ends = np.append(starts[1:], len(values))
    found = np.empty(len(values))
    found[order] = np.repeat((starts + 1 + ends) / 2, ends - starts)
    return found


def auroc_interval(on: Float[np.ndarray, "n"], off: Float[np.ndarray, "m"], z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of the chance that a value of `on` is larger than one of `off`.

    By the variance of DeLong, DeLong, Clarke-Pearson (1988) on the logit scale; where nothing overlaps, which has no
    variance, Wilson's for as many pairs as the smaller of both has values. NaN where one has fewer than two.

    >>> [round(x, 2) for x in auroc_interval(np.array([1.0, 3.0, 4.0]), np.array([0.0, 2.0, 2.5]))]
    [0.17, 0.98]
    >>> [round(x, 2) for x in auroc_interval(np.ones(10), np.zeros(20))]
    [0.72, 1.0]
    """
    n, m = len(on), len(off)
    if n < 2 or m < 2:
        return float("nan"), float("nan")
    among = ranks(np.concatenate([on, off]))
    above = (among[:n] - ranks(on)) / m  # of each that is on: the share of the others below it
    below = 1 - (among[n:] - ranks(off)) / n
    share, least = float(above.mean()), min(n, m)
    variance = above.var(ddof=1) / n + below.var(ddof=1) / m
    if variance == 0 or share in (0.0, 1.0):
        return wilson(share * least, least, z)
    centre, half = np.log(share / (1 - share)), z * variance**0.5 / (share * (1 - share))
    return float(1 / (1 + np.exp(half - centre))), float(1 / (1 + np.exp(-half - centre)))


def bootstrap_means(
    values: Float[np.ndarray, "sample draw"], rng: np.random.Generator, resamples: int = 2000
) -> Float[np.ndarray, " resample"]:
    """Means of resampled samples and resampled draws, both with replacement, independently.

    >>> bootstrap_means(np.ones((5, 1)), np.random.default_rng(0), 3).tolist()
    [1.0, 1.0, 1.0]
    """
    n, draws = values.shape
    rows = rng.multinomial(n, np.full(n, 1 / n), resamples) / n
    columns = rng.multinomial(draws, np.full(draws, 1 / draws), resamples) / draws
    return np.einsum("rd,rd->r", rows @ values, columns)


def sign_flip(values: Float[np.ndarray, "n"], rng: np.random.Generator, flips: int = 9999) -> float:
    """Chance of so large a mean, or a larger one, if every value could as well have the other sign (Fisher 1935);
    one-sided, counting the values as they are; NaN without values.

    >>> sign_flip(np.ones(20), np.random.default_rng(0))
    0.0001
    """
    if not len(values):
        return float("nan")
    signs = rng.integers(0, 2, (flips, len(values)), dtype=np.int8)
    sums = 2 * (signs @ values.astype(np.float32)) - values.sum()
    return float((1 + (sums >= values.sum() - 1e-6 * np.abs(values).sum()).sum()) / (1 + flips))

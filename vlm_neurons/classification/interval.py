"""Student's t of a weighted difference of two means, and the interval of the modality index that inverts it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Array = np.ndarray
EXACT = (
    2e-9  # of the ends that are searched; where nothing varies, Fieller's are as exact as the root of a rounding error
)
EXACT_T = 1e-11  # of t there
STEPS = 60  # nineteen of them halve: 2 / 2^19 where nothing else helps, beyond which t is all rounding


def t_values(means: Float[Array, "9 d"], n: int | Array, a: float | Array, b: float | Array) -> tuple[Array, Array]:
    """Student's t of E[a V + b T], and the same corrected for skewness (Hall 1992).

    With S = mean / standard deviation and the skewness g: sqrt(n) S, and sqrt(n) (S + g S^2 / 3 + g^2 S^3 / 27 +
    g / (6 n)), which rises with S too. Where nothing varies both are infinite with the mean's sign, or 0 for a mean
    of 0.
    """
    v, t, vv, tt, vt, vvv, vvt, vtt, ttt = means
    mean, aa, ab, bb = a * v + b * t, a * a, a * b, b * b
    first, last, thrice = aa * vv, bb * tt, 3 * ab
    square = first + 2 * ab * vt + last
    third = a * (aa * vvv + thrice * vvt) + b * (thrice * vtt + bb * ttt) + mean * (2 * mean * mean - 3 * square)
    variance = np.maximum(square - mean * mean, 0) * (n / (n - 1))
    varies = variance > 1e-8 * (first + last)  # below it the third moment is rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(variance)
        s = mean / deviation
        skewness = third / (variance * deviation)
        bend = skewness * (s * s * (1 / 3 + skewness * s / 27) + 1 / (6 * n))
    s, root = np.where(np.isnan(s), 0.0, s), np.sqrt(n)
    return root * s, root * (s + np.where(varies, bend, 0.0))


def interval(means: Float[Array, "9 d"], n: int | Array, index: Array, critical: float | Array) -> tuple[Array, Array]:
    """All m around M for which E[(V - T) - m (V + T)] = 0 is not rejected by both t (Fieller's way).

    Where the sum of V and T is not clearly above 0 all of -1 ... 1 is possible. Of few images (up to 16, seldom beyond
    5) the corrected t can be critical at several m on one side; the end is one of these then.
    """
    n, critical = np.broadcast_to(n, len(index)), np.broadcast_to(critical, len(index))
    if len(n) and (n == n[0]).all():  # as nearly always: numbers, not arrays
        n, critical = n[:1], critical[:1]
    return _end(means, n, index, critical, -1.0), _end(means, n, index, critical, 1.0)


def _end(means: Array, n: Array, index: Array, critical: Array, outer: float) -> Array:
    """One end of the interval, between the index and -1 or 1: the farther of where the two t become critical."""
    plain, corrected = (-outer * t for t in t_values(means, n, 1 - outer, -1 - outer))  # the mean falls as m rises
    found = np.full(len(index), outer)
    inner = np.flatnonzero((np.minimum(plain, corrected) > critical) & ~np.isnan(index))
    means, n, critical = means[:, inner], _of(n, inner), _of(critical, inner)
    found[inner] = _fieller(means, n, index[inner], critical, outer)
    here = _excess(means, n, critical, outer, found[inner])
    more = np.flatnonzero(here < 0)
    means, n, critical = means[:, more], _of(n, more), _of(critical, more)
    ends = np.stack([found[inner][more], np.full(len(more), outer)])
    values = np.stack([here[more], corrected[inner][more] - critical])
    # as far as it would be if t rose on as it did from the index to Fieller's end, and a bit
    with np.errstate(invalid="ignore"):  # t is infinite where nothing varies
        guess = ends[0] - (ends[0] - index[inner][more]) * values[0] / critical * 1.1
    guess = np.where(np.isfinite(guess), outer * np.minimum(outer * guess, 1), outer)
    value = _excess(means, n, critical, outer, guess)
    beyond, columns = (value > 0).astype(int), np.arange(len(more))
    ends[beyond, columns], values[beyond, columns] = guess, value
    found[inner[more]] = _root(means, n, critical, outer, ends, values)
    return found


def _of(values: Array, which: Array) -> Array:
    """Of some neurons, where there is not one value for all."""
    return values if len(values) == 1 else values[which]


def _excess(means: Array, n: Array, critical: Array, outer: float, m: Array) -> Array:
    """By how much the corrected t exceeds the critical one."""
    return -outer * t_values(means, n, 1 - m, -1 - m)[1] - critical


def _fieller(means: Array, n: Array, index: Array, critical: Array, outer: float) -> Array:
    """Where Student's t is critical, between the index and an outer end at which it is rejected (Fieller 1954).

    With k = critical^2 / (n - 1): (1 + k) mean^2 = k square, both polynomials in m; of the two roots one lies there.
    """
    v, t, vv, tt, vt = means[:5]
    difference, total, k = v - t, v + t, critical**2 / (n - 1)
    a = (1 + k) * total * total - k * (vv + 2 * vt + tt)
    half = k * (vv - tt) - (1 + k) * difference * total
    c = (1 + k) * difference * difference - k * (vv - 2 * vt + tt)
    with np.errstate(divide="ignore", invalid="ignore"):
        sum_ = -half - np.copysign(np.sqrt(np.maximum(half * half - a * c, 0)), half)  # nothing cancels
        one, other = sum_ / a, c / sum_
    root = np.where((outer * (one - index) >= 0) & (np.abs(one) <= 1), one, other)
    return outer * np.maximum(outer * root, outer * index)  # rounding alone can pass the index, where nothing varies


def _root(
    means: Array, n: Array, critical: Array, outer: float, ends: Float[Array, "2 d"], values: Float[Array, "2 d"]
) -> Array:
    """Where the corrected t is critical, between ends with other signs: regula falsi (Illinois), after three steps
    every third a halving; what is found is left out."""
    found, places, last = ends[0].copy(), np.arange(ends.shape[1]), np.zeros(ends.shape[1], dtype=int)
    for step in range(STEPS):
        if not len(places):
            break
        middle = (ends[0] + ends[1]) / 2
        with np.errstate(invalid="ignore"):  # t is infinite where nothing varies
            m = (ends[0] * values[1] - ends[1] * values[0]) / (values[1] - values[0])
        m = np.where(np.isfinite(m) & (step % 3 < 2 or step < 3), m, middle)
        value = _excess(means, n, critical, outer, m)
        side, columns = (value > 0).astype(int), np.arange(len(m))
        values[1 - side, columns] *= np.where((side == last) & (step > 0), 0.5, 1.0)
        ends[side, columns], values[side, columns], last = m, value, side
        found[places] = m
        # what is exact leaves at once: another neuron's steps must not change its last digits
        open_ = (np.abs(ends[1] - ends[0]) > EXACT) & (np.abs(value) > EXACT_T)
        means, n, critical = means[:, open_], _of(n, open_), _of(critical, open_)
        ends, values, places, last = ends[:, open_], values[:, open_], places[open_], last[open_]
    return found

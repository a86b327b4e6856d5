"""How well simulated activations agree with real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from vlm_neurons import stats
from vlm_neurons.autointerp.scorers.aligned import Piece, resolved

if TYPE_CHECKING:
    from vlm_neurons.autointerp.protocols import Resolution

NAN = float("nan")
N_BOOTSTRAP = 2000
ACTIVE = {"picture": 2.0, "text": 3.0}  # the paper's thresholds (section 3.2), on the 0-10 scale
TINY = 1e-10  # a variance below this share of the mean square is rounding


def r_of_sums(sums: Float[np.ndarray, "*k 6"]) -> Float[np.ndarray, "*k"]:
    """Pearson's r from sums such as `Piece.sums` (x real, y simulated); NaN where one side does not vary."""
    return r_of(*np.moveaxis(np.asarray(sums, float), -1, 0))


def r_of(n: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    """The same from each of the sums, numbers or arrays."""
    n = np.maximum(n, 1)
    vx, vy, cov = xx - x * x / n, yy - y * y / n, xy - x * y / n
    varies = (vx > TINY * xx) & (vy > TINY * yy)
    return np.where(varies, cov / np.sqrt(np.where(varies, vx * vy, 1)), NAN)


def pooled(pieces: Sequence[Piece]) -> float:
    """r over all places of all pieces."""
    return float(r_of_sums(np.sum([p.sums for p in pieces], axis=0))) if pieces else NAN


def weighted(pieces: Sequence[Piece]) -> float:
    """r over all places of the whole data, each piece counted as often as its weight says; NaN where that is not known.

    The headline: it falls for an explanation that is too broad, and for one that is too narrow.
    """
    return float(r_of_sums(np.array([p.weight for p in pieces]) @ [p.sums for p in pieces])) if pieces else NAN


def ceiling(pieces: Sequence[Piece], resolution: Resolution) -> float:
    """`weighted` of the truth itself, as finely as a simulator could have said it."""
    if resolution.grid is not None:  # cells are of whole maps
        return weighted(resolved(pieces, resolution))
    x, weights = _flat(pieces)[0], np.repeat([p.weight for p in pieces], [len(p.pair[0]) for p in pieces])
    return float(r_of_many(x, weights, resolution.of_values(x)[None])[0])


def r_of_many(
    real: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], simulated: Float[np.ndarray, "k n"]
) -> Float[np.ndarray, " k"]:
    """`weighted` of many simulations of the same places; NaN where one does not vary."""
    own = weights.sum(), weights @ real, weights @ (real * real)
    n, x, xx = (np.full(len(simulated), total) for total in own)
    y, yy, xy = simulated @ weights, (simulated * simulated) @ weights, simulated @ (weights * real)
    return r_of_sums(np.stack([n, x, y, xx, yy, xy], -1))


def between(pieces: Sequence[Piece]) -> float:
    """r of the means of the pieces: does it know in which images, and in which texts, the neuron is active?

    Means are about that of their side: that words differ from patches says nothing about which of them are meant.
    """
    sums = np.array([p.sums for p in pieces]).reshape(-1, 6)
    if len(sums) < 3:
        return NAN
    means, sides = sums[:, 1:3] / sums[:, :1], np.array([p.side for p in pieces])
    for side in set(sides):
        own = means[sides == side]
        about = own - own.mean(0)
        means[sides == side] = np.where(np.abs(about) > TINY * np.abs(own).max(0), about, 0)
    x, y = means.T
    return float(r_of_sums(np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])))


def centred(sums: Float[np.ndarray, "*k 6"]) -> Float[np.ndarray, "*k 6"]:
    """Sums after the mean of each piece has been subtracted."""
    n, x, y, xx, yy, xy = np.moveaxis(np.asarray(sums, float), -1, 0)
    zero, safe = np.zeros_like(n), np.maximum(n, 1)
    vx, vy = xx - x * x / safe, yy - y * y / safe
    vx, vy = np.where(vx > TINY * xx, vx, 0), np.where(vy > TINY * yy, vy, 0)
    return np.stack([n, zero, zero, vx, vy, xy - x * y / safe], -1)


def within(pieces: Sequence[Piece]) -> float:
    """r after subtracting the mean of each piece: does it know where in an image, or text?"""
    return float(r_of_sums(centred(np.array([p.sums for p in pieces])).sum(0))) if pieces else NAN


def per_sample(pieces: Sequence[Piece]) -> float:
    """Mean of the samples' own r, over all their places, where there is one (the paper's score, section 3.4, second
    hand)."""
    sums: dict[int, np.ndarray] = {}
    for p in pieces:
        sums[p.exemplar] = sums.get(p.exemplar, 0) + p.sums
    every = r_of_sums(np.array([*sums.values()]).reshape(-1, 6))
    return float(np.nanmean(every)) if np.isfinite(every).any() else NAN


def interval(pieces: Sequence[Piece], seed: int, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the weighted r.

    Exemplars are drawn with replacement, each stratum apart (places of one image are not independent: intervals over
    places cover the truth one time in eight); of n of a stratum n - 1, weighed up (Rao, Wu 1988), since a few exemplars
    vary less than what they were drawn from. Bias-corrected and accelerated (Efron 1987). NaN where fewer than five
    exemplars are there, so few in a stratum that their draws do not come around to r, or the size of a stratum is not
    known.
    """
    numbers = sorted({p.exemplar for p in pieces})
    if len(numbers) < 5 or not np.isfinite([p.weight for p in pieces]).all():
        return NAN, NAN
    place = {number: i for i, number in enumerate(numbers)}
    home, sums = [place[p.exemplar] for p in pieces], np.zeros((len(numbers), 6))
    np.add.at(sums, home, np.array([p.sums for p in pieces]) * np.array([p.weight for p in pieces])[:, None])
    strata = np.empty(len(numbers), object)
    strata[home] = [p.stratum or ("top" if p.top else "rest") for p in pieces]
    own = [sums[strata == stratum] for stratum in dict.fromkeys(strata)]
    r, drawn = (
        r_of_sums(sums.sum(0)),
        r_of_sums(np.sum([_redrawn(part, seed, i) for i, part in enumerate(own)], axis=0)),
    )
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < N_BOOTSTRAP / 2 or not np.isfinite(r):
        return NAN, NAN
    low, high = np.quantile(drawn, _levels(drawn, float(r), own, level))
    return (float(low), float(high)) if low - TINY <= r <= high + TINY else (NAN, NAN)


def _redrawn(sums: Float[np.ndarray, "exemplar 6"], seed: int, number: int) -> Float[np.ndarray, "draw 6"]:
    """Sums of a stratum drawn again: of n exemplars n - 1, with replacement, weighed up to n."""
    n = len(sums)
    return _draws(n, seed, number) @ sums * (n / max(1, n - 1))


@lru_cache(maxsize=64)  # neurons share them
def _draws(n: int, seed: int, number: int) -> Float[np.ndarray, "draw exemplar"]:
    """How often each of n exemplars is drawn."""
    rng = np.random.default_rng([seed, number, n])
    return rng.multinomial(max(1, n - 1), np.full(n, 1 / n), size=N_BOOTSTRAP).astype(float)


def _levels(
    drawn: Float[np.ndarray, "draw"], r: float, strata: Sequence[Float[np.ndarray, "_exemplar 6"]], level: float
) -> Float[np.ndarray, "2"]:
    """Quantiles of the draws at which a BCa interval ends; the acceleration is the skewness of the exemplars'
    influences."""
    slope = _slope(np.sum([part.sum(0) for part in strata], axis=0))
    influence = np.concatenate([(part - part.mean(0)) @ slope for part in strata])
    spread = (influence**2).sum() ** 1.5
    skew = (influence**3).sum() / (6 * spread) if spread > 0 else 0.0
    share = np.clip((drawn < r).mean() + (drawn == r).mean() / 2, 1 / N_BOOTSTRAP, 1 - 1 / N_BOOTSTRAP)
    bias = special.ndtri(share)
    moved = bias + special.ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    return np.asarray(special.ndtr(bias + moved / (1 - skew * moved)))


def _slope(total: Float[np.ndarray, "6"]) -> Float[np.ndarray, "6"]:
    """How r changes with each of the sums."""
    n, x, y, xx, yy, xy = total
    vx, vy, cov = xx - x * x / n, yy - y * y / n, xy - x * y / n
    of_xy = 1 / np.sqrt(vx * vy)
    of_xx, of_yy = -cov * of_xy / (2 * vx), -cov * of_xy / (2 * vy)
    of_n = (x * y * of_xy + x * x * of_xx + y * y * of_yy) / n**2
    of_x, of_y = -(y * of_xy + 2 * x * of_xx) / n, -(x * of_xy + 2 * y * of_yy) / n
    return np.array([of_n, of_x, of_y, of_xx, of_yy, of_xy])


def auroc(pieces: Sequence[Piece]) -> float:
    """Chance that an active place (above the paper's thresholds) has a larger prediction than one that is not."""
    return stats.auroc_of_ranks(_ranked(tuple(pieces)), _active(pieces)) if pieces else NAN


def detection(pieces: Sequence[Piece]) -> float:
    """Chance that the largest prediction in a top exemplar is above that in a random one."""
    best: dict[int, tuple[float, bool]] = {}
    for p in pieces:
        here = float(p.pair[1].max())
        best[p.exemplar] = max(best.get(p.exemplar, (-np.inf, p.top))[0], here), p.top
    values, top = (np.array(v) for v in zip(*best.values(), strict=True)) if best else (np.zeros(0), np.zeros(0, bool))
    return stats.auroc(values, top)


def iou(pieces: Sequence[Piece], share: float = 0.05) -> float:
    """Overlap, over union, of the neuron's strongest places and as many of the strongest predictions.

    The threshold is the neuron's own: its 95th percentile over all places, 0 at least. Equal predictions at the edge
    are drawn by lot (the expected overlap is returned).
    """
    x, y = _flat(pieces)
    if not len(x) or x.max() <= 0 or y.min() == y.max():
        return NAN
    on = x > max(0.0, float(np.quantile(x, 1 - share)))
    k = int(on.sum())
    if k == 0 or k == len(x):
        return NAN
    edge = np.sort(y)[-k]
    above, at = y > edge, y == edge
    chosen = above + at * (k - above.sum()) / at.sum()
    common = float(chosen[on].sum())
    return common / (2 * k - common)


def spearman(pieces: Sequence[Piece]) -> float:
    """Rank correlation over all places."""
    x, y = _flat(pieces)
    if len(x) < 3 or x.min() == x.max() or y.min() == y.max():
        return NAN
    return float(np.corrcoef(stats.ranks(x), _ranked(tuple(pieces)))[0, 1])


SCORERS: dict[str, Callable[[Sequence[Piece]], float]] = {
    "r_top_random": pooled, "r_between": between, "r_within": within, "r_sample": per_sample, "auroc": auroc,
    "iou": iou, "spearman": spearman, "detection": detection,
}  # fmt: skip
"""Name of a column of scores -> what measures it, on the top and random samples alone: these do not see what is
too broad for a rare concept."""


def _flat(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    return _all_of(tuple(pieces))


@lru_cache(maxsize=1)  # one measure after the other asks for it
def _all_of(pieces: tuple[Piece, ...]) -> tuple[np.ndarray, np.ndarray]:
    if not pieces:
        return np.zeros(0), np.zeros(0)
    x, y = zip(*(p.pair for p in pieces), strict=True)
    return np.concatenate(x), np.concatenate(y)


@lru_cache(maxsize=1)
def _ranked(pieces: tuple[Piece, ...]) -> np.ndarray:
    return stats.ranks(_all_of(pieces)[1])


def _active(pieces: Sequence[Piece]) -> Bool[np.ndarray, "n"]:
    return np.concatenate([p.pair[0] > ACTIVE[p.side] for p in pieces])

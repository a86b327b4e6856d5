"""p-values by moving simulated activations to where they do not belong. No new simulations are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import factorial
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from vlm_neurons.autointerp.scorers.aligned import Piece
from vlm_neurons.autointerp.scorers.measures import centred, r_of, r_of_sums

MIN_DISTINCT = 1000  # arrangements that a p-value has to be able to tell apart
Sums = list[Float[np.ndarray, "_n"]]  # the six of `Piece.sums`, each of every draw, or one for all
BIN = 10  # texts of about the same length among which simulations are exchanged


def p_images(pieces: Sequence[Piece], n: int, seed: int) -> float:
    """Chance of a pooled r as large if simulated maps belonged to any image.

    All that is predicted for one exemplar goes to another whose images have the same shapes and whose text has about
    the same length (there by quantile of the position). It stays together, since the images and the text of a sample
    are alike: exchanged one by one, four images a sample that share their content would give p < .05 in 23 % of the
    cases where there is nothing. p = (1 + number as large) / (1 + n) (Phipson & Smyth 2010). Neurons share their draws.

    Returns:
        p, one-sided; NaN where r does not exist, or fewer than 1,000 arrangements do.
    """
    real = np.sum([p.sums for p in pieces], axis=0) if pieces else np.zeros(6)
    total, distinct = [np.zeros(1)] * 6, 1
    for number, group in enumerate(_exchangeable(pieces)):
        size = len(group)
        crossed = np.sum([_crossed(alike) for alike in zip(*group, strict=True)], axis=0)
        total = _added(total, _taken(crossed, _orders(size, n, (seed, number))))
        distinct *= factorial(size)
    return _p(r_of_sums(real), r_of(*total), n, distinct)


def p_places(pieces: Sequence[Piece], n: int, seed: int) -> float:
    """Chance of an r within images as large if a simulated map lay anywhere in its image.

    Each map is shifted around by a number of rows and columns of its own, each text by a number of tokens (a torus):
    neighbours stay neighbours. Exchanging single patches would call any smooth map significant, since neighbouring
    patches are alike.

    Returns:
        p, one-sided; NaN as for `p_images`.
    """
    real = centred(np.array([p.sums for p in pieces]).reshape(-1, 6)).sum(0)
    total, distinct = [np.zeros(1)] * 6, 1
    shapes: dict[Any, list[Piece]] = {}
    for piece in pieces:
        shapes.setdefault(piece.real.shape, []).append(piece)
    for number, alike in enumerate(shapes.values()):
        shifted = centred(_shifted(alike))
        total = _added(total, _taken(shifted, _shifts(len(alike), shifted.shape[1], n, (seed, number))))
        distinct *= shifted.shape[1] ** len(alike)
    return _p(r_of_sums(real), r_of(*total), n, distinct)


@lru_cache(maxsize=32)  # neurons share them, and one takes 2 MB
def _orders(size: int, n: int, seed: tuple[int, int]) -> csr_array:
    """Random orders of so many pieces."""
    rng = np.random.default_rng([*seed, size])
    return _chosen(rng.permuted(np.tile(np.arange(size, dtype=np.int32), (n, 1)), axis=1), size)


@lru_cache(maxsize=128)  # texts of every length have their own, small ones
def _shifts(size: int, distinct: int, n: int, seed: tuple[int, int]) -> csr_array:
    """Random numbers of shifts of so many pieces."""
    rng = np.random.default_rng([*seed, size, distinct])
    return _chosen(rng.integers(distinct, size=(n, size), dtype=np.int32), distinct)


def _chosen(choices: Int[np.ndarray, "n size"], n_choices: int) -> csr_array:
    """What each draw takes of a table [size, choice], as a matrix [n, size * choice] of ones: a product adds it up."""
    n, size = choices.shape
    places = (choices + np.arange(size, dtype=np.int32) * n_choices).ravel()
    return csr_array((_ones(n * size), places, np.arange(n + 1, dtype=np.int32) * size), shape=(n, size * n_choices))


@lru_cache(maxsize=8)  # sizes are powers of two
def _all_ones(n: int) -> Float[np.ndarray, " n"]:
    return np.ones(n)


def _ones(n: int) -> Float[np.ndarray, " n"]:
    """Shared by all that need no more."""
    return _all_ones(1 << (n - 1).bit_length())[:n]


def _taken(table: Float[np.ndarray, "size choice 6"], chosen: csr_array) -> Sums:
    """Of every piece the sums of its choice, added up."""
    size, n_choices, _ = table.shape
    found = list(table[:, 0].sum(0)[:, None])
    alike = (table == table[:, :1]).all((0, 1))  # the same whatever is chosen
    if size == n_choices:
        alike |= (once := (table == table[:1]).all((0, 1)))  # each choice is made once
        for k in np.flatnonzero(once).tolist():
            found[k] = table[0, :, k].sum(keepdims=True)
    if (left := np.flatnonzero(~alike)).size:
        for k, values in zip(left.tolist(), (chosen @ table.reshape(-1, 6)[:, left]).T, strict=True):
            found[k] = values
    return found


def _added(total: Sums, more: Sums) -> Sums:
    return [a + b for a, b in zip(total, more, strict=True)]


def _p(real: Float[np.ndarray, ""], moved: Float[np.ndarray, "_n"], n: int, distinct: int) -> float:
    if not np.isfinite(real) or distinct < MIN_DISTINCT:
        return float("nan")
    as_large = int(np.count_nonzero(np.broadcast_to(moved, n) >= real - 1e-12))  # NaN is not
    return (1 + as_large) / (1 + n)


def _exchangeable(pieces: Sequence[Piece]) -> Iterator[list[list[Piece]]]:
    """Pieces of exemplars that can stand for each other: images of the same shapes, texts of about the same length."""
    exemplars: dict[int, list[Piece]] = {}
    for piece in pieces:
        exemplars.setdefault(piece.exemplar, []).append(piece)
    alike: dict[Any, list[list[Piece]]] = {}
    for own in exemplars.values():
        alike.setdefault(tuple(p.real.shape if p.side == "picture" else p.side for p in own), []).append(own)
    for kind, group in alike.items():
        group.sort(key=lambda own: sum(p.real.size for p in own if p.side == "text"))
        n_bins = max(1, len(group) // BIN) if "text" in kind else 1
        for i in range(n_bins):
            yield group[i * len(group) // n_bins : (i + 1) * len(group) // n_bins]


def _crossed(group: Sequence[Piece]) -> Float[np.ndarray, "m m 6"]:
    """Sums of the real activations of one piece with the simulation of every other."""
    found = np.zeros((len(group), len(group), 6))
    shapes = [p.real.shape for p in group]
    for shape in dict.fromkeys(shapes):
        own = [i for i, other in enumerate(shapes) if other == shape]
        counts = np.stack([group[i].counts.ravel() for i in own]).astype(float)
        real = np.stack([group[i].real.ravel() for i in own])
        moved = np.stack([_as(p.simulated, shape).ravel() for p in group])
        same = (counts == counts[0]).all()  # places: what is moved has the same sums everywhere
        seen = counts[:1] if same else counts
        own_sums = [a.sum(1)[:, None] for a in (counts, real * counts, real * real * counts)]
        parts = (*own_sums[:2], seen @ moved.T, own_sums[2], seen @ (moved * moved).T, (real * counts) @ moved.T)
        for k, part in enumerate(parts):
            found[own, :, k] = part
    return found


def _as(values: Float[np.ndarray, "*place"], shape: tuple[int, ...]) -> Float[np.ndarray, "*other"]:
    """The predictions of one text at the places of another, by quantile of the position."""
    if values.shape == shape:
        return values
    return values[((np.arange(shape[0]) + 0.5) / shape[0] * len(values)).astype(int)]


def _shifted(pieces: Sequence[Piece]) -> Float[np.ndarray, "piece shift 6"]:
    """Sums of the real activations of pieces of one shape with their simulations, for every shift of these."""
    counts = np.stack([p.counts for p in pieces]).astype(float)
    x, y = np.stack([p.real for p in pieces]) * counts, np.stack([p.simulated for p in pieces])
    axes = tuple(range(1, x.ndim))

    def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        turned = np.conj(np.fft.rfftn(a, axes=axes)) * np.fft.rfftn(b, axes=axes)
        return np.fft.irfftn(turned, s=x.shape[1:], axes=axes).reshape(len(x), -1)

    def summed(a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(a.reshape(len(x), -1).sum(1)[:, None], (len(x), x[0].size))

    whole = counts.all()
    sy, syy = (summed(a) if whole else products(counts, a) for a in (y, y * y))
    return np.stack([summed(counts), summed(x), sy, summed(x * x), syy, products(x, y)], -1)

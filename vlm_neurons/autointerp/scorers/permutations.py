"""p-values by moving simulated activations to where they do not belong. No new simulations are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import factorial
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.autointerp.scorers.aligned import Piece
from vlm_neurons.autointerp.scorers.measures import centred, r_of_sums, sums_of

MIN_DISTINCT = 1000  # arrangements that a p-value has to be able to tell apart
BIN = 10  # texts of about the same length among which simulations are exchanged


def p_images(pieces: Sequence[Piece], n: int, rng: np.random.Generator) -> float:
    """Chance of a pooled r as large if simulated maps belonged to any image.

    All that is predicted for one exemplar goes to another whose images have the same shapes and whose text has about
    the same length (there by quantile of the position). It stays together, since the images and the text of a sample
    are alike: exchanged one by one, four images a sample that share their content would give p < .05 in 23 % of the
    cases where there is nothing. p = (1 + number as large) / (1 + n) (Phipson & Smyth 2010).

    Returns:
        p, one-sided; NaN where r does not exist, or fewer than 1,000 arrangements do.
    """
    real = np.sum([sums_of(p) for p in pieces], axis=0) if pieces else np.zeros(6)
    total, distinct = np.zeros((n, 6)), 1
    for group in _exchangeable(pieces):
        crossed = np.sum([_crossed(alike) for alike in zip(*group, strict=True)], axis=0)
        order = rng.permuted(np.tile(np.arange(len(group)), (n, 1)), axis=1)
        total += crossed[np.arange(len(group)), order].sum(1)
        distinct *= factorial(len(group))
    return _p(r_of_sums(real), r_of_sums(total), distinct)


def p_places(pieces: Sequence[Piece], n: int, rng: np.random.Generator) -> float:
    """Chance of an r within images as large if a simulated map lay anywhere in its image.

    Each map is shifted around by a number of rows and columns of its own, each text by a number of tokens (a torus):
    neighbours stay neighbours. Exchanging single patches would call any smooth map significant, since neighbouring
    patches are alike.

    Returns:
        p, one-sided; NaN as for `p_images`.
    """
    real = centred(np.array([sums_of(p) for p in pieces]).reshape(-1, 6)).sum(0)
    total, distinct = np.zeros((n, 6)), 1
    for piece in pieces:
        shifted = centred(_shifted(piece))
        total += shifted[rng.integers(len(shifted), size=n)]
        distinct *= len(shifted)
    return _p(r_of_sums(real), r_of_sums(total), distinct)


def _p(real: Float[np.ndarray, ""], moved: Float[np.ndarray, " n"], distinct: int) -> float:
    if not np.isfinite(real) or distinct < MIN_DISTINCT:
        return float("nan")
    as_large = int((np.nan_to_num(moved, nan=-1.0) >= real - 1e-12).sum())
    return (1 + as_large) / (1 + len(moved))


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
    for i, piece in enumerate(group):
        x = piece.real[piece.counts]
        y = np.stack([_as(other.simulated, piece.real.shape)[piece.counts] for other in group])
        found[i, :, 0], found[i, :, 1], found[i, :, 3] = len(x), x.sum(), (x * x).sum()
        found[i, :, 2], found[i, :, 4], found[i, :, 5] = y.sum(1), (y * y).sum(1), y @ x
    return found


def _as(values: Float[np.ndarray, "*place"], shape: tuple[int, ...]) -> Float[np.ndarray, "*other"]:
    """The predictions of one text at the places of another, by quantile of the position."""
    if values.shape == shape:
        return values
    return values[((np.arange(shape[0]) + 0.5) / shape[0] * len(values)).astype(int)]


def _shifted(piece: Piece) -> Float[np.ndarray, "shift 6"]:
    """Sums of the real activations with the simulation, for every shift of it."""
    mask = piece.counts.astype(float)
    x, y = np.where(piece.counts, piece.real, 0.0), piece.simulated

    def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.fft.ifftn(np.conj(np.fft.fftn(a)) * np.fft.fftn(b)).real.ravel()

    sy, syy, sxy = products(mask, y), products(mask, y * y), products(x, y)
    fixed = np.ones_like(sy)
    return np.stack([fixed * mask.sum(), fixed * x.sum(), sy, fixed * (x * x).sum(), syy, sxy], -1)

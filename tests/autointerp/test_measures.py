"""Every number of a score equals its definition, written out."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pieces as made
import pytest
import seeds
from scipy.stats import rankdata

from vlm_neurons import planted
from vlm_neurons.autointerp import Failure
from vlm_neurons.autointerp.protocols import Prediction
from vlm_neurons.autointerp.scorers import measures
from vlm_neurons.autointerp.scorers.aligned import Piece, pieces_of
from vlm_neurons.autointerp.simulators import Resolution
from vlm_neurons.stats import ranks

FRESH = pytest.mark.parametrize("pieces", [
    made.random_pieces(12, made.RNG), made.random_pieces(15, made.RNG, text=True),
    [*made.random_pieces(6, made.RNG), *made.random_pieces(6, made.RNG, text=True)],
], ids=["images", "texts", "both"])  # fmt: skip


def flat(pieces):
    return tuple(np.concatenate(v) for v in zip(*(p.pair for p in pieces), strict=True))


@FRESH
def test_r_is_pearsons_over_all_places_between_of_means_and_within_without_them(pieces):
    x, y = flat(pieces)
    assert measures.pooled(pieces) == pytest.approx(np.corrcoef(x, y)[0, 1])
    means = np.array([[v.mean() for v in p.pair] for p in pieces])
    for side in {p.side for p in pieces}:
        here = [p.side == side for p in pieces]
        means[here] -= means[here].mean(0)
    assert measures.between(pieces) == pytest.approx(np.corrcoef(means.T)[0, 1])
    a, b = (np.concatenate([v - v.mean() for v in side]) for side in zip(*(p.pair for p in pieces), strict=True))
    assert measures.within(pieces) == pytest.approx(np.corrcoef(a, b)[0, 1])
    samples = [[p for p in pieces if p.exemplar == i] for i in {p.exemplar for p in pieces}]
    own = [np.corrcoef(*flat(of_one))[0, 1] for of_one in samples]
    assert measures.per_sample(pieces) == pytest.approx(np.mean(own))


@FRESH
def test_auroc_and_detection_count_pairs(pieces):
    on = np.concatenate([p.pair[0] > (2 if p.side == "picture" else 3) for p in pieces])
    y = flat(pieces)[1].round(1)
    rounded = [made.piece(p.exemplar, p.real, p.simulated.round(1), p.top, p.counts) for p in pieces]
    wins = [(a > b) + 0.5 * (a == b) for a, b in product(y[on], y[~on])]
    assert measures.auroc(rounded) == pytest.approx(np.mean(wins))
    best: dict = {}
    for p in rounded:
        best[p.exemplar] = max(best.get(p.exemplar, (0, p.top)), (p.pair[1].max(), p.top))
    top = {p.exemplar: p.top for p in rounded}
    pairs = [
        (a > b) + 0.5 * (a == b) for i, (a, _) in best.items() for j, (b, _) in best.items() if top[i] and not top[j]
    ]
    if len({p.exemplar for p in rounded}) == len(rounded) and pairs:
        assert measures.detection(rounded) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_ranks_are_those_of_scipy(n):
    rng = seeds.rng()
    for values in (rng.integers(0, 5, n).astype(float), rng.random(n), np.zeros(n), np.append(rng.random(n), np.nan)):
        np.testing.assert_array_equal(ranks(values), rankdata(values))


def test_iou_is_that_of_the_strongest_places_with_ties_drawn_by_lot():
    rng = seeds.rng()
    real, simulated = rng.random((20, 20)), rng.integers(0, 4, (20, 20)).astype(float)
    got = measures.iou([made.piece(0, real, simulated)])
    on = real > np.quantile(real, 0.95)
    k, shares = int(on.sum()), []
    for _ in range(600):
        order = np.argsort(simulated.ravel() + 1e-3 * rng.random(400))[-k:]
        shares.append(on.ravel()[order].mean())
    common = np.mean(shares) * k
    assert got == pytest.approx(common / (2 * k - common), abs=0.02)
    assert measures.iou([made.piece(0, real, real)]) == 1


def test_what_does_not_vary_has_no_correlation_and_never_zero():
    flat_map = [made.piece(i, made.blob(made.RNG), np.full((8, 8), 3.1)) for i in range(9)]
    for measure in (measures.pooled, measures.within, measures.between, measures.per_sample, measures.spearman,
                    measures.iou):  # fmt: skip
        assert np.isnan(measure(flat_map)), measure
        assert np.isnan(measure([])), measure
    assert np.isnan(measures.interval(flat_map, 0)).all()
    turned = [made.piece(p.exemplar, p.simulated, p.real) for p in flat_map]
    assert np.isnan(measures.pooled(turned))


def test_a_resolution_gives_cell_means_rounded_to_levels():
    rng = seeds.rng()
    truth = rng.uniform(0, 10, (8, 12))
    got = Resolution(levels=11, grid=(4, 3)).of_map(truth)
    for row, column in product(range(4), range(3)):
        cell = truth[2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
        assert (got[2 * row : 2 * row + 2, 4 * column : 4 * column + 4] == round(cell.mean())).all()
    uneven = Resolution(grid=(3, 3)).of_map(rng.random((8, 8)))
    assert len(np.unique(uneven)) == 9 and uneven.shape == (8, 8)


@pytest.mark.parametrize("images", [40, 100])
def test_the_interval_over_images_holds_the_true_r(images):
    rng = seeds.rng()

    def draw(n):
        found = []
        for i in range(n):
            real, top = made.blob(rng), i < n // 2
            real = real if top else real * rng.uniform(0.1, 1)
            knows = rng.random() < 0.6
            found.append(made.piece(i, real, real + rng.normal(0, 2, (8, 8)) if knows else made.blob(rng), top))
        return found

    true = measures.pooled(draw(8000))
    inside = [low <= true <= high for low, high in (measures.interval(draw(images), i) for i in range(120))]
    assert np.mean(inside) >= 0.8, f"{np.mean(inside)} (expected about .93)"
    naive = 1.96 * (1 - true**2) / np.sqrt(images * 64)
    wrong = [abs(measures.pooled(draw(images)) - true) <= naive for _ in range(120)]
    assert np.mean(wrong) < 0.7, "places of an image are not independent: the test would have no teeth"


def test_an_interval_that_does_not_hold_its_r_is_none():
    """One sample of most strata, and two of one, each of which is constant: drawn again they say less than together."""
    levels = {"top": 5.0, "rest": 5.0, "active": 5.0, "foreseen": 9.0}
    pieces = []
    for number, (stratum, level) in enumerate([*levels.items(), ("foreseen", 0.0)]):
        values = np.full(4, level) + np.array([0.0, 0.1, 0.0, 0.1])
        pieces.append(Piece(number, stratum == "top", "text", values, values[::-1] * 1.0, np.ones(4, bool), stratum))
    assert measures.weighted(pieces) > 0.9
    assert np.isnan(measures.interval(pieces, 0)).all()


def test_pieces_are_those_of_a_plain_loop_over_places():
    rng, one = seeds.rng(), planted.neurons("color", n=1)[0].evidence
    exemplars, guesses = [], []
    for number, e in enumerate(one.split("test")):
        shapes = [(2, 3), (3, 1)][: number % 3]  # samples without images among them
        sinks = tuple(rng.random(shape) < 0.2 for shape in shapes)
        acts = tuple(np.where(rng.random(shape) < 0.3, np.nan, rng.normal(size=shape)) for shape in shapes)
        exemplars.append(replace(e, seen=replace(e.seen, patch_sinks=sinks), patch_acts=acts, stratum="ab"[number % 2]))
        said = [np.where(rng.random(shape) < 0.3, np.nan, rng.normal(size=shape)) for shape in shapes]
        lost = Prediction(failure=Failure("network", "lost"))
        guesses.append(lost if number % 5 == 4 else Prediction(tuple(said)))
    found = iter(pieces_of(one, exemplars, guesses, "picture"))
    for number, (e, guess) in enumerate(zip(exemplars, guesses, strict=True)):
        for real, sinks, said in zip(e.patch_acts, e.seen.patch_sinks, guess.patch_acts, strict=False):
            counts = ~np.isnan(real) & ~sinks & ~np.isnan(said)
            if not counts.any():
                continue
            piece, x, y = next(found), one.scale(real)[counts], said[counts]
            assert piece.exemplar == number and (piece.counts == counts).all(), f"seed {seeds.SEED}"
            np.testing.assert_allclose(piece.pair, (x, y))
            np.testing.assert_allclose(piece.sums, [len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])
    assert next(found, None) is None
    with pytest.raises(ValueError, match=r"predictions \(3, 2\) for \(2, 3\)"):
        pieces_of(one, exemplars[1:2], [Prediction((np.zeros((3, 2)),))], "picture")
    words = [Prediction(token_acts=np.full(len(e.seen.tokens), 0.5)) for e in exemplars]
    assert all((p.simulated == 0.5).all() for p in pieces_of(one, exemplars, words, "text"))

"""Two and three concepts of a unit are those that trying all finds; the share of the bank is that of a regression."""

from __future__ import annotations

import numpy as np
import pytest
import seeds
import torch

from vlm_neurons.scanning.concept_several import ALIKE, RIDGE, bank_inverse, r_of_sum, several, whole_bank
from vlm_neurons.scanning.concept_units import weights_of

N, K, D = 400, 12, 20


def drawn(rng):
    """Standardised concepts, of which some are nearly sums of others, and units; and all their correlations."""
    concepts = (rng.random((N, K)) < 0.3) * rng.random((N, K))
    concepts[:, 3] = concepts[:, 2] + 0.05 * rng.normal(size=N)
    noise = 0.2 * rng.normal(size=N)
    concepts[:, 4] = concepts[:, 0] + concepts[:, 1] + noise
    concepts[:, 5] = 0.4 - concepts[:, 0] + 0.2 * rng.normal(size=N)
    units = concepts @ (rng.normal(size=(K, D)) * (rng.random((K, D)) < 0.3)) + rng.normal(size=(N, D))
    units[:, -2] = concepts[:, 0] + concepts[:, 1] - 0.2 * noise  # 4 is the best one, but not beside 0 and 1
    concepts, units = ((x - x.mean(0)) / x.std(0) for x in (concepts, units))
    units[:, -1] = concepts @ np.linalg.solve(concepts.T @ concepts, -np.ones(K))  # answers to nothing: all r are < 0
    units[:, -1] /= units[:, -1].std()
    return concepts, units, torch.from_numpy(units.T @ concepts / N), torch.from_numpy(concepts.T @ concepts / N)


def tried(concepts, unit, allowed):
    """Forward selection by regressions on the data, one for every concept that might be added; and how often what adds
    most would make a weight negative."""
    r = concepts.T @ unit / N
    sets, passed = [int(np.where(allowed, r, -np.inf).argmax())], 0
    weights = [np.array([max(r[sets[0]], 0.0)])]
    for _ in range(2):
        found = []
        for k in np.flatnonzero(allowed):
            left = concepts[:, k] - concepts[:, sets] @ np.linalg.lstsq(concepts[:, sets], concepts[:, k])[0]
            if k in sets or left.var() <= ALIKE or weights[-1][-1] == 0:
                continue
            w, rest = np.linalg.lstsq(concepts[:, [*sets, k]], unit)[:2]
            found.append((float(rest[0]), int(k), w))
        found.sort(key=lambda one: one[0])
        fits = [one for one in found if (one[2] >= 0).all()]
        passed += bool(fits and found[0] is not fits[0] and found[0][2][-1] > 0)
        sets.append(fits[0][1] if fits else sets[0])
        weights.append(fits[0][2] if fits else np.append(weights[-1], 0.0))
    return sets, weights, passed


@pytest.mark.parametrize("all_allowed", [True, False])
def test_further_concepts_are_those_that_trying_all_finds(all_allowed):
    concepts, units, r, among = drawn(seeds.rng())
    allowed = np.arange(K) % 5 != (7 if all_allowed else 2)
    chosen = several(r, among, torch.from_numpy(allowed))
    passed = 0
    for i in range(D):
        sets, weights, n = tried(concepts, units[:, i], allowed)
        passed += n
        for m, (own, by) in enumerate(chosen):
            np.testing.assert_allclose(by[i].numpy(), weights[m], atol=1e-9)
            assert [j for j, w in zip(own[i].tolist(), weights[m], strict=True) if w] == [
                j for j, w in zip(sets, weights[m], strict=False) if w
            ]
            total = concepts[:, sets[: m + 1]] @ weights[m]
            told = np.corrcoef(total, units[:, i])[0, 1] if total.any() else 0.0
            assert r_of_sum(r, among, own, by)[i].item() == pytest.approx(told, abs=1e-9)
    assert passed > 0  # what adds most would have made a weight negative: the next best was taken
    assert not chosen[2][1][-1].any()


def test_the_share_of_the_whole_bank_is_that_of_a_regression_with_a_little_ridge():
    concepts, units, r, among = drawn(seeds.rng())
    weights = np.linalg.solve(concepts.T @ concepts / N + RIDGE * np.eye(K), concepts.T @ units / N)
    explained = (concepts.T @ units / N * weights).sum(0)
    np.testing.assert_allclose(whole_bank(r, bank_inverse(among)).numpy(), explained, atol=1e-9)


def test_weights_are_slopes_of_the_regression_whatever_the_spread_of_the_concepts():
    rng = seeds.rng()
    concepts, units, r, among = drawn(rng)
    spreads = rng.uniform(0.01, 2, K)
    chosen = several(r, among, torch.ones(K, dtype=torch.bool))
    sizes = torch.tensor([int((w > 0).sum()) for w in chosen[-1][1]])
    found = torch.stack([*weights_of(torch.from_numpy(spreads), chosen, sizes.clamp(min=1)).values()], 1)
    assert (sizes == 3).sum() > 5
    for unit, size in enumerate(sizes.tolist()):
        sets = chosen[size - 1][0][unit].tolist() if size else []
        slopes = np.linalg.lstsq(concepts[:, sets] * spreads[sets], units[:, unit])[0] if size else np.zeros(0)
        wanted = [*(slopes / slopes.max() if size else []), *[0.0] * (3 - size)]
        np.testing.assert_allclose(found[unit], wanted, atol=1e-6)

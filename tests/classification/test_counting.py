"""Counting classes sample by sample and neuron by neuron gives what looking at each sample alone gives."""

from __future__ import annotations

import numpy as np
import pytest
import seeds
import torch

from vlm_neurons.classification.counting import Counter, least_exceeding, most_common, scale_of
from vlm_neurons.classification.thresholds import Thresholds, sample_classes
from vlm_neurons.scanning.state import TopSamples


def a_state(d: int, top_n: int, dtype: torch.dtype = torch.float32) -> TopSamples:
    """Random values, equal ones among them, and neurons with fewer samples, and with none."""
    rng = torch.Generator().manual_seed(seeds.number())
    visual, text = (
        torch.randn(d, top_n, n, generator=rng).mul(3).round(decimals=1).sort(descending=True).values.to(dtype)
        for n in (4, 2)
    )
    ids = torch.arange(top_n).repeat(d, 1).int()
    ids[torch.arange(top_n) >= torch.randint(0, top_n + 1, (d, 1), generator=rng)] = -1
    return TopSamples(ids, visual, text, torch.full((d,), 9.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_n", [1, 7, 63, 64, 300])
def test_counts_are_those_of_every_sample_looked_at_alone(dtype, top_n):
    state = a_state(40, top_n, dtype)
    for peak in (None, state.peak_all):
        counter = Counter(state) if peak is None else Counter(state).by(peak.float().numpy())
        for rule in (Thresholds(), Thresholds(1.0, 1, 5.0, 1), Thresholds(0.0, 4, 0.0, 2)):
            expected = sample_classes(state, rule, peak).sum(1).numpy()
            assert (expected == counter.counts(rule).T).all()
            labels = np.where(expected.any(1), expected.argmax(1), 3)  # the first of equals; unknown without samples
            assert (most_common(counter.counts(rule)) == labels).all()


def test_several_scales_at_once_are_counted_as_each_alone():
    state = a_state(600, 10)  # more neurons than are turned at a time
    every = [state.peak, state.peak_all, state.visual[:, 1, 0], torch.zeros(600)]
    counter = Counter(state).by(torch.stack(every).numpy())
    for rule in (Thresholds(), Thresholds(2, 4, 5.0, 1), Thresholds(0.0, 1, 5.0, 1), Thresholds()):
        found = counter.counts(rule)
        assert found.shape == (4, 4, 600) and (most_common(found)[3] == 3).all()
        for i, peak in enumerate(every):
            assert (sample_classes(state, rule, peak).sum(1).numpy() == found[:, i].T).all()


def test_the_least_value_that_exceeds_counts_and_the_one_below_it_does_not():
    state, rule = a_state(40, 7), Thresholds()
    state.sample_ids[:] = torch.arange(7).int()
    state.text[:], state.visual[..., 3] = -1.0, -1.0
    least = torch.from_numpy(least_exceeding(scale_of(state.peak.numpy()), rule.t_visual))
    state.visual[:, 1, 3], state.visual[:, 2, 3] = least, torch.nextafter(least, torch.tensor(0.0))
    known = (~least.isnan()).numpy()
    assert known.sum() > 20 and (Counter(state).counts(rule)[0] == known).all()
    assert (sample_classes(state, rule).sum(1).numpy() == Counter(state).counts(rule).T).all()


def test_what_a_value_has_to_reach_is_the_least_that_exceeds_the_threshold_once_normalised():
    rng = np.random.default_rng(seeds.number())
    peak = np.concatenate([
        rng.lognormal(0, 3, 2000), 10.0 ** rng.uniform(-45, 38.5, 2000), [0.0, -1.0, np.inf, np.nan, 1e-45, 3.4e38],
    ]).astype(np.float32)  # fmt: skip
    known = (peak > 0) & np.isfinite(peak)
    for threshold in [0.0, 1e-44, 2e-44, 1e-38, 1.0, 2.0, 3.0, 9.999999, *rng.uniform(0, 10, 200)]:
        least, at = least_exceeding(scale_of(peak), threshold), np.float32(threshold)
        assert (np.isnan(least) == ~known).all()
        below = np.nextafter(least[known], np.float32(0))
        with np.errstate(over="ignore"):
            assert ((least[known] / peak[known] * np.float32(10) > at) | np.isinf(least[known])).all()
            assert not (below / peak[known] * np.float32(10) > at).any()

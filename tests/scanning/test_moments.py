"""Moments of a scan equal plain sums over stored activations, however the samples come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm_neurons.scanning.moments import Moments, image_means
from vlm_neurons.scanning.summarise import rows_by_kind


def random_batch(n, d=5, width=13):
    """Activations [n, pos, d] and kinds; some rows lack images, all padding is infinite."""
    kinds = torch.randint(1, 4, (n, width))
    kinds[:, 0], kinds[0] = 3, torch.randint(0, 2, (width,)) * 2 + 1  # row 0 has no image
    for row in range(1, n):
        kinds[row, width - row % 4 :] = 0
    acts = torch.randn(n, width, d)
    return acts.masked_fill((kinds == 0)[..., None], torch.inf), kinds


def reference(acts, kinds, sign):
    """In plain Python, one image at a time."""
    sums, active, n = np.zeros((acts.shape[2], 9)), np.zeros((acts.shape[2], 2), int), 0
    for a, k in zip(acts.double().numpy(), kinds.numpy(), strict=True):
        if not ((k == 2).any() and (k == 3).any()):
            continue
        n += 1
        for j in range(a.shape[1]):
            v, t = (np.mean([max(sign * x, 0) for x in a[k == kind, j]]) for kind in (2, 3))
            sums[j] += [v, t, v * v, t * t, v * t, v**3, v * v * t, v * t * t, t**3]
            active[j] += [v > 0, t > 0]
    return sums, active, n


@pytest.mark.parametrize("pole", ["+", "-"])
def test_moments_equal_sums_over_images_in_any_batches_and_shards(pole):
    acts, kinds = random_batch(24)
    sums, active, n = reference(acts, kinds, 1 if pole == "+" else -1)
    shards = [Moments.empty(5) for _ in range(3)]
    for start in range(0, 24, 4):
        here = slice(start, start + 4)
        means = image_means(acts[here].flatten(0, 1), rows_by_kind(kinds[here]), pole)
        shards[start % 3].update(*means)
    shards[2].merge(shards[0])
    shards[2].merge(shards[1])
    assert np.allclose(shards[2].sums, sums, rtol=1e-5, atol=1e-7)
    assert (shards[2].active.numpy() == active).all() and shards[2].n_images.tolist() == [n] * 5


def test_sixteen_bit_activations_are_summed_in_float32():
    acts = torch.full((1, 600, 1), 1.0, dtype=torch.bfloat16)  # a bfloat16 sum of ones stops at 256
    kinds = torch.tensor([[2] * 580 + [3] * 20])
    visual, text = image_means(acts.flatten(0, 1), rows_by_kind(kinds))
    assert visual.tolist() == [[1.0]] and text.tolist() == [[1.0]]

"""LLaVA-OneVision's tokens of large pictures, which are mixtures of patches, look where the batch says: measured."""

from __future__ import annotations

from typing import Any

import built_tiles
import pytest
import seeds
import tiny
import torch
from test_family_geometry import some_size

import vlm_neurons as vn
from vlm_neurons.models import measure_geometry
from vlm_neurons.models.adapters.llava_onevision import mixture


@pytest.fixture(scope="module", params=[4, 1], ids=["all patches are in tokens", "some are in none"])
def model(request: pytest.FixtureRequest) -> vn.HookedVLM:
    return vn.HookedVLM(*built_tiles.llava_onevision(request.param))


@pytest.mark.parametrize("size", [(93, 93), (200, 150), None])
def test_mixed_tokens_and_rows_of_the_tower_are_where_the_batch_says(model: vn.HookedVLM, size: Any):
    size = size or some_size(seeds.rng(), least=60, most=160)
    batch = model.prepare([tiny.image(*size)], "Hi")
    found = measure_geometry(model, batch, "all", progress=False)
    assert {"embedding", "vision.0.mlp.hook_post"} <= set(found.table["where"])
    most = int(model.config.vision_aspect_ratio.removeprefix("anyres_max_"))
    if most == 1:  # rows of patches that are in no token
        assert found.differences.problem.str.endswith("is said to have no patch").all()
        assert "embedding" not in set(found.differences["where"])
    else:
        found.check()
    if size == (93, 93):
        assert len(batch.patches) == 16 + 16 * most  # 3 x 3 tiles of 4 x 4 patches, mixed down
        assert batch.seen_image(0).size == (93, 31 + 93)


@pytest.mark.parametrize(("patches", "tokens"), [(12, 8), (12, 4), (7, 5), (27, 11), (9, 3)])
def test_shares_of_patches_are_those_of_interpolate(patches: int, tokens: int):
    each = torch.eye(patches)[None]  # every patch a channel of its own
    weights = torch.nn.functional.interpolate(each[..., None], [tokens, 1], mode="bilinear")[0, :, :, 0].T
    found = mixture(patches, tokens)
    for k, share in enumerate(weights):
        there = (share > 1e-4).nonzero().flatten().tolist()
        assert [found.first[k], found.last[k]] == [there[0], there[-1]]
        assert share[found.most[k]] == pytest.approx(float(share.max()), abs=1e-5)
    for patch, share in enumerate(weights.T):
        owner = found.owner[patch]
        assert owner == -1 if not (share > 1e-4).any() else share[owner] == pytest.approx(float(share.max()), abs=1e-5)

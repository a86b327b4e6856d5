"""Evidence of a model that shows an image whole and in tiles: gaps of the sheet are nowhere, and count for nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import vlm_neurons as vn
from vlm_neurons.autointerp.simulators.baselines import ImageOnly, PositionPrior
from vlm_neurons.concepts import Concept, visual_bank
from vlm_neurons.viz.colours import heat

sys.path.append(str(Path(__file__).parents[1] / "families"))
import built_tiles


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> dict[str, vn.Evidence]:
    model = vn.HookedVLM(*built_tiles.llava_next())
    data = vn.ImageTextData.from_samples(
        {"image": tiny.image(*((100, 31), (60, 60), (23, 90))[i % 3]), "prompt": "Hi", "response": f"{i} dogs"}
        for i in range(12)
    )
    run = vn.scan(model, data, ["gate", "projector"], top_n=6, out=tmp_path_factory.mktemp("run"), progress=False)
    return vn.gather_evidence(model, data, run, neurons=["L1N3", "P0N7"], out=run, progress=False)


def test_only_patches_have_values_and_boxes(evidence: dict[str, vn.Evidence]) -> None:
    assert any(np.isnan(e.patch_acts[0]).any() for e in evidence["P0N7"].exemplars)
    for one in evidence.values():
        for e in one.exemplars:
            (acts,), (boxes,), (image,) = e.patch_acts, e.seen.boxes, e.seen.images
            gaps = np.isnan(boxes[..., 0])
            assert (np.isnan(acts) == gaps).all()
            step = image.width / acts.shape[1]
            rows, columns = np.nonzero(~gaps)
            assert np.array_equal(boxes[~gaps][:, :2], np.stack([columns, rows], 1) * step)
            assert e.seen.whole_rows == (4,) and e.seen.in_tiles(0)[4:].all() and not e.seen.in_tiles(0)[:4].any()
            assert (np.asarray(heat(acts, 1.0))[..., 3] > 0).tolist() == (~gaps).tolist()


def test_stored_evidence_knows_its_tiles(evidence: dict[str, vn.Evidence], tmp_path: Path) -> None:
    from vlm_neurons.evidence import load, save

    again = load(save(evidence, tmp_path / "evidence.parquet"))
    assert [e.seen.whole_rows for e in again["L1N3"].exemplars] == [(4,)] * len(evidence["L1N3"].exemplars)


def with_values(one: vn.Evidence, acts: Any) -> vn.Evidence:
    """The evidence with other activations at patches: those of a function of what was seen."""
    exemplars = tuple(
        replace(e, patch_acts=(np.where(np.isnan(e.seen.boxes[0][..., 0]), np.nan, acts(e.seen)).astype(np.float32),))
        for e in one.exemplars
    )
    return replace(one, exemplars=exemplars, label="visual", peak=1.0)


def test_the_whole_picture_and_its_tiles_are_pictures_of_their_own(evidence: dict[str, vn.Evidence]) -> None:
    for e in evidence["L1N3"].exemplars:
        (maps,), tiles = visual_bank(e.seen), e.seen.in_tiles(0)
        there = ~np.isnan(e.seen.boxes[0][..., 0])
        for part in (there & tiles, there & ~tiles):
            rows = np.flatnonzero(part.any(1))
            assert (maps[Concept("position", "top")][rows[0], part[rows[0]]] == 1).all()
            assert (maps[Concept("position", "bottom")][rows[-1], part[rows[-1]]] == 1).all()


def test_what_is_black_around_the_pictures_explains_nothing(evidence: dict[str, vn.Evidence]) -> None:
    """Noise at patches is noise: that gaps are black and silent must not make it "anything but black"."""
    rng = np.random.default_rng(0)
    noise = with_values(evidence["L1N3"], lambda seen: rng.uniform(0.5, 1, seen.boxes[0].shape[:2]))
    found = vn.explain({"L1N3": noise}, vn.explainers.DissectionExplainer(n_null=50), progress=False)["L1N3"]
    assert found.text == "no clear pattern"


@pytest.mark.parametrize("baseline", [PositionPrior, ImageOnly])
def test_baselines_take_means_over_patches_alone(evidence: dict[str, vn.Evidence], baseline: Any) -> None:
    ones = with_values(evidence["L1N3"], lambda seen: np.ones(seen.boxes[0].shape[:2]))
    found = baseline(evidence=ones).simulate("anything", ones.split("test"), "picture")
    maps = [p.patch_acts[0] for p in found if not p.failure]
    assert maps
    assert all(np.nanmin(m) == pytest.approx(10) for m in maps)

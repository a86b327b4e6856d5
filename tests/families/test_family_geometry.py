"""Every visual position, and every row of the vision and projector sites, looks where the batch says: measured.

And the measurement finds what is wrong: every claim in `wrong_claims` is one that somebody could make of this family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import builders
import pytest
import seeds
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.models import Batch, measure_geometry
from vlm_neurons.models.measuring import compare, look_at


def some_size(rng: Any, least: int = 24, most: int = 320) -> tuple[int, int]:
    """Any shape from 1:8 to 8:1."""
    ratio, side = math.exp(rng.uniform(-1, 1) * math.log(8) / 2), math.exp(rng.uniform(math.log(least), math.log(most)))
    return max(1, round(side * ratio)), max(1, round(side / ratio))


def prepared(model: vn.HookedVLM, *rows: list[tuple[int, int]]) -> Batch:
    """A batch of images of these sizes, one list for every row."""
    return model.prepare([[tiny.image(*size) for size in row] for row in rows], tiny.PROMPTS[: len(rows)])


def agrees(model: vn.HookedVLM, batch: Batch, positions: Any) -> None:
    found = measure_geometry(model, batch, positions, progress=False)
    found.check()
    assert found.ok
    measured = found.table[found.table.measured.notna()]
    # one of every image in the backbone, and at every kind of site
    assert set(measured[measured["where"] == "embedding"].image) == set(range(len(batch.images)))
    assert {hook.split(".")[0] for hook in measured["where"]} - {"embedding"} == set(batch.site_rows)


SHAPES = {
    "smaller than a patch": [(5, 3)],
    "larger than all tiles": [(700, 460)],
    "wide": [(160, 20)],
    "tall": [(25, 200)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_patches_of_odd_shapes_are_where_the_batch_says(family: builders.Made, shape: str):
    agrees(family.model, prepared(family.model, SHAPES[shape]), 12)


def test_all_patches_of_any_picture_are_where_the_batch_says(family: builders.Made):
    agrees(family.model, prepared(family.model, [some_size(seeds.rng(), most=160)]), "all")


def test_two_pictures_of_a_row_are_told_apart(family: builders.Made):
    rng = seeds.rng()
    agrees(family.model, prepared(family.model, [some_size(rng), some_size(rng)]), 12)


def test_rows_with_two_pictures_none_and_one(family: builders.Made):
    rng = seeds.rng()
    agrees(family.model, prepared(family.model, [some_size(rng), some_size(rng)], [], [some_size(rng)]), 12)


def reordered(batch: Batch, key: Any) -> Batch:
    """The patches of every image in another order."""
    return replace(batch, patches=tuple(sorted(batch.patches, key=lambda p: (p.image, *key(p)))))


def with_rows(batch: Batch, site: str, change: Any) -> Batch:
    """Other rows of a site."""
    return replace(batch, site_rows={**batch.site_rows, site: tuple(map(change, batch.site_rows[site]))})


def order_of_windows(batch: Batch, rows: torch.Tensor) -> torch.Tensor:
    """Rows in windows of 2 x 2 patches where they are row by row, and row by row where they are not."""
    first = [p for p in batch.patches if p.image == 0]
    if rows.tolist() != sorted(rows.tolist()):
        return rows.sort().values
    places = sorted(range(len(first)), key=lambda k: (first[k].row // 2, first[k].column // 2, k))
    return torch.tensor([places[k] if k >= 0 else -1 for k in rows.tolist()])


def wrong_claims(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """What somebody could say of a family, of the batch of one image."""
    yield "rows and columns exchanged", reordered(batch, lambda p: (p.tile < 0, p.tile, p.column, p.row))
    visual = batch.patch_index >= 0
    shifted = batch.patch_index.clone()
    shifted[visual] = batch.patch_index[visual].roll(1)
    yield "shifted by one", replace(batch, patch_index=shifted)
    boxes = [tuple(v * (1.1, 1)[k % 2] for k, v in enumerate(p.original_box)) for p in batch.patches]
    wider = [replace(p, original_box=box) for p, box in zip(batch.patches, boxes, strict=True)]
    yield "a tenth too wide", replace(batch, patches=tuple(wider))
    if len({p.tile for p in batch.patches}) > 1:
        last = batch.patches[-1].tile < 0
        yield (
            "the thumbnail at the other end",
            reordered(batch, lambda p: ((p.tile >= 0) == last, p.tile, p.row, p.column)),
        )
        yield "tiles in reverse", reordered(batch, lambda p: (p.tile < 0, -p.tile, p.row, p.column))
    for site, (rows,) in batch.site_rows.items():
        yield f"{site}: rows shifted by one", with_rows(batch, site, lambda r: r.roll(1))
        yield f"{site}: order of windows", with_rows(batch, site, lambda r: order_of_windows(batch, r))
        if bool((rows < 0).any()):
            yield f"{site}: no rows but patches", with_rows(batch, site, lambda r: r[r >= 0])
            yield f"{site}: the others at the end", with_rows(batch, site, lambda r: torch.cat([r[r >= 0], r[r < 0]]))
            yield f"{site}: the others at the start", with_rows(batch, site, lambda r: torch.cat([r[r < 0], r[r >= 0]]))
        else:
            yield f"{site}: a class token", with_rows(batch, site, lambda r: torch.cat([torch.tensor([-1]), r]))


def says_the_same(a: Batch, b: Batch) -> bool:
    def said(batch: Batch) -> Any:
        rows = {site: [r.tolist() for r in rows] for site, rows in batch.site_rows.items()}
        return batch.patches, batch.patch_index.tolist(), rows

    return bool(said(a) == said(b))


def test_every_wrong_claim_is_found(family: builders.Made):
    batch = prepared(family.model, [(150, 110)])
    look = look_at(family.model, batch)
    assert compare(look, batch, 12, False, 0).ok
    claims = {name: wrong for name, wrong in wrong_claims(batch) if not says_the_same(batch, wrong)}
    assert {"rows and columns exchanged", "shifted by one", "a tenth too wide"} <= set(claims)
    believed = [name for name, wrong in claims.items() if compare(look, wrong, 12, False, 0).ok]
    assert not believed


def test_a_claim_about_another_picture_is_found(family: builders.Made):
    batch = prepared(family.model, [(90, 64), (90, 64)])  # as many patches each
    exchanged = tuple(replace(p, image=1 - p.image) for p in batch.patches)
    found = measure_geometry(family.model, replace(batch, patches=exchanged), 3, False)
    said = found.differences[found.differences["where"] == "embedding"].problem
    assert len(said) and all("of image 0, " in one or "of image 1, " in one for one in said)
    with pytest.raises(ValueError, match=r"differ\. The first is '"):
        found.check()

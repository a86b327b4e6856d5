"""Images that a family shows whole and in tiles lie on one sheet, and what is said of its places is right."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vlm_neurons as vn

sys.path.append(str(Path(__file__).parents[1] / "families"))
import built_tiles

SIZES = [(40, 33), (100, 31), (23, 90), (200, 150), (9, 60)]  # width, height


@pytest.fixture(scope="module", params=built_tiles.FAMILIES)
def model(request: pytest.FixtureRequest) -> vn.HookedVLM:
    return vn.HookedVLM(*built_tiles.FAMILIES[request.param]())


def ramps(width: int, height: int) -> Image.Image:
    """Red is the column, green the row, blue everywhere 255, so that black is padding."""
    xs, ys = np.meshgrid((np.arange(width) + 0.5) * 255 / width, (np.arange(height) + 0.5) * 255 / height)
    return Image.fromarray(np.stack([xs, ys, 0 * xs + 255], -1).round().astype(np.uint8))


def sizes(model: vn.HookedVLM, batch: vn.models.Batch) -> tuple[int, int, int]:
    """Pixels of a view's side, patches at it, and pixels of a patch's side."""
    vision, n = model.config.vision_config, sum(patch.tile < 0 and patch.row == 0 for patch in batch.patches)
    side, pixels = (one if isinstance(one, int) else one[0] for one in (vision.image_size, vision.patch_size))
    return side, n, side // pixels // n * pixels


def test_every_place_of_a_sheet_shows_what_its_patch_shows_of_the_picture(model: vn.HookedVLM) -> None:
    for width, height in SIZES:
        batch = model.prepare([ramps(width, height)], "Hi")
        sheet, (rows, columns) = np.asarray(batch.seen_image(0)).astype(float), batch.grids[0]
        places = {(patch.row, patch.column): patch for patch in batch.patches}
        assert len(places) == len(batch.patches)
        side, n, step = sizes(model, batch)
        assert sheet.shape == (rows // n * side, columns // n * side, 3)
        compared = 0
        for (row, column), patch in places.items():
            left, top = (k // n * side + k % n * step for k in (column, row))
            assert patch.box == (left, top, left + step, top + step)
            x0, y0, x1, y1 = map(int, patch.box)
            shown, (left, top, right, bottom) = sheet[y0:y1, x0:x1], patch.original_box
            if (shown[..., 2] < 250).any():  # padding at the edge of what is kept
                continue
            mean = shown.mean((0, 1))
            off = mean[0] * width / 255 - (left + right) / 2, mean[1] * height / 255 - (top + bottom) / 2
            assert abs(off[0]) <= 1 + (right - left) / 4 and abs(off[1]) <= 1 + (bottom - top) / 4, (width, patch, off)
            compared += 1
        assert compared >= len(places) / 2


def test_gaps_of_a_sheet_are_black_or_padding(model: vn.HookedVLM) -> None:
    batch = model.prepare([ramps(100, 31)], "Hi")
    sheet, (side, n, step) = np.asarray(batch.seen_image(0)), sizes(model, batch)
    gaps = np.ones(batch.grids[0], bool)
    for patch in batch.patches:
        gaps[patch.row, patch.column] = False
    assert gaps.any()
    black = np.zeros(sheet.shape[:2], bool)
    for row, column in np.argwhere(gaps):
        left, top = (k // n * side + k % n * step for k in (column, row))
        black[top : top + step, left : left + step] = True
    assert (sheet[black] == 0).mean() > 0.9


# of the processor, what its count of image tokens follows from
COUNTS = {
    "llava_next": ("patch_size", 14), "llava_onevision": ("num_image_tokens", 25), "idefics3": ("image_seq_len", 5),
    "smolvlm": ("image_seq_len", 5), "internvl": ("image_seq_length", 5), "aya_vision": ("img_size", 64),
}  # fmt: skip


def test_the_processor_writes_its_image_tokens_itself(model: vn.HookedVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.bridge.processor, *COUNTS[model.adapter.name])
    with pytest.raises(vn.models.SettingsError, match=r"expands image 0 to \d+ tokens, the model has \d+ places"):
        model.prepare([ramps(40, 33)], "Hi")

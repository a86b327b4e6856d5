"""Patches look where their boxes say, in the processed and in the original image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
from PIL import Image

from vlm_neurons.models.adapters import adapter_of
from vlm_neurons.models.adapters.geometry import layout
from vlm_neurons.models.prepare import prepare
from vlm_neurons.models.template import words_of

rng = seeds.rng()


def settings() -> list[tuple[str, Any]]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    square = {"height": 28, "width": 28}
    return [
        ("shortest edge and crop", CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=square)),
        ("larger than the crop", CLIPImageProcessorPil(size={"shortest_edge": 37}, crop_size=square)),
        ("smaller than the crop: padded", CLIPImageProcessorPil(size={"shortest_edge": 19}, crop_size=square)),
        ("squeezed, then cropped", CLIPImageProcessorPil(size={"height": 40, "width": 33}, crop_size=square)),
        ("squeezed, no crop", CLIPImageProcessorPil(size=square, do_center_crop=False)),
        ("cropped only", CLIPImageProcessorPil(do_resize=False, crop_size=square)),
    ]


def batch_of(image: Image.Image, image_processor: Any) -> Any:
    tok = tiny.tokenizer()
    processor = tiny.processor(tok)
    processor.image_processor = image_processor
    config = tiny.llava(tok).config
    return prepare(processor, config, adapter_of(config), words_of(processor, config), [image], ["a"])


@pytest.mark.parametrize("name", [n for n, _ in settings()])
def test_a_mark_in_the_original_shows_in_the_patch_whose_box_holds_it(name: str) -> None:
    image_processor = dict(settings())[name]
    for _ in range(6):
        width, height = (int(v) for v in rng.integers(30, 300, 2))
        x, y = int(rng.integers(0, width - 8)), int(rng.integers(0, height - 8))
        picture = Image.new("RGB", (width, height), (0, 0, 0))
        side = max(3, min(width, height) // 28)
        picture.paste((255, 255, 255), (x, y, x + side, y + side))
        batch = batch_of(picture, image_processor)
        seen = np.asarray(batch.seen_image(0)).astype(float).sum(-1)
        assert seen.shape == (28, 28)
        cx, cy = x + side / 2, y + side / 2
        inside = [
            p
            for p in batch.patches
            if p.original_box[0] <= cx < p.original_box[2] and p.original_box[1] <= cy < p.original_box[3]
        ]
        if not inside:  # cropped away
            continue
        rows, columns = np.nonzero(seen == seen.max())  # an unscaled mark is white all over, in several patches
        left, top, right, bottom = inside[0].box
        assert len(inside) == 1
        assert ((left - 1 <= columns) & (columns <= right) & (top - 1 <= rows) & (rows <= bottom)).any()


@pytest.mark.parametrize("name", [n for n, _ in settings()])
def test_original_boxes_hold_what_the_patches_show(name: str) -> None:
    """Brute force: in an image whose colours are its coordinates, a patch's mean colour is its box's centre."""
    image_processor = dict(settings())[name]
    for _ in range(4):
        width, height = (int(v) for v in rng.integers(60, 250, 2))
        xs, ys = np.meshgrid(np.arange(width), np.arange(height))
        ramp = np.stack([xs * 255 / width, ys * 255 / height, 0 * xs], -1).round().astype(np.uint8)
        batch = batch_of(Image.fromarray(ramp), image_processor)
        seen = np.asarray(batch.seen_image(0)).astype(float)
        placed = layout(image_processor, (height, width))
        compared = 0
        for patch in batch.patches:
            x0, y0, x1, y1 = (int(v) for v in patch.box)
            # only patches that are image all over: at padding there is nothing to compare
            top, left = placed.offset
            if x0 + left < 1 or y0 + top < 1 or x1 + left > placed.resized[1] - 1 or y1 + top > placed.resized[0] - 1:
                continue
            mean = seen[y0:y1, x0:x1].mean((0, 1))
            bx0, by0, bx1, by1 = patch.original_box
            expected = ((bx0 + bx1) / 2 * 255 / width, (by0 + by1) / 2 * 255 / height)
            step = 255 * max(1 / placed.resized[0], 1 / placed.resized[1], 1 / width, 1 / height)
            assert abs(mean[0] - expected[0]) <= step and abs(mean[1] - expected[1]) <= step
            compared += 1
        assert compared >= 1


def test_layout_gives_the_size_that_the_processor_makes() -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    for _ in range(40):
        height, width = (int(v) for v in rng.integers(5, 400, 2))
        edge = int(rng.integers(5, 60))
        processor = CLIPImageProcessorPil(size={"shortest_edge": edge}, do_center_crop=False)
        made = processor(Image.new("RGB", (width, height)), return_tensors="pt")["pixel_values"].shape[-2:]
        assert layout(processor, (height, width)).resized == tuple(made)


def test_boxes_tile_the_processed_image_and_stay_in_the_original() -> None:
    for name, image_processor in settings():
        batch = batch_of(tiny.image(90, 41), image_processor)
        assert [p.box for p in batch.patches] == [
            (7.0 * c, 7.0 * r, 7.0 * c + 7, 7.0 * r + 7) for r in range(4) for c in range(4)
        ]
        assert [(p.row, p.column) for p in batch.patches] == [(r, c) for r in range(4) for c in range(4)]
        for patch in batch.patches:
            x0, y0, x1, y1 = patch.original_box
            assert 0 <= x0 <= x1 <= 90 and 0 <= y0 <= y1 <= 41, name


def test_a_patch_that_shows_only_padding_has_an_empty_box() -> None:
    batch = batch_of(tiny.image(100, 100), dict(settings())["smaller than the crop: padded"])
    x0, y0, x1, y1 = batch.patches[0].original_box
    assert batch.patches[5].original_box[2] > batch.patches[5].original_box[0]
    assert (x0, y0) == (0, 0) and x1 > 0 and y1 > 0  # 19 of 28: patch 0 holds the corner of the image
    small = batch_of(tiny.image(10, 10), _crop_only())
    x0, _, x1, _ = small.patches[0].original_box
    assert x0 == x1


def _crop_only() -> Any:
    return dict(settings())["cropped only"]


def test_the_seen_image_is_what_resizing_and_cropping_give() -> None:
    picture = tiny.image(28, 28)
    batch = batch_of(picture, dict(settings())["shortest edge and crop"])
    assert np.array_equal(np.asarray(batch.seen_image(0)), np.asarray(picture))
    with pytest.raises(IndexError, match="has 1 images"):
        batch.seen_image(1)


def test_a_family_of_another_layout_of_pixels_tells_what_an_image_looks_like() -> None:
    tok = tiny.tokenizer()
    processor, config = tiny.processor(tok), tiny.llava(tok).config
    upside_down = replace(adapter_of(config), seen=lambda processor, own: own["pixel_values"][0].flip(1))
    picture = tiny.image(28, 28)
    batch = prepare(processor, config, upside_down, words_of(processor, config), [picture], ["a"])
    assert np.array_equal(np.asarray(batch.seen_image(0)), np.asarray(picture)[::-1])
    assert batch.pixel_values is not None
    rows = batch.pixel_values.reshape(-1, 7)  # no image dimension
    packed = replace(batch, image_inputs={"pixel_values": rows}, splits={"pixel_values": (0, [len(rows)])},
                     _seen=_unpacked)  # fmt: skip
    assert np.array_equal(np.asarray(packed.seen_image(0)), np.asarray(picture))


def _unpacked(image_processor: Any, own: Any) -> Any:
    return own["pixel_values"].reshape(3, 28, 28)


def test_a_processor_whose_geometry_is_unknown_is_refused() -> None:
    _, image_processor = settings()[0]
    image_processor.do_pad = True
    with pytest.raises(ValueError, match="do_pad"):
        layout(image_processor, (10, 10))
    image_processor.do_pad = False
    image_processor.size = {"shortest_edge": 28, "longest_edge": 60}
    with pytest.raises(ValueError, match="shortest_edge"):
        layout(image_processor, (10, 10))

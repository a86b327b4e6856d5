"""Pictures keep their pixels and lose everything else."""

from __future__ import annotations

import base64
import io

import numpy as np
import seeds
from PIL import Image

from vlm_neurons.viz.colours import cividis, data_uri, heat
from vlm_neurons.viz.wording import LONGEST, joints, visible


def decoded(uri: str) -> tuple[bytes, Image.Image]:
    raw = base64.b64decode(uri.split(",", 1)[1])
    return raw, Image.open(io.BytesIO(raw))


def test_metadata_stays_behind() -> None:
    for size in ((40, 30), (400, 300)):
        image = Image.new("RGB", size, (200, 30, 30))
        exif = Image.Exif()
        exif[0x010E] = "secret place"
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", exif=exif, comment=b"secret comment")
        opened = Image.open(buffer)
        opened.load()
        opened.info["comment"] = b"secret comment"
        raw, again = decoded(data_uri(opened))
        assert b"secret" not in raw and not again.getexif() and again.size == size


def test_small_pictures_keep_every_pixel() -> None:
    pixels = seeds.rng().integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert (np.asarray(decoded(data_uri(image))[1]) == pixels).all()
    assert data_uri(image) == data_uri(image.copy())


def test_hotter_patches_are_brighter_and_never_the_wrong_way_round() -> None:
    values = seeds.rng().normal(0, 1, (5, 7)).astype(np.float32)
    picture = np.asarray(heat(values, float(values.max()))).astype(float)
    assert picture.shape == (5, 7, 4)
    brightness = picture[..., :3] @ [0.2126, 0.7152, 0.0722]
    order = np.clip(values, 0, None).ravel().argsort(kind="stable")
    assert (np.diff(brightness.ravel()[order]) >= -1).all()  # channels are rounded to whole numbers
    assert brightness.ravel()[order[-1]] > brightness.ravel()[order[0]] + 100
    assert (picture[values <= 0][:, :3] == cividis(np.array(0.0))).all()


def test_values_that_are_no_numbers_and_an_empty_scale_are_cold() -> None:
    cold = cividis(np.array(0.0))
    assert (np.asarray(heat(np.array([[np.nan, 1.0]], np.float32), 1.0))[0, 0, :3] == cold).all()
    assert (np.asarray(heat(np.ones((2, 2), np.float32), 0.0))[..., :3] == cold).all()


def test_no_token_is_invisible() -> None:
    for token in ["", " ", "   ", "\n", "\t", "\u200b", "\u202e", "\x00", "\xa0", "\ufeff", "\u2028", "\u00ad"]:
        shown = visible(token)
        assert shown.strip() and all(c.isprintable() for c in shown), repr(token)
    assert visible(" a b") == " a b"


def test_lines_break_between_words_and_never_grow_without_end() -> None:
    rng = seeds.rng()
    pieces = [" dog", "s", ".", "", "ab", "世", "界", " ", "/", "x" * 40, "\n", ")", "7"]
    for _ in range(200):
        tokens = [pieces[i] for i in rng.integers(0, len(pieces), 40)]
        joined = joints(tokens)
        lines, widest = [""], max(map(len, tokens))
        for token, stays in zip(tokens, joined, strict=True):
            lines = [*lines[:-1], lines[-1] + token] if stays else [*lines, token]
            assert not (stays and token[:1] in (" ", "\n", "/", "世", "界"))
        assert "".join(lines) == "".join(tokens) and max(map(len, lines)) <= max(LONGEST, widest)
    assert joints([" sm", "all", " dog", "."]) == [False, True, False, True]

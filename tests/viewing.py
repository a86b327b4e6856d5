"""What banks of concepts are told of samples that a model was shown."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.protocols import View


def view_of(
    model: vn.HookedVLM,
    images: Sequence[Image.Image],
    response: str = "a red cat.",
    *,
    name: str = "mine",
    paths: Sequence[str | None] | None = None,
    truth: Any = None,
) -> View:
    """One sample with all of its images."""
    batch = model.prepare([list(images)], "What is it?", [response])
    places = [[p for p in batch.patches if p.image == i] for i in range(len(images))]
    tokens = [t for t, kind in zip(batch.tokens(0), batch.kinds[0].tolist(), strict=True) if kind == vn.TokenKind.TEXT]
    return View(
        name,
        tuple(batch.seen_image(i) for i in range(len(images))),
        tuple(np.array([p.box for p in of], float) for of in places),
        tuple(np.array([(p.row, p.column, p.tile) for p in of]) for of in places),
        batch.grids,
        tuple(images),
        tuple(np.array([p.original_box for p in of], float) for of in places),
        tuple(paths) if paths is not None else (None,) * len(images),
        tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images),
        tuple(tokens),
        truth,
    )


def share_by_loops(mask: np.ndarray, box: Sequence[float]) -> float:
    """Every pixel by the part of it that a box (left, top, right, bottom) covers."""
    total = area = 0.0
    left, top, right, bottom = (float(v) for v in box)
    for y in range(max(0, int(np.floor(top))), min(mask.shape[0], int(np.ceil(bottom)))):
        for x in range(max(0, int(np.floor(left))), min(mask.shape[1], int(np.ceil(right)))):
            part = max(0, min(bottom, y + 1) - max(top, y)) * max(0, min(right, x + 1) - max(left, x))
            total, area = total + part * float(mask[y, x]), area + part
    return total / area if area else 0.0

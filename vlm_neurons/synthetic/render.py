"""From a scene to pixels and to the exact coverage of every patch."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from einops import reduce
from jaxtyping import Float, UInt8

from vlm_neurons.synthetic.scene import COLORS, IMAGE_SIZE, PATCH_SIZE, Scene, Thing

_FINE = 4  # sub-pixels per pixel and axis: for smooth edges; coverage is exactly what is drawn
_SHADE = {"dark": 62.0, "light": 196.0}
_CONTRAST = 26.0


def render(scene: Scene) -> UInt8[np.ndarray, "64 64 3"]:
    """Draw the picture.

    Returns:
        RGB pixels.
    """
    picture = np.repeat(_background(scene)[:, :, None], 3, axis=2)
    for thing in scene.things:
        alpha = alpha_of(thing)[:, :, None]
        picture = picture * (1 - alpha) + alpha * np.asarray(COLORS[thing.color], dtype=np.float64) * thing.light
    picture = picture * scene.brightness + 255 * np.asarray(scene.tint)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def alpha_of(thing: Thing) -> Float[np.ndarray, "64 64"]:
    """Share of every pixel that an object covers, in [0, 1]."""
    left, right = max(floor(thing.x - thing.radius), 0), min(ceil(thing.x + thing.radius), IMAGE_SIZE)
    top, bottom = max(floor(thing.y - thing.radius), 0), min(ceil(thing.y + thing.radius), IMAGE_SIZE)
    x = (np.arange(left * _FINE, right * _FINE) + 0.5) / _FINE - thing.x
    y = (np.arange(top * _FINE, bottom * _FINE) + 0.5) / _FINE - thing.y
    inside = _inside(thing.shape, x[None, :] / thing.radius, y[:, None] / thing.radius)
    alpha = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    alpha[top:bottom, left:right] = reduce(inside * 1.0, "(y fy) (x fx) -> y x", "mean", fy=_FINE, fx=_FINE)
    return alpha


def coverage(scene: Scene) -> Float[np.ndarray, "things 8 8"]:
    """Share of every 8 x 8 pixel patch that each object covers, in [0, 1]; rows first."""
    alphas = np.stack([alpha_of(t) for t in scene.things])
    return reduce(alphas, "thing (row y) (column x) -> thing row column", "mean", y=PATCH_SIZE, x=PATCH_SIZE)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape of radius 1 around the origin."""
    ax, ay = np.abs(x), np.abs(y)
    match shape:
        case "circle":
            return x**2 + y**2 <= 1
        case "ring":
            return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.55**2)
        case "square":
            return (ax <= 0.86) & (ay <= 0.86)
        case "diamond":
            return ax + ay <= 1
        case "cross":
            return ((ax <= 0.32) & (ay <= 1)) | ((ay <= 0.32) & (ax <= 1))
        case "triangle":  # apex at the top, base at y = 0.75
            return (y <= 0.75) & (ax <= (y + 1) / 1.75 * 0.95)
    raise ValueError(f"unknown shape {shape!r}")


def _background(scene: Scene) -> Float[np.ndarray, "64 64"]:
    i = np.arange(IMAGE_SIZE)
    x, y = (i + scene.phase[0])[None, :], (i + scene.phase[1])[:, None]
    match scene.texture:
        case "plain":
            pattern = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
        case "striped":
            pattern = np.broadcast_to(np.where(y % 6 < 3, 1.0, -1.0), (IMAGE_SIZE, IMAGE_SIZE))
        case "dotted":
            pattern = np.where((x % 8 - 3.5) ** 2 + (y % 8 - 3.5) ** 2 <= 5, 1.6, -0.4)
        case "checkered":
            pattern = np.where((x // 4 + y // 4) % 2 == 0, 1.0, -1.0)
        case _:
            raise ValueError(f"unknown texture {scene.texture!r}")
    return _SHADE[scene.shade] + _CONTRAST * pattern

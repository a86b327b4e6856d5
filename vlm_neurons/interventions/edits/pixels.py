"""Regions of photographs: removed, recoloured, pasted elsewhere, or kept alone. Nothing outside a mask changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Pixels = UInt8[np.ndarray, "y x 3"]
GREY = 128
FEATHER = 0.08  # of the shorter side of what is pasted
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])


def mask_of(boxes: Sequence[Box], height: int, width: int) -> Bool[np.ndarray, "y x"]:
    """Pixels inside boxes.

    >>> mask_of([(1, 0, 3, 1)], 2, 4).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
    return mask


def filled(pixels: Pixels, mask: Bool[np.ndarray, "y x"]) -> Pixels:
    """The mask filled with the mean of everything else."""
    new = pixels.copy()
    if mask.any() and not mask.all():
        new[mask] = np.rint(pixels[~mask].mean(0)).astype(np.uint8)
    return new


def blurred(pixels: Pixels, mask: Bool[np.ndarray, "y x"]) -> Pixels:
    """The mask out of focus: a Gaussian as wide as a quarter of its shorter side, of the picture itself, so that at
    its edges the surroundings run in."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    new = pixels.copy()
    if mask.any():
        radius = min(np.ptp(rows), np.ptp(columns)) / 4 + 1
        soft = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(float(radius)))
        new[mask] = np.asarray(soft)[mask]
    return new


def recoloured(pixels: Pixels, mask: Bool[np.ndarray, "y x"], color: tuple[int, int, int]) -> Pixels:
    """The mask in another colour: in Lab its mean hue and chroma become those of `color`, differences inside and all
    lightness stay."""
    new = pixels.copy()
    if mask.any():
        lab = to_lab(pixels[mask])
        lab[:, 1:] += to_lab(np.array([color], np.uint8))[0, 1:] - lab[:, 1:].mean(0)
        new[mask] = from_lab(lab)
    return new


def alone(pixels: Pixels, mask: Bool[np.ndarray, "y x"]) -> Pixels:
    """The mask on grey."""
    new = np.full_like(pixels, GREY)
    new[mask] = pixels[mask]
    return new


def pasted(pixels: Pixels, piece: UInt8[np.ndarray, "h w 3"], left: int, top: int) -> Pixels:
    """A piece laid over a picture, its edges feathered inwards."""
    height, width = piece.shape[:2]
    soft = max(1.0, FEATHER * min(height, width))
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    alpha = np.minimum(np.minimum(y, height - y)[:, None], np.minimum(x, width - x)[None]) / soft
    alpha = np.clip(alpha, 0, 1)[..., None]
    new = pixels.copy()
    under = pixels[top : top + height, left : left + width]
    mixed = alpha * piece[: under.shape[0], : under.shape[1]] + (1 - alpha) * under
    new[top : top + height, left : left + width] = np.rint(mixed).astype(np.uint8)
    return new


def to_lab(rgb: UInt8[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """sRGB to CIE Lab under D65."""
    linear = rgb / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    ratio = linear @ _TO_XYZ.T / _WHITE
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def from_lab(lab: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """CIE Lab to sRGB; what sRGB cannot show is clipped."""
    y = (lab[:, 0] + 16) / 116
    f = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], 1)
    ratio = np.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    linear = np.clip((ratio * _WHITE) @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    rgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)

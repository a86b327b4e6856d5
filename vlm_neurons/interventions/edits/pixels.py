"""Regions of photographs: removed, recoloured, pasted elsewhere, or kept alone. Nothing outside a mask changes."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter
from scipy import ndimage

Pixels = UInt8[np.ndarray, "y x 3"]
GREY = 128
FEATHER = 0.08  # of the shorter side of what is pasted
RIM = 8  # pixels around a mask that it is filled in from; a biharmonic function needs two
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])


def filled(pixels: Pixels, mask: Bool[np.ndarray, "y x"]) -> Pixels:
    """The mask filled with the mean of everything else."""
    new = pixels.copy()
    if mask.any() and not mask.all():
        new[mask] = np.rint(pixels[~mask].mean(0)).astype(np.uint8)
    return new


def check_inpainting() -> None:
    """Refuse where there is nothing that fills in.

    Raises:
        ImportError: scikit-image is not there.
    """
    if find_spec("skimage") is None:
        raise ImportError("edits='inpaint' needs scikit-image: pip install 'vlm-neurons[inpaint]'")


def inpainted(pixels: Pixels, mask: Bool[np.ndarray, "y x"]) -> Pixels:
    """The mask filled in from around it, by biharmonic functions (Damelin and Hoang 2018, as scikit-image has them):
    smooth, and as its edges are. Takes a second for some ten thousand pixels."""
    from skimage.restoration import inpaint_biharmonic

    new = pixels.copy()
    if mask.any() and not mask.all():
        (rows, columns) = (slice(max(0, ends[0] - RIM), ends[-1] + 1 + RIM) for ends in
                           (np.flatnonzero(mask.any(axis)) for axis in (1, 0)))  # fmt: skip
        inside = mask[rows, columns]
        smooth = inpaint_biharmonic(pixels[rows, columns], inside, split_into_regions=True, channel_axis=-1)
        new[rows, columns][inside] = np.rint(255 * np.clip(smooth[inside], 0, 1)).astype(np.uint8)
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


def pasted(
    pixels: Pixels, piece: UInt8[np.ndarray, "h w 3"], shape: Bool[np.ndarray, "h w"], left: int, top: int
) -> Pixels:
    """The shape of a piece laid over a picture, its edges feathered inwards."""
    height, width = shape.shape
    soft = max(1.0, FEATHER * min(height, width))
    alpha = np.clip((ndimage.distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1] - 0.5) / soft, 0, 1)[..., None]
    new = pixels.copy()
    under = pixels[top : top + height, left : left + width]
    new[top : top + height, left : left + width] = np.rint(alpha * piece + (1 - alpha) * under).astype(np.uint8)
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

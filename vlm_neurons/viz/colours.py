"""Colours and small pictures, as bytes that are the same every time."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

# Okabe and Ito 2008, told apart by colour-blind readers; grey for what is not known. The second colour is that of
# letters on it, at a contrast of at least 5.
COLORS = {
    "visual": ("#0072B2", "#ffffff"),
    "text": ("#E69F00", "#000000"),
    "multimodal": ("#009E73", "#000000"),
    "unknown": ("#9A9A9A", "#000000"),
}

PATCH, TOKEN = COLORS["visual"][0], COLORS["text"][0]  # of what belongs to pictures, and to text
FRAME = "#D55E00"  # of the strongest patch

# cividis (Nunez, Anderton, Renslow 2018): even steps of brightness for readers with and without colour blindness.
_CIVIDIS = np.array(
    [
        (0x00, 0x20, 0x4D), (0x00, 0x33, 0x6F), (0x39, 0x48, 0x6B), (0x57, 0x5C, 0x6D), (0x70, 0x71, 0x73),
        (0x8A, 0x87, 0x79), (0xA6, 0x9D, 0x75), (0xC4, 0xB5, 0x6C), (0xE4, 0xCF, 0x5B), (0xFF, 0xEA, 0x46),
    ],
    dtype=float,
)  # fmt: skip
HEAT_OPACITY = 0.88  # leaves the outlines of the picture below visible
_SMALL = 128 * 128  # pixels up to which a picture is stored without loss


def cividis(share: float | Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "... 3"]:
    """Colours of values in [0, 1]; what is outside gets the colour at the end.

    >>> cividis(np.array(1.0)).tolist()
    [255, 234, 70]
    """
    steps = np.linspace(0, 1, len(_CIVIDIS))
    channels = [np.interp(share, steps, _CIVIDIS[:, c]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def share_of(values: Float[np.ndarray, "..."], top: float) -> Float[np.ndarray, "..."]:
    """Values on a scale from 0 to `top`, in [0, 1]; negative values and NaN are 0."""
    if not top > 0:
        return np.zeros_like(values)
    return np.clip(np.nan_to_num(values / top, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)


def heat(patches: Float[np.ndarray, "rows columns"], top: float) -> Image.Image:
    """A picture with one pixel per patch, to be stretched over what the model saw; clear where there is no value."""
    alpha = np.where(np.isnan(patches), 0, round(255 * HEAT_OPACITY)).astype(np.uint8)[..., None]
    return Image.fromarray(np.concatenate([cividis(share_of(patches, top)), alpha], -1), "RGBA")


def without_sinks(
    values: Float[np.ndarray, "rows columns"], sinks: Bool[np.ndarray, "rows columns"] | None
) -> Float[np.ndarray, "rows columns"]:
    """Values to colour: a patch that does not count is no brighter than 0, and one that has no value stays without."""
    return values if sinks is None else np.where(sinks, np.minimum(values, 0), values)


def gradient(steps: int = 24) -> Image.Image:
    """The scale of `heat`, from 0 at the left to the maximum at the right."""
    return Image.fromarray(cividis(np.linspace(0, 1, steps)[None]))


def data_uri(image: Image.Image) -> str:
    """A picture as a `data:` address, encoded anew: metadata such as EXIF (places, names) stays behind."""
    small = image.width * image.height <= _SMALL or image.mode == "RGBA"
    buffer = io.BytesIO()
    plain = Image.frombytes(image.mode, image.size, image.tobytes())  # pixels alone; `image.info` may hold EXIF
    if small:
        plain.save(buffer, "PNG")
    else:
        plain.save(buffer, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

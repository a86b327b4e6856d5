"""Pictures of any mode as a model is shown them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def rgb(image: Image) -> Image:
    """In 8-bit RGB; 16-bit grey is scaled (PIL alone would cut it off at 255: nearly all white), transparency left out.

    Raises:
        ValueError: a mode without a fixed range, such as 32-bit numbers.

    >>> from PIL import Image
    >>> rgb(Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))).tobytes()[::3].hex(" ")
    '00 80 ff'
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"an image of mode {image.mode!r} has no fixed range: scale it to 8 bit, and save it anew")
    return image.convert("RGB")

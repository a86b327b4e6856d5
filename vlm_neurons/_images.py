"""The one reader of pictures: of any file and mode, upright, as a model is shown them."""

from __future__ import annotations

from pathlib import Path
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


def read_image(source: Image | str | Path, name: str | None = None) -> Image:
    """A picture in 8-bit RGB; files are turned upright by their EXIF orientation.

    Args:
        source: a PIL image, or the path of a file.
        name: what to call it in errors; its path if not given.

    Raises:
        OSError: it is missing or broken; the message names it.
    """
    from PIL import Image, ImageOps

    called = name or (repr(str(source)) if isinstance(source, str | Path) else "image")
    try:
        if isinstance(source, Image.Image):
            return rgb(source)
        with Image.open(source) as opened:
            return rgb(ImageOps.exif_transpose(opened))
    # PIL raises SyntaxError, ValueError, struct.error and more for files that are broken in different ways.
    except Exception as error:
        raise OSError(f"{called} cannot be read: {type(error).__name__}: {error}") from error

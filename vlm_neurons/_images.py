"""The one reader of pictures: however one arrives, upright, in 8-bit RGB, as a model is shown it."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import unicodedata
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

DARK = 1 / 8  # of the range: a 16-bit file without a value above is one of 13 bits or less, or nearly black
LONGEST_SIDE, MOST_PIXELS = 2**16, 2**27  # a few bytes can say 1 x 134,228,553, which takes 24 s and 3 GiB to turn
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
_told: set[int] = set()
_in_memory = threading.RLock()
if hasattr(os, "register_at_fork"):  # whoever held the lock is not there in the child
    os.register_at_fork(after_in_child=lambda: globals().update(_in_memory=threading.RLock()))


@dataclass(frozen=True)
class Encoded:
    """A picture as its file has it, without a file of its own: some bytes, or a part of another file (a tar).

    >>> Encoded(b"GIF89a")
    Encoded(file=None, offset=0, size=0, broken='')
    """

    data: bytes = field(default=b"", repr=False)
    file: Path | None = None
    offset: int = 0
    size: int = 0
    broken: str = ""  # why there is nothing to read

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: there are none.
        """
        if self.broken:
            raise OSError(self.broken)
        if self.file is None:
            return self.data
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return opened.read(self.size)


Source = Image.Image | str | Path | bytes | Encoded


def rgb(image: Image.Image, bits: int = 16) -> Image.Image:
    """In 8-bit RGB, what is transparent on white, as transformers' own image processors lay it; 16-bit grey is scaled.

    PIL alone would cut 16-bit grey off at 255 (nearly all white), and show the colours that transparency hides.

    Args:
        image: of any mode.
        bits: how many of 16 bits of grey are used.

    Raises:
        ValueError: a mode without a fixed range, such as 32-bit numbers.

    >>> rgb(Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))).tobytes()[::3].hex(" ")
    '00 80 ff'
    >>> rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode.startswith("I;16"):
        eight = np.asarray(image).astype(np.uint16) >> (bits - 8)
        return Image.fromarray(eight.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"an image of mode {image.mode!r} has no fixed range: scale it to 8 bit, and save it anew")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_image(source: Source, name: str | None = None) -> Image.Image:
    """A picture in 8-bit RGB, upright by its EXIF orientation: the same however it arrives, read by one thread or many.

    An image that was opened and not yet loaded is left as it is, and decoded from its file's bytes: one that is decoded
    in place by two threads at once comes out corrupted. Grey of 10 or 12 bits in 16 is scaled by the depth that the
    file tells (sBIT of PNG, BitsPerSample or MaxSampleValue of TIFF); of an image that is loaded already it is not
    known any more, which is warned of.

    Args:
        source: a PIL image, the path of a file, the bytes of one, or `Encoded`.
        name: what to call it in errors; its path if not given.

    Raises:
        OSError: it is missing or broken; the message names it.

    Warns:
        UserWarning: 16-bit values that are all below 1/8 of the range, in a file that does not tell its depth.
    """
    called = name or (repr(str(source)) if isinstance(source, str | Path) else "image")
    try:
        image, deep = _read(source)
    except UnidentifiedImageError:
        raise OSError(f"{called} cannot be read: it is no image, or of a kind that PIL does not know here") from None
    # PIL raises SyntaxError, ValueError, struct.error and more for files that are broken in different ways.
    except Exception as error:
        raise OSError(f"{called} cannot be read: {type(error).__name__}: {error}") from error
    if deep is not None and 0 < deep < 2**16 * DARK and deep.bit_length() not in _told:
        _told.add(deep.bit_length())
        warnings.warn(
            f"{called}: 16-bit values, none above {deep:,} of 65,535, and the file does not say how many bits count: a "
            "model is shown a nearly black picture. Scale such pictures to 8 bit (said once for pictures like this)",
            stacklevel=2,
        )
    return image


def digest(source: Source) -> str:
    """SHA-256 of size and pixels as a model is shown them; equal for a file, its bytes, and the image opened from it.

    Raises:
        OSError: it is missing or broken.

    >>> red = Image.new("P", (4, 4), 1)
    >>> red.putpalette([0, 0, 0, 255, 0, 0])
    >>> digest(red) == digest(Image.new("RGB", (4, 4), (255, 0, 0)))
    True
    """
    image = read_image(source)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def spelled(path: Path) -> Path:
    """The path as it is spelled on disk: "é" in a name may be one character or two, and is the same for a reader.

    The path as given where nothing, or more than one file, is spelled like it.
    """
    if path.exists() or (path.name.isascii() and path.parent.exists()):
        return path
    parent = path.parent if path.parent == path else spelled(path.parent)
    try:
        like = _spellings(parent, parent.stat().st_mtime_ns).get(_plain(path.name), [])
    except OSError:
        return path
    return parent / (like[0] if len(like) == 1 else path.name)


@lru_cache(maxsize=4)
def _spellings(folder: Path, changed: int) -> dict[str, list[str]]:
    """Names in a folder by what they read; `changed` is when it was changed last."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(_plain(name), []).append(name)
    return found


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _read(source: Source) -> tuple[Image.Image, int | None]:
    """The picture, and the largest value of 16 bits where their depth is not known."""
    if isinstance(source, Image.Image):
        encoded = _encoded(source)
        if encoded is not None:
            image, deep = _decode(io.BytesIO(encoded), source)
            if image is not None:
                return image, deep
        with _in_memory:  # `getexif` and `load` change what they look at
            return _shown(source, None)
    if isinstance(source, bytes | Encoded):
        image, deep = _decode(io.BytesIO(source if isinstance(source, bytes) else source.read()))
    else:
        with spelled(Path(source)).open("rb") as file:
            image, deep = _decode(file)
    assert image is not None
    return image, deep


def _encoded(image: Image.Image) -> bytes | None:
    """What an image that was not yet loaded is to be decoded from; None for others.

    Read without moving the file's position, which other threads, and processes after a fork, share.
    """
    file: Any = getattr(image, "fp", None)
    if file is None or not getattr(image, "tile", None) or image.tell():
        return None
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    try:
        number = file.fileno()
        return os.pread(number, os.fstat(number).st_size, 0)
    except (AttributeError, OSError, ValueError):  # no file of the system's
        return None


def _decode(file: BinaryIO, as_opened: Image.Image | None = None) -> tuple[Image.Image | None, int | None]:
    """`_shown` of a file; None where `as_opened` is no more what its file gives (`draft` was called)."""
    with Image.open(file) as opened:
        if as_opened is not None and (opened.size, opened.mode) != (as_opened.size, as_opened.mode):
            return None, None
        return _shown(opened, file)


def _shown(image: Image.Image, file: BinaryIO | None) -> tuple[Image.Image, int | None]:
    """Upright and in RGB, and the largest value of 16 bits where their depth is not known."""
    if max(image.size) > LONGEST_SIDE or image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width:,} x {image.height:,} pixels are more than are read: scale it down")
    in_16_bits = image.mode.startswith("I;16") or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    if file is None:
        upright = ImageOps.exif_transpose(image)
    else:
        ImageOps.exif_transpose(image, in_place=True)  # a copy less of what may be very large
        upright = image
    bits, largest = 16, None
    if in_16_bits:
        grey = image.mode.startswith("I;16")
        values = np.asarray(upright).astype(np.uint16)
        largest = int(values.max(initial=0)) << (0 if grey else 8)  # PIL keeps the upper half of each color
        told = _told_depth(image, file)
        if grey and told is not None:
            # A scaled picture of a low depth has no bits below it: PNG wants sBIT's depth scaled to the whole range.
            low = largest < 2**told and bool((values & (2 ** (16 - told) - 1)).any())
            bits, largest = (told if low else 16), None
    if file is None and image.format is None and upright.mode in ("RGB", "L"):
        # left over from a conversion: pixels that were opaque may have that colour too
        upright.info.pop("transparency", None)
    copied = file is None and upright.mode == "RGB" and upright.info.get("transparency") is None  # by `exif_transpose`
    shown = upright if copied else rgb(upright, bits)
    shown.info.clear()  # nobody shall turn it once more
    return shown, largest


def _told_depth(image: Image.Image, file: BinaryIO | None) -> int | None:
    """Bits that count, from 8 to 16, as the file tells it."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        found = [int(np.max(tags[_MAX_SAMPLE_VALUE])).bit_length()] if _MAX_SAMPLE_VALUE in tags else []
        bits = min([*found, *map(int, tags.get(_BITS_PER_SAMPLE, ()))], default=None)
    else:
        bits = None if file is None or image.format != "PNG" else _significant_bits(file)
    return bits if bits is not None and 8 <= bits < 16 else None


def _significant_bits(file: BinaryIO) -> int | None:
    """sBIT of a PNG."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT":
            return min(file.read(size), default=None)
        file.seek(size + 4, io.SEEK_CUR)
    return None

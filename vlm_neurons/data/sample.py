"""One sample: images, a prompt and a response, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_neurons._checks import short
from vlm_neurons._images import Encoded, read_image

ImageLike = Image.Image | Path | Encoded
# (kind, word), such as ("color", "red") -> share of every patch of the image that has it
Truth = Mapping[tuple[str, str], Float[np.ndarray, "rows columns"]]


@dataclass(frozen=True)
class Sample:
    """One unit of data.

    Attributes:
        id: place in the data set, from 0.
        images: PIL images, paths, or the bytes of files, in the order in which the prompt shows them; empty for a
            text-only sample.
        prompt: what the model is asked; None means the prompt of the scan.
        response: the text that counts as TEXT; None means that the model has to generate it.
        name: file name or place in the source, for messages and tables.
        truth: gives what the data set knows of the image, when it is asked; None where it knows nothing. No part of
            what a sample is: two samples are equal, and have the same fingerprint, whatever is known of them.

    >>> from PIL import Image
    >>> sample = vn.Sample(0, (Image.new("L", (4, 2)),), prompt=None, response="a grey box", name="mine")
    >>> sample.load_images()[0].mode, sample.image_paths  # in memory: no path
    ('RGB', [None])
    """

    id: int
    images: tuple[ImageLike, ...]
    prompt: str | None
    response: str | None
    name: str
    truth: Callable[[], Truth] | None = field(default=None, compare=False, repr=False)

    def load_images(self) -> list[Image.Image]:
        """Decode the images.

        Returns:
            RGB images, one for each of `images`.

        Raises:
            OSError: an image is missing, truncated or no image; the message names it.
        """
        return [
            read_image(image, None if isinstance(image, Path) else f"image of sample {self.name}")
            for image in self.images
        ]

    @property
    def image_paths(self) -> list[str | None]:
        """Path of every image; None for one that lives in memory."""
        return [str(image) if isinstance(image, Path) else None for image in self.images]

    def question(self, prompt: str) -> str:
        """What the model is asked.

        Args:
            prompt: the question for samples that have none of their own.

        >>> vn.Sample(0, (), None, "red", "mine").question("What color?")
        'What color?'
        """
        return prompt if self.prompt is None else self.prompt


def make_sample(index: int, entry: Mapping[str, Any], name: str, base: Path) -> Sample:
    """Check one record and make it a sample; `name` is where the record stands, for messages."""
    if "image" not in entry:
        raise ValueError(
            f'{name}: no "image" among {sorted(map(str, entry))}; write {{"image": path, "response": text}}, '
            '"image": null for a text-only sample, a list of paths for several images'
        )
    for words in ("response", "prompt"):
        if not isinstance(entry.get(words), str | None):
            several = (
                "; several texts of a picture are several samples, each with the picture (frame.explode in pandas)"
                if isinstance(entry[words], list | tuple)
                else ""
            )
            raise ValueError(f"{name}: {words!r} is {short(entry[words])}; write a string, or null{several}")
    images = entry["image"]
    images = list(images) if isinstance(images, list | tuple) else [] if images is None else [images]
    found = [_as_image(image, name, base) for image in images]
    label = entry.get("name") or next((called for _, called in found if called), name)
    return Sample(index, tuple(image for image, _ in found), entry.get("prompt"), entry.get("response"), str(label))


def _as_image(image: Any, name: str, base: Path) -> tuple[ImageLike, str]:
    """A picture and the name of its file, if that is known."""
    if isinstance(image, Image.Image | Encoded):
        return image, Path(getattr(image, "filename", "") or "").name  # of one that was opened from a file
    if isinstance(image, bytes):
        return Encoded(image), ""
    if isinstance(image, Mapping) and {*image} == {"bytes", "path"}:  # an undecoded image of Hugging Face datasets
        path = image["path"]
        if image["bytes"] is not None:
            return Encoded(image["bytes"]), Path(path).name if isinstance(path, str) else ""
        image = path
    if isinstance(image, str | Path) and str(image):
        path = (base / image).absolute()
        return path, path.name
    raise ValueError(
        f'{name}: "image" holds {short(image)}; write a path, a list of paths, or null. In memory: a PIL image '
        "(Image.fromarray(array) makes one), or the bytes of a file"
    )

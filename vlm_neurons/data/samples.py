"""Samples: images, a prompt and a response, numbered from 0 in a stable order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_neurons._images import read_image

ImageLike = Image.Image | Path
# (kind, word), such as ("color", "red") -> share of every patch of the image that has it
Truth = Mapping[tuple[str, str], Float[np.ndarray, "rows columns"]]


@dataclass(frozen=True)
class Sample:
    """One unit of data.

    Attributes:
        id: place in the data set, from 0.
        images: PIL images or paths, in the order in which the prompt shows them; empty for a text-only sample.
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


def _digest(image: ImageLike) -> str:
    """SHA-256 of a file's bytes, or of the mode, size and pixels of an image in memory."""
    try:
        if isinstance(image, Path):
            with image.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()
    except Exception as error:  # unreadable: the scan records it as a broken image
        return f"unreadable:{type(error).__name__}"


class ImageTextData(Sequence[Sample]):
    """A sequence of samples with ids 0 ... n-1.

    Args:
        samples: the samples; `samples[i].id` must be i.
        source: how `synthetic.open_data` finds the same data again, such as `"jsonl:/abs/data.jsonl"`.
            `"memory"` for data that cannot be reopened.

    >>> data = ImageTextData.from_samples([{"image": None, "response": "A red square."}])
    >>> len(data), data[0].response
    (1, 'A red square.')
    """

    def __init__(self, samples: Sequence[Sample], source: str = "memory") -> None:
        self.samples = samples
        self.source = source

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("samples keep their ids: take a list of samples, [data[i] for i in range(...)], instead")
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return (self.samples[i] for i in range(len(self.samples)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} samples, source={self.source!r})"

    @cached_property
    def image_digests(self) -> list[tuple[str, ...]]:
        """SHA-256 of every image of every sample; reads every file once."""

        def digests(index: int) -> tuple[str, ...]:
            return tuple(_digest(image) for image in self.samples[index].images)

        with ThreadPoolExecutor(4) as pool:  # hashlib and file reads release the interpreter lock
            return list(pool.map(digests, range(len(self))))

    def fingerprint(self) -> str:
        """SHA-256 over ids, names, prompts, responses and the bytes of all images."""
        total = hashlib.sha256()
        for sample, digests in zip(self, self.image_digests, strict=True):
            row = [sample.id, sample.name, sample.prompt, sample.response, *digests]
            total.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        return total.hexdigest()

    def duplicates(self, prompt: str) -> dict[int, int]:
        """Samples that say again what an earlier one said.

        Args:
            prompt: prompt of the samples that have none of their own.

        Returns:
            id -> id of the first sample with the same image bytes, prompt and response. Unreadable images are equal
            to nothing.

        >>> said = [{"image": None, "response": text} for text in ("red", "blue", "red")]
        >>> vn.ImageTextData.from_samples(said).duplicates("What color?")
        {2: 0}
        """
        first: dict[tuple[Any, ...], int] = {}
        repeated = {}
        for sample, digests in zip(self, self.image_digests, strict=True):
            if any(digest.startswith("unreadable:") for digest in digests):
                continue
            key = (digests, prompt if sample.prompt is None else sample.prompt, sample.response)
            if first.setdefault(key, sample.id) != sample.id:
                repeated[sample.id] = first[key]
        return repeated

    def with_responses(self, responses: Sequence[str | None]) -> ImageTextData:
        """The same samples with other responses; the source stays the same. The same data if the responses are.

        >>> data = vn.ImageTextData.from_samples([{"image": None, "prompt": "What color is grass?"}])
        >>> data[0].response, data.with_responses(["green"])[0].response
        (None, 'green')
        """
        if list(responses) == [s.response for s in self]:
            return self  # with what it knows beyond its samples, as scenes do
        samples = [replace(s, response=r) for s, r in zip(self, responses, strict=True)]
        new = ImageTextData(samples, self.source)
        if "image_digests" in self.__dict__:
            new.__dict__["image_digests"] = self.image_digests
        return new

    @classmethod
    def from_samples(cls, samples: Iterable[Sample | dict[str, Any]]) -> ImageTextData:
        """Samples in memory.

        Args:
            samples: `Sample`s (their ids are replaced by their places), or dicts with `image` (PIL image, path, list
                of those, or None) and optionally `prompt`, `response` and `name`.

        Raises:
            ValueError: a dict without `image`, or a field of the wrong type.

        >>> from PIL import Image
        >>> red = {"image": Image.new("RGB", (8, 8), "red"), "response": "a red square"}
        >>> data = vn.ImageTextData.from_samples([red, {"image": None, "response": "no picture"}])
        >>> [(len(sample.images), sample.response) for sample in data]
        [(1, 'a red square'), (0, 'no picture')]
        """
        done = []
        for i, entry in enumerate(samples):
            if isinstance(entry, Sample):
                done.append(replace(entry, id=i))
            else:
                done.append(make_sample(i, entry, f"sample {i}", Path.cwd()))
        return ImageTextData(done)

    @classmethod
    def from_folder(cls, path: str | Path) -> ImageTextData:
        """Every image of a folder, sorted by name; `captions.jsonl` beside them gives prompts and responses.

        >>> from pathlib import Path
        >>> from PIL import Image
        >>> for name in ("b.png", "a.png"):
        ...     Image.new("RGB", (8, 8), "red").save(name)
        >>> written = Path("captions.jsonl").write_text('{"image": "a.png", "response": "a red square"}')
        >>> [(sample.name, sample.response) for sample in vn.ImageTextData.from_folder(".")]
        [('a.png', 'a red square'), ('b.png', None)]
        """
        from vlm_neurons.data.sources import read_folder

        return read_folder(Path(path))

    @classmethod
    def from_jsonl(cls, path: str | Path) -> ImageTextData:
        """One JSON object a line: `image` (path, list of paths, or null), `response`, `prompt`.

        Relative paths are relative to the file.

        >>> from pathlib import Path
        >>> written = Path("data.jsonl").write_text('{"image": null, "prompt": "Name a color.", "response": "red"}')
        >>> vn.ImageTextData.from_jsonl("data.jsonl")[0].response
        'red'
        """
        from vlm_neurons.data.sources import read_jsonl

        return read_jsonl(Path(path))

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        image_column: str = "image",
        response_column: str | None = None,
        prompt_column: str | None = None,
    ) -> ImageTextData:
        """A Hugging Face `datasets.Dataset`; images are decoded when they are needed.

        Args:
            dataset: a dataset with a length (not a streaming one).
            image_column: column of an image, a list of images, or None.
            response_column: column of the response; None means `"response"` where it exists, else no responses.
            prompt_column: the same for the prompt, `"prompt"`.

        >>> photos = datasets.load_dataset("imagefolder", data_dir="photos", split="train")  # doctest: +SKIP
        >>> data = vn.ImageTextData.from_dataset(photos, response_column="caption")  # doctest: +SKIP
        """
        from vlm_neurons.data.sources import read_dataset

        return read_dataset(dataset, image_column, response_column, prompt_column)


def make_sample(index: int, entry: dict[str, Any], name: str, base: Path) -> Sample:
    """Check one record and make it a sample; `name` is where the record stands, for messages."""
    if "image" not in entry:
        raise ValueError(
            f'{name}: no "image" among {sorted(entry)}; write {{"image": path, "response": text}}, '
            '"image": null for a text-only sample, a list of paths for several images'
        )
    for words in ("response", "prompt"):
        if not isinstance(entry.get(words), str | None):
            raise ValueError(f"{name}: {words!r} is {entry[words]!r}; write a string, or null")
    images = entry["image"]
    images = list(images) if isinstance(images, list | tuple) else [] if images is None else [images]
    paths = tuple(_as_image(image, name, base) for image in images)
    label = entry.get("name") or next((p.name for p in paths if isinstance(p, Path)), name)
    return Sample(index, paths, entry.get("prompt"), entry.get("response"), str(label))


def _as_image(image: Any, name: str, base: Path) -> ImageLike:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path) and str(image):
        return (base / image).absolute()
    raise ValueError(f'{name}: "image" holds {type(image).__name__} {image!r}; write a path, a list of paths, or null')

"""Samples: images, a prompt and a response, numbered from 0 in a stable order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_neurons.data.sample import Sample, make_sample
from vlm_neurons.data.sources import read_dataset, read_folder, read_jsonl
from vlm_neurons.data.survey import Answered, Facts, survey


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
    def facts(self) -> list[Facts]:
        """Names, texts and digests of pictures of all samples; asks for every sample once, and decodes every picture.

        >>> vn.scenes(1, seed=0).facts[0].name
        'scene 0'
        """
        return survey(self.samples)

    @property
    def image_digests(self) -> list[tuple[str, ...]]:
        """SHA-256 of every image of every sample, as a model is shown it: the same for a file, its bytes in a dataset,
        and the image that was opened from it; "unreadable:..." for what cannot be read."""
        return [facts.digests for facts in self.facts]

    def fingerprint(self) -> str:
        """SHA-256 over prompts, responses and pictures, in order: what decides what a model sees, not what it is called
        or where it is kept."""
        total = hashlib.sha256()
        for one in self.facts:
            row = [one.prompt, one.response, *one.digests]
            total.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        return total.hexdigest()

    def duplicates(self, prompt: str) -> dict[int, int]:
        """Samples that say again what an earlier one said.

        Args:
            prompt: prompt of the samples that have none of their own.

        Returns:
            id -> id of the first sample with the same pictures, prompt and response. Unreadable pictures are equal to
            nothing.

        >>> said = [{"image": None, "response": text} for text in ("red", "blue", "red")]
        >>> vn.ImageTextData.from_samples(said).duplicates("What color?")
        {2: 0}
        """
        first: dict[tuple[Any, ...], int] = {}
        repeated = {}
        for i, one in enumerate(self.facts):
            key = (one.digests, one.question(prompt), one.response)
            if one.readable and first.setdefault(key, i) != i:
                repeated[i] = first[key]
        return repeated

    def with_responses(self, responses: Sequence[str | None]) -> ImageTextData:
        """The same samples with other responses; the source stays the same. The same data if the responses are.

        Raises:
            ValueError: another number of responses.

        >>> data = vn.ImageTextData.from_samples([{"image": None, "prompt": "What color is grass?"}])
        >>> data[0].response, data.with_responses(["green"])[0].response
        (None, 'green')
        """
        responses, known = list(responses), self.__dict__.get("facts")
        if len(responses) != len(self):
            raise ValueError(f"{len(responses)} responses for {len(self)} samples: give one for each, or None")
        if responses == [one.response for one in known or self]:
            return self  # with what it knows beyond its samples, as scenes do
        new = ImageTextData(Answered(self.samples, responses), self.source)
        if known is not None:
            new.__dict__["facts"] = [replace(one, response=r) for one, r in zip(known, responses, strict=True)]
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
        return cls(*read_folder(Path(path)))

    @classmethod
    def from_jsonl(cls, path: str | Path) -> ImageTextData:
        """One JSON object a line: `image` (path, list of paths, or null), `response`, `prompt`.

        Relative paths are relative to the file.

        >>> from pathlib import Path
        >>> written = Path("data.jsonl").write_text('{"image": null, "prompt": "Name a color.", "response": "red"}')
        >>> vn.ImageTextData.from_jsonl("data.jsonl")[0].response
        'red'
        """
        return cls(*read_jsonl(Path(path)))

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
        return cls(read_dataset(dataset, image_column, response_column, prompt_column))

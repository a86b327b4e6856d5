"""Samples: images, a prompt and a response, numbered from 0 in a stable order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons._checks import of_kind
from vlm_neurons.data.annotations import read_coco, read_llava
from vlm_neurons.data.fields import Found
from vlm_neurons.data.sample import Sample
from vlm_neurons.data.shards import read_shards
from vlm_neurons.data.sources import read_folder, read_jsonl, read_memory
from vlm_neurons.data.survey import Answered, Facts, survey
from vlm_neurons.data.tables import read_dataset, read_frame

if TYPE_CHECKING:
    import pandas as pd


class ImageTextData(Sequence[Sample]):
    """A sequence of samples with ids 0 ... n-1.

    Args:
        samples: the samples; `samples[i].id` must be i.
        source: how `synthetic.open_data` finds the same data again, such as `"jsonl:/abs/data.jsonl"`.
            `"memory"` for data that cannot be reopened.
        found: what was found where it was read from; None for data of other origin.

    >>> data = ImageTextData.from_samples([{"image": None, "response": "A red square."}])
    >>> len(data), data[0].response
    (1, 'A red square.')
    """

    def __init__(self, samples: Sequence[Sample], source: str = "memory", found: Found | None = None) -> None:
        self.samples = samples
        self.source = source
        self.found = found

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

    def summary(self) -> str:
        """What it is, in one sentence: samples, with and without text, fields that were used and not used.

        >>> vn.scenes(3, seed=0).summary()
        'scenes:n=3,seed=0: 3 samples, 3 with text, 0 without'
        """
        samples = self.__dict__.get("facts") or self
        said = sum(one.response is not None for one in samples)
        parts = [f"{self.source}: {len(samples):,} samples, {said:,} with text, {len(samples) - said:,} without"]
        if self.found is not None:
            parts = [f"{self.found.kind}, {parts[0]}", self.found.fields, *self.found.notes]
        return "; ".join(parts)

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
        new = ImageTextData(Answered(self.samples, responses), self.source, self.found)
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
            ValueError: a dict without `image`, a field of the wrong type, or a text or question under another name.

        Warns:
            UserWarning: fields that are not read.

        >>> from PIL import Image
        >>> red = {"image": Image.new("RGB", (8, 8), "red"), "response": "a red square"}
        >>> data = vn.ImageTextData.from_samples([red, {"image": None, "response": "no picture"}])
        >>> [(len(sample.images), sample.response) for sample in data]
        [(1, 'a red square'), (0, 'no picture')]
        """
        return ImageTextData(read_memory(samples))

    @classmethod
    def from_folder(cls, path: str | Path) -> ImageTextData:
        """Every image of a folder, sorted by name; `captions.jsonl` beside them gives prompts and responses, several of
        one picture as several samples.

        >>> from pathlib import Path
        >>> from PIL import Image
        >>> for name in ("b.png", "a.png"):
        ...     Image.new("RGB", (8, 8), "red").save(name)
        >>> written = Path("captions.jsonl").write_text('{"image": "a.png", "response": "a red square"}')
        >>> [(sample.name, sample.response) for sample in vn.ImageTextData.from_folder(".")]
        [('a.png', 'a red square'), ('b.png', None)]
        """
        of_kind("path", path, str | Path, "give the folder of the images")
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
        of_kind("path", path, str | Path, "give the .jsonl file")
        return cls(*read_jsonl(Path(path)))

    @classmethod
    def from_llava(cls, path: str | Path, images: str | Path | None = None) -> ImageTextData:
        """Conversations in LLaVA's form (detail_23k.json, llava_instruct_150k.json, ShareGPT4V).

        Every answer is a sample; its prompt is the question with the earlier turns before it, a line each. `<image>` at
        the beginning or the end of a question is taken off: pictures go before the prompt by themselves. A last
        question without an answer is a sample without a response.

        Args:
            path: a JSON list of `{"id", "image", "conversations": [{"from": "human" or "gpt", "value": text}]}`, or a
                JSONL of these; `"messages"` with `"role"` and `"content"` are read too.
            images: folder that the pictures' paths are relative to; that of the file if not given.

        Raises:
            ValueError: a record in another form; the message names it.

        >>> from pathlib import Path
        >>> turns = [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
        >>> written = Path("llava.json").write_text(json.dumps([{"image": "1.jpg", "conversations": turns}]))
        >>> sample = vn.ImageTextData.from_llava("llava.json", images="train2017")[0]
        >>> sample.name, sample.prompt, sample.response
        ('1.jpg', 'What is it?', 'A dog.')
        """
        return cls(*read_llava(*_file_and_folder(path, images)))

    @classmethod
    def from_coco(cls, path: str | Path, images: str | Path | None = None, joined: bool = False) -> ImageTextData:
        """Captions in COCO's form (captions_train2017.json).

        Args:
            path: a JSON object with `images` (id, file_name) and `annotations` (image_id, caption).
            images: folder of the pictures; that of the file if not given.
            joined: one sample a picture, with all its captions one after the other; else one sample a caption.

        Raises:
            ValueError: another form; the message names the record.

        >>> from pathlib import Path
        >>> said = [{"image_id": 7, "caption": "A dog."}, {"image_id": 7, "caption": "A pet."}]
        >>> content = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": said}
        >>> written = Path("coco.json").write_text(json.dumps(content))
        >>> [sample.response for sample in vn.ImageTextData.from_coco("coco.json")]
        ['A dog.', 'A pet.']
        >>> vn.ImageTextData.from_coco("coco.json", joined=True)[0].response
        'A dog. A pet.'
        """
        return cls(*read_coco(*_file_and_folder(path, images), joined))

    @classmethod
    def from_webdataset(cls, shards: str | Path | Sequence[str | Path]) -> ImageTextData:
        """Tar shards on disk, as webdataset and img2dataset write them; pictures are read when they are needed.

        The files of one key are a sample: its pictures, its text (`.txt` or `.caption`, or `response` in `.json`), and
        `prompt` in `.json`.

        Args:
            shards: a tar file, a name with `{000..099}` or `*` in it, or a list of those.

        Raises:
            ValueError: a shard that is no plain tar, or is torn; the message names it.

        >>> import io, tarfile
        >>> with tarfile.open("shard-0.tar", "w") as tar:
        ...     for name, content in (("1.jpg", b"..."), ("1.txt", b"a dog")):
        ...         member = tarfile.TarInfo(name)
        ...         member.size = len(content)
        ...         tar.addfile(member, io.BytesIO(content))
        >>> [(sample.name, sample.response) for sample in vn.ImageTextData.from_webdataset("shard-{0..0}.tar")]
        [('1', 'a dog')]
        """
        return cls(*read_shards(shards))

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        image_column: str = "image",
        response_column: str | None = None,
        prompt_column: str | None = None,
    ) -> ImageTextData:
        """A pandas DataFrame; missing values are None.

        Args:
            frame: one row a sample. Pictures are paths, PIL images, bytes of files, `{"bytes", "path"}` as Hugging
                Face's Parquet files have them, lists of those, or None.
            image_column: column of the pictures.
            response_column: column of the response; None means `"response"` where it exists, else no responses.
            prompt_column: the same for the prompt, `"prompt"`.

        >>> import pandas as pd
        >>> table = pd.DataFrame({"image": ["a.png", None], "caption": ["a dog", "no picture"]})
        >>> [s.response for s in vn.ImageTextData.from_frame(table, response_column="caption")]
        ['a dog', 'no picture']
        """
        samples, found = read_frame(frame, image_column, response_column, prompt_column)
        return cls(samples, found=found)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        image_column: str = "image",
        response_column: str | None = None,
        prompt_column: str | None = None,
    ) -> ImageTextData:
        """A Hugging Face dataset; images are decoded when they are needed.

        A format (numpy, torch, pandas ...) is set aside, a transform (`with_transform`) is honoured. A streaming
        dataset is read from its beginning to its end once to count, once to look at its pictures, and once for the
        scan, so it has to give the same rows every time.

        Args:
            dataset: a `datasets.Dataset`, or an `IterableDataset`.
            image_column: column of an image, a list of images, or None.
            response_column: column of the response; None means `"response"` where it exists, else no responses.
            prompt_column: the same for the prompt, `"prompt"`.

        >>> photos = datasets.load_dataset("imagefolder", data_dir="photos", split="train")  # doctest: +SKIP
        >>> data = vn.ImageTextData.from_dataset(photos, response_column="caption")  # doctest: +SKIP
        """
        samples, found = read_dataset(dataset, image_column, response_column, prompt_column)
        return cls(samples, found=found)


def _file_and_folder(path: str | Path, images: str | Path | None) -> tuple[Path, Path | None]:
    of_kind("path", path, str | Path, "give the JSON file of the annotations")
    of_kind("images", images, str | Path | None, "give the folder of the pictures")
    return Path(path), None if images is None else Path(images)

"""Where samples come from: a folder, a JSONL, a Hugging Face dataset, a source string."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_neurons.data.sample import Sample, make_sample

CAPTIONS = "captions.jsonl"


def read_records(path: Path, content: bytes | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line that is not blank.

    Args:
        path: the JSONL.
        content: its bytes, if they were read before.

    Raises:
        ValueError: the file is not UTF-8, or a line is no JSON object; the message names file and line.
    """
    for number, line in enumerate((path.read_bytes() if content is None else content).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except UnicodeDecodeError:
            raise ValueError(f"{path}, line {number}: not UTF-8; save the file as UTF-8") from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}); "
                'every line is one object such as {"image": "a.jpg", "response": "A cat."}'
            ) from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: {type(record).__name__}, not an object; write {{...}}")
        yield number, record


def read_jsonl(path: Path) -> tuple[list[Sample], str]:
    """The samples of a JSONL, and their source. Files are not opened here: a missing image is the scan's to record."""
    path = path.absolute()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; pass a .jsonl file, or a directory of images")
    samples: list[Sample] = []
    for number, record in read_records(path):
        samples.append(make_sample(len(samples), record, f"{path}, line {number}", path.parent))
    if not samples:
        raise ValueError(f'{path}: no samples; write one object a line, {{"image": "a.jpg", "response": "A cat."}}')
    # a text-only sample has no file to be called by: its line is its name
    samples = [s if s.images else replace(s, name=s.name.removeprefix(f"{path}, ")) for s in samples]
    return samples, f"jsonl:{path}"


def read_folder(folder: Path) -> tuple[list[Sample], str]:
    """Images of a folder, sorted by name, with the responses of `captions.jsonl` if it is there; and their source.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it is a file, there is no image in it, or a caption for a file that is not there.
    """
    folder = folder.absolute()
    if folder.is_file():
        raise ValueError(f"{folder} is a file, not a directory of images; ImageTextData.from_jsonl reads a .jsonl file")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such directory; pass a directory of images, or a .jsonl file")
    known = Image.registered_extensions()
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in known)
    if not paths:
        raise ValueError(
            f"{folder}: no images in it (folders inside it are not searched); for images elsewhere write a JSONL"
        )
    samples = {p: Sample(i, (p,), None, None, p.name) for i, p in enumerate(paths)}
    captions = folder / CAPTIONS
    if captions.is_file():
        for number, record in read_records(captions):
            where = f"{captions}, line {number}"
            found = make_sample(0, record, where, folder)
            path = found.images[0] if len(found.images) == 1 else None
            if not isinstance(path, Path) or path not in samples:
                raise ValueError(
                    f"{where}: {record['image']!r} is no image of {folder}; correct the line, "
                    f"or pass {captions} itself as data"
                )
            samples[path] = replace(samples[path], prompt=found.prompt, response=found.response)
    return list(samples.values()), f"folder:{folder}"


class _DatasetSamples(Sequence[Sample]):
    """Samples made from the rows of a dataset when they are asked for."""

    def __init__(self, dataset: Any, image: str, response: str | None, prompt: str | None) -> None:
        self.dataset, self.columns = dataset, {"image": image, "response": response, "prompt": prompt}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index = index % len(self)
        row = self.dataset[index]
        entry = {field: row[column] for field, column in self.columns.items() if column is not None}
        return make_sample(index, entry, f"row {index}", Path.cwd())


def read_dataset(dataset: Any, image: str, response: str | None, prompt: str | None) -> Sequence[Sample]:
    """See `ImageTextData.from_dataset`."""
    columns = list(getattr(dataset, "column_names", None) or [])
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, dict):
        raise ValueError(
            f"{type(dataset).__name__} is no datasets.Dataset with a length; choose a split, and do not stream it"
        )
    if response is None and "response" in columns:
        response = "response"
    if prompt is None and "prompt" in columns:
        prompt = "prompt"
    for argument, column in (("image_column", image), ("response_column", response), ("prompt_column", prompt)):
        if column is not None and column not in columns:
            raise ValueError(f"the dataset has no column {column!r}, only {columns}; pass {argument}=")
    return _DatasetSamples(_undecoded(dataset, image), image, response, prompt)


def _undecoded(dataset: Any, column: str) -> Any:
    """The dataset with its image column as raw bytes: one broken image must not stop everything."""
    feature: Any = getattr(dataset, "features", {}).get(column)
    if type(feature).__name__ == "Image":
        return dataset.cast_column(column, replace(feature, decode=False))
    inner: Any = getattr(feature, "feature", None)
    if type(inner).__name__ == "Image":
        return dataset.cast_column(column, type(feature)(replace(inner, decode=False)))
    return dataset

"""Samples from tables: Hugging Face datasets, with a length or streaming, and DataFrames."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_neurons._checks import short
from vlm_neurons._images import Encoded
from vlm_neurons.data.fields import Found, nearest
from vlm_neurons.data.sample import ImageLike, Sample, make_sample

Columns = dict[str, str | None]  # image, response, prompt -> column


def choose_columns(
    what: str, columns: Sequence[Any], image: str, response: str | None, prompt: str | None, rows: int = 0
) -> tuple[Columns, Found]:
    """The columns to read, of so many rows (0: not known yet).

    Raises:
        ValueError: one that was named is not there.

    Warns:
        UserWarning: columns that are not read, with what to write for those that were perhaps meant.
    """
    chosen: Columns = {"image": image, "response": response, "prompt": prompt}
    for field in ("response", "prompt"):
        if chosen[field] is None and field in columns:
            chosen[field] = field
    for field, column in chosen.items():
        if column is not None and column not in columns:
            raise ValueError(f"the {what} has no column {column!r}, only {list(columns)}; pass {field}_column=")
    used = [column for column in chosen.values() if column is not None]
    unused = [str(column) for column in columns if column not in used]
    meant = [
        f"{near}_column={column!r} reads it"
        for column in unused
        if (near := nearest(column)) in chosen and chosen[near] is None
    ]
    if unused:
        notes = f"columns not used: {', '.join(unused)}", *meant
        Found(what, tuple(used), {}, notes).tell(f"the {what}")
    return chosen, Found(what, tuple(used), dict.fromkeys(unused, rows))


def _sample(row: Mapping[str, Any], columns: Columns, index: int) -> Sample:
    entry = {field: row[column] for field, column in columns.items() if column is not None}
    if isinstance(entry["image"], list | tuple):  # Hugging Face pads lists of pictures with None
        entry["image"] = [image for image in entry["image"] if image is not None]
    return make_sample(index, entry, f"row {index}", Path.cwd())


def _content(image: ImageLike) -> bytes:
    """What decides the pixels of a picture in memory, or the name of one that is a file."""
    if isinstance(image, Encoded) and not image.broken:
        return image.read()
    if isinstance(image, Image.Image):
        try:
            return repr((image.mode, image.size)).encode() + image.tobytes()
        except OSError:  # broken: the scan records it
            return b""
    return str(image).encode("utf-8", "surrogatepass")


class _Steady:
    """What rows were when they were first read: later passes have to give the same."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._marks: dict[int, bytes] = {}

    def same(self, sample: Sample) -> Sample:
        """The sample.

        Raises:
            ValueError: it is another than before.
        """
        mark = blake2b(repr((sample.prompt, sample.response)).encode("utf-8", "surrogatepass"), digest_size=16)
        for image in sample.images:
            mark.update(_content(image))
        if self._marks.setdefault(sample.id, mark.digest()) != mark.digest():
            raise ValueError(
                f"{sample.name} is another than when it was first read: {self.what} has to give the same rows every "
                "time; leave shuffling and random changes out, or save what it gives and load that"
            )
        return sample


class _Rows(Sequence[Sample]):
    """Samples made from the rows of a dataset when they are asked for."""

    def __init__(self, dataset: Any, columns: Columns, transformed: bool) -> None:
        self.dataset, self.columns, self.transformed = dataset, columns, transformed
        self._steady = _Steady("the dataset's transform")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index = index % len(self)
        if not self.transformed:
            return _sample(self.dataset[index], self.columns, index)
        try:
            found = _sample(self.dataset[index], self.columns, index)
        except Exception as error:  # the user's code, or a picture that it decodes: about this row
            broken = Encoded(broken=f"the dataset's transform: {type(error).__name__}: {error}")
            return Sample(index, (broken,), None, None, f"row {index}")
        return self._steady.same(found)


class _Stream(Sequence[Sample]):
    """Samples of a dataset that is read from its beginning to its end, again for every pass.

    Going on is free; going back begins anew. Threads take turns.
    """

    def __init__(self, dataset: Any, columns: Columns) -> None:
        self.dataset, self.columns = dataset, columns
        self._lock, self._steady = threading.Lock(), _Steady("the stream")
        self._rows: Iterator[Any] = iter(())
        self._next, self._last = 0, Sample(-1, (), None, None, "")
        self._length = sum(1 for _ in dataset)
        self._begin()

    def _begin(self) -> None:
        self._rows, self._next = iter(self.dataset), 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index = index % len(self)
        with self._lock:
            if index == self._last.id:
                return self._last
            if index < self._next:
                self._begin()
            row = None
            while self._next <= index:
                row = next(self._rows, None)
                if row is None:
                    raise ValueError(
                        f"the stream had {len(self):,} rows and ended this time after {self._next:,}: it has to be the "
                        "same every time; save it, or take(n) of it in memory"
                    )
                self._next += 1
            self._last = self._steady.same(_sample(row or {}, self.columns, index))
            return self._last


def read_dataset(dataset: Any, image: str, response: str | None, prompt: str | None) -> tuple[Sequence[Sample], Found]:
    """See `ImageTextData.from_dataset`."""
    streamed = not hasattr(dataset, "__len__") and type(dataset).__name__ == "IterableDataset"
    if isinstance(dataset, dict | list | tuple | str) or not (
        streamed or (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))
    ):
        raise ValueError(
            f"{type(dataset).__name__} is no datasets.Dataset: choose a split of a DatasetDict, load a name "
            "by datasets.load_dataset; rows of one's own go into ImageTextData.from_samples"
        )
    transformed = isinstance(given := getattr(dataset, "format", None), dict) and given.get("type") == "custom"
    columns = list(getattr(dataset, "column_names", None) or [])
    if transformed or (streamed and not columns):  # what there is to see, a row has
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError("the dataset has no rows")
        columns = list(first)
    elif hasattr(dataset, "with_format"):
        dataset = dataset.with_format(None)  # numpy, torch, pandas and arrow rows are of their own types
    named = image, response, prompt
    what, rows = ("streaming dataset", 0) if streamed else ("dataset", len(dataset))
    chosen, found = choose_columns(what, columns, *named, rows)
    if not transformed:  # a transform is given what it was written for
        dataset = _undecoded(dataset, image)
        if hasattr(dataset, "select_columns"):  # others are not decoded: one broken picture there would stop everything
            dataset = dataset.select_columns([*dict.fromkeys(column for column in chosen.values() if column)])
    return (_Stream(dataset, chosen) if streamed else _Rows(dataset, chosen, transformed)), found


def _undecoded(dataset: Any, column: str) -> Any:
    """The dataset with its image column as raw bytes: one broken image must not stop everything."""
    feature: Any = (getattr(dataset, "features", None) or {}).get(column)
    if type(feature).__name__ == "Image":
        return dataset.cast_column(column, replace(feature, decode=False))
    inner: Any = getattr(feature, "feature", None)
    if type(inner).__name__ == "Image":
        return dataset.cast_column(column, type(feature)(replace(inner, decode=False)))
    return dataset


def read_frame(frame: Any, image: str, response: str | None, prompt: str | None) -> tuple[list[Sample], Found]:
    """See `ImageTextData.from_frame`."""
    if not hasattr(frame, "columns") or not hasattr(frame, "itertuples"):
        raise ValueError(f"{short(frame)} is no DataFrame: pandas.read_csv and pandas.read_parquet make one")
    columns = list(frame.columns)
    if repeated := sorted({str(c) for c in columns if columns.count(c) > 1}):
        raise ValueError(f"columns {', '.join(repeated)} are there twice: rename them")
    chosen, found = choose_columns("DataFrame", columns, image, response, prompt, len(frame))
    kept = {field: frame[column].tolist() for field, column in chosen.items() if column is not None}
    rows = [dict(zip(kept, map(_missing, row), strict=True)) for row in zip(*kept.values(), strict=True)]
    return [make_sample(i, row, f"row {i}", Path.cwd()) for i, row in enumerate(rows)], found


def _missing(value: Any) -> Any:
    """NaN and pandas' NA are None; arrays of pictures, as Parquet gives them, lists."""
    if type(value).__name__ == "NAType" or (isinstance(value, float) and value != value):
        return None
    return list(value) if type(value).__name__ == "ndarray" and value.dtype == object else value

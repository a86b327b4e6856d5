"""The kind of data behind a path, found from the file itself; and data again from what its source says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from vlm_neurons.data.annotations import read_json
from vlm_neurons.data.fields import TURNS
from vlm_neurons.data.samples import ImageTextData
from vlm_neurons.data.sources import picture_suffixes, read_records

_TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx")
_PACKED = (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z")


def open_source(source: str) -> ImageTextData | None:
    """Data from what `ImageTextData.source` says, without another word of what is not used; None for other texts.

    Raises:
        ValueError: it is not as the source says.
        FileNotFoundError: it is not there any more.
    """
    kind, _, rest = source.partition(":")
    if not rest or kind not in ("folder", "jsonl", "llava", "coco", "webdataset"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it was said when the data was opened first
        if kind == "folder":
            return ImageTextData.from_folder(rest)
        if kind == "jsonl":
            return ImageTextData.from_jsonl(rest)
        if kind == "webdataset":
            return ImageTextData.from_webdataset(rest)
        joined = kind == "coco" and rest.endswith(",joined")
        path, _, images = rest.removesuffix(",joined" if joined else "").partition(",images=")
        if kind == "coco":
            return ImageTextData.from_coco(path, images or None, joined)
        return ImageTextData.from_llava(path, images or None)


def open_path(spec: str, images: str | Path | None = None) -> ImageTextData | None:
    """Data from a folder or file of any kind that is read; None where nothing is there.

    Args:
        spec: the path; of tar shards also a name with `{000..099}` or `*` in it.
        images: folder of the pictures, for conversations and captions in JSON.

    Raises:
        ValueError: it is of no kind that is read; the message says what to do.
    """
    path = Path(spec)
    data = None
    if path.suffix.lower() == ".tar":
        data = ImageTextData.from_webdataset(spec)
    elif path.is_dir():
        data = ImageTextData.from_folder(path)
    elif path.is_file():
        annotated = _annotated(path)
        if annotated is not None:
            return annotated(path, images)
        data = ImageTextData.from_jsonl(path)
    if data is not None and images is not None:
        raise ValueError(f"images={str(images)!r}: {spec} says itself where its pictures are; leave it out")
    return data


def _annotated(path: Path) -> Any:
    """What reads a file of annotations; None for a JSONL of our own.

    Raises:
        ValueError: it is of no kind that is read.
    """
    suffix = path.suffix.lower()
    if suffix in picture_suffixes():
        raise ValueError(f"{path} is an image; pass its folder, {path.absolute().parent}")
    if suffix in _TABLES:
        raise ValueError(f"{path} is a table: read it with pandas, and pass it to ImageTextData.from_frame")
    if suffix in _PACKED:
        raise ValueError(f"{path} is packed: unpack it first")
    if suffix != ".json":
        first = next(read_records(path, _head(path)), None)
        return ImageTextData.from_llava if first and {*TURNS} & {*first[1]} else None
    content = read_json(path)
    if isinstance(content, dict) and {"images", "annotations"} <= {*content}:
        return ImageTextData.from_coco
    records = content if isinstance(content, list) else []
    if records and isinstance(records[0], dict) and {*TURNS} & {*records[0]}:
        return ImageTextData.from_llava
    if isinstance(content, dict) and "image" in content:
        return None  # a JSONL of one line under another name
    raise ValueError(
        f"{path} is JSON of no kind that is read: LLaVA's is a list of conversations, COCO's an object with images and "
        'annotations; others go into a .jsonl, one object a line: {"image": "a.jpg", "response": "A cat."}'
    )


def _head(path: Path) -> bytes:
    """The first line that is not blank, if it is one of less than 16 MiB."""
    with path.open("rb") as file:
        for _ in range(100):
            line = file.readline(2**24)
            if not line or line.strip():
                return line
    return b""

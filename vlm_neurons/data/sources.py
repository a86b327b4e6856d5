"""Samples of our own form: in memory, in a folder of pictures, in a JSONL."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_neurons._checks import of_kind, short
from vlm_neurons.data.fields import WRITTEN, Found, check_fields, check_file, count_unused
from vlm_neurons.data.sample import Sample, make_sample

CAPTIONS = "captions.jsonl"
READ = ("image", "response", "prompt")


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of files that PIL reads here, such as ".png"."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def read_records(path: Path, content: bytes | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of every line that is not blank.

    Args:
        path: the JSONL.
        content: its bytes, if they were read before.

    Raises:
        ValueError: the file is not UTF-8, or a line is no JSON object; the message names file and line.
    """
    content = (path.read_bytes() if content is None else content).removeprefix(b"\xef\xbb\xbf")  # Windows' mark
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=no_key_twice)
        except UnicodeDecodeError:
            raise ValueError(f"{path}, line {number}: not UTF-8; save the file as UTF-8") from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}); "
                'every line is one object such as {"image": "a.jpg", "response": "A cat."}'
            ) from None
        except KeyTwice as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        except (RecursionError, ValueError) as error:  # brackets in brackets, or a number of thousands of digits
            raise ValueError(f"{path}, line {number}: not read as JSON ({type(error).__name__})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: {type(record).__name__}, not an object; write {{...}}")
        yield number, record


class KeyTwice(ValueError):
    """A key stands twice in an object of JSON: all but the last would be lost in silence."""


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook` of `json.loads`.

    Raises:
        KeyTwice: the message names the key.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        name = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise KeyTwice(f"the key {name!r} stands twice in one object; keep one, or write an object for each")
    return made


def read_memory(samples: Iterable[Sample | Mapping[str, Any]]) -> list[Sample]:
    """See `ImageTextData.from_samples`."""
    done: list[Sample] = []
    records = []
    of_kind("samples", samples, Iterable, "give a list of Samples or dicts")
    if isinstance(samples, str | bytes | Mapping):
        raise TypeError(f"samples={short(samples)}: give a list of Samples or dicts; vn.scan reads a path itself")
    for i, entry in enumerate(samples):
        if isinstance(entry, Sample):
            done.append(replace(entry, id=i))
            continue
        if not isinstance(entry, Mapping):
            raise ValueError(f"sample {i} is {short(entry)}; give a Sample, or a dict such as {{'image': path}}")
        check_fields(entry, f"sample {i}")
        done.append(make_sample(i, entry, f"sample {i}", Path.cwd()))
        records.append(dict.fromkeys(entry))
    if unused := count_unused(records, [*READ, *WRITTEN]):
        Found("samples in memory", READ, unused).tell("samples in memory")
    return done


def read_jsonl(path: Path) -> tuple[list[Sample], str, Found]:
    """The samples of a JSONL, their source, and what was found. Files are not opened here: a missing image is the
    scan's to record."""
    path = path.absolute()
    check_file(path, "from_jsonl reads a .jsonl file, from_folder a directory of images")
    samples: list[Sample] = []
    records: list[dict[str, Any]] = []
    for number, record in read_records(path):
        where = f"{path}, line {number}"
        check_fields(record, where)
        samples.append(make_sample(len(samples), record, where, path.parent))
        records.append(dict.fromkeys(record))
    if not samples:
        raise ValueError(f'{path}: no samples; write one object a line, {{"image": "a.jpg", "response": "A cat."}}')
    # a text-only sample has no file to be called by: its line is its name
    samples = [s if s.images else replace(s, name=s.name.removeprefix(f"{path}, ")) for s in samples]
    found = Found("JSONL", READ, count_unused(records, [*READ, *WRITTEN])).tell(path)
    return samples, f"jsonl:{path}", found


def read_folder(folder: Path) -> tuple[list[Sample], str, Found]:
    """Images of a folder, sorted by name, with the responses of `captions.jsonl` if it is there; their source, and what
    was found. Several captions of a picture are several samples.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it is a file, there is no image in it, or a caption for a file that is not there.
    """
    folder = folder.absolute()
    if folder.is_file():
        raise ValueError(f"{folder} is a file, not a directory of images; ImageTextData.from_jsonl reads a .jsonl file")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such directory; pass a directory of images, or a .jsonl file")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    paths = [p for p in entries if p.suffix.lower() in picture_suffixes() and not p.is_dir()]
    if not paths:
        there = _left_out([entry for entry in entries if entry.name != CAPTIONS])
        raise ValueError(
            f"{folder}: no images in it (folders inside it are not searched){', but ' if there else ''}"
            f"{'; '.join(there)}; for images elsewhere write a JSONL"
        )
    said: dict[Path, list[Sample]] = {p: [] for p in paths}
    captions, records = folder / CAPTIONS, list[dict[str, Any]]()
    if captions.is_file():
        same = {_plain(p): p for p in paths}
        for number, record in read_records(captions):
            where = f"{captions}, line {number}"
            check_fields(record, where)
            sample = make_sample(0, record, where, folder)
            path = sample.images[0] if len(sample.images) == 1 else None
            own = same.get(_plain(path)) if isinstance(path, Path) else None
            if own is None:
                alike = [p.name for p in paths if isinstance(path, Path) and p.name.lower() == path.name.lower()]
                meant = f" (there is {alike[0]!r})" if alike else ""
                raise ValueError(
                    f"{where}: {record['image']!r} is no image of {folder}{meant}; correct the line, "
                    f"or pass {captions} itself as data"
                )
            said[own].append(replace(sample, images=(own,), name=str(record.get("name") or own.name)))
            records.append(dict.fromkeys(record))
    samples = [one for p, given in said.items() for one in given or [Sample(0, (p,), None, None, p.name)]]
    left_out = _left_out([entry for entry in entries if entry != captions and entry not in said])
    found = Found(
        f"folder of {len(paths):,} pictures" + (f" with {CAPTIONS}" if captions.is_file() else ""),
        READ if captions.is_file() else ("image",), count_unused(records, [*READ, *WRITTEN]), tuple(left_out),
    ).tell(folder)  # fmt: skip
    return [replace(one, id=i) for i, one in enumerate(samples)], f"folder:{folder}", found


def _plain(path: Path) -> str:
    """A path that is the same for all spellings of one file: "é" may be one character or two, "x/../" is nothing."""
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _left_out(entries: list[Path]) -> list[str]:
    """What else is in a folder of pictures, in words; folders only where pictures are in them."""
    files = Counter(entry.suffix.lower() or "without a suffix" for entry in entries if not entry.is_dir())
    notes = [f"left out: {', '.join(f'{n:,} {suffix}' for suffix, n in files.most_common())}"] if files else []
    if {".heic", ".heif"} & {*files}:
        notes[0] += " (HEIC: convert it to JPEG, or install and register pillow-heif)"
    if metadata := [entry.name for entry in entries if entry.suffix in (".jsonl", ".csv", ".txt", ".json")][:3]:
        notes.append(f"texts are read from {CAPTIONS} only, not from {', '.join(metadata)}")
    inner = [entry for entry in entries if entry.is_dir() and _has_pictures(entry)]
    if inner:
        notes.append(f"{len(inner)} folders with pictures in them are not searched ({inner[0].name} ...)")
    return notes


def _has_pictures(folder: Path) -> bool:
    try:
        return any(Path(name).suffix.lower() in picture_suffixes() for name in os.listdir(folder))
    except OSError:
        return False

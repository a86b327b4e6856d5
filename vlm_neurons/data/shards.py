"""Samples in tar shards, as webdataset and img2dataset write them. Pictures are not read before they are needed."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from vlm_neurons._checks import short
from vlm_neurons._images import Encoded
from vlm_neurons.data.fields import Found, check_fields, check_file
from vlm_neurons.data.sample import Sample, make_sample
from vlm_neurons.data.sources import KeyTwice, no_key_twice, picture_suffixes

TEXTS = ("txt", "caption")  # members that hold the response
LARGEST_TEXT = 2**22  # bytes of a member that is no picture
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_READ = ("response", "prompt")  # of a member that is JSON


def shard_paths(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files behind a name with {000..099} or * in it, or behind a list of names, in order.

    Raises:
        ValueError: a name on the network, no name at all, or too many.
        FileNotFoundError: a file that is not there.
    """
    if isinstance(shards, bytes | Mapping) or not isinstance(shards, Iterable | Path):
        raise TypeError(f"shards={short(shards)}: pass tar files, such as shards-{{000..099}}.tar")
    found: list[Path] = []
    for one in [shards] if isinstance(shards, str | Path) else shards:
        if re.match(r"\w+://|pipe:", str(one)):
            raise ValueError(f"{one}: shards are read from disk only, each part when it is needed: download them first")
        for name in _expanded(str(one)):
            there = [name] if Path(name).exists() else sorted(glob(name))
            if not there:
                raise FileNotFoundError(f"{name}: no such file; pass tar files, such as shards-{{000..099}}.tar")
            for path in there:
                check_file(Path(path), "pass tar files, such as shards-{000..099}.tar")
            found += [Path(path).absolute() for path in there]
    if not found:
        raise ValueError("no shards: pass tar files, such as shards-{000..099}.tar")
    return found


def _expanded(name: str) -> list[str]:
    braces = _BRACES.search(name)
    if braces is None:
        return [name]
    first, last = braces.groups()
    if not 0 <= int(last) - int(first) < 100_000:
        down = int(last) < int(first)
        raise ValueError(f"{name}: {{{first}..{last}}} {'counts down' if down else 'are more than 100,000 names'}")
    numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return [full for n in numbers for full in _expanded(name[: braces.start()] + n + name[braces.end() :])]


def read_shards(shards: str | Path | Sequence[str | Path]) -> tuple[list[Sample], str, Found]:
    """See `ImageTextData.from_webdataset`."""
    paths = shard_paths(shards)
    samples: list[Sample] = []
    unused: Counter[str] = Counter()
    for path in paths:
        by_key: dict[str, list[tuple[str, Encoded]]] = {}  # tar packs what a folder lists in any order
        for key, suffix, one in _members(path):
            by_key.setdefault(key, []).append((suffix, one))
        for key, members in by_key.items():
            entry = _entry(members, f"{path}, {key}", unused)
            if entry is not None:
                samples.append(make_sample(len(samples), {"name": key, **entry}, f"{path}, {key}", path.parent))
    if not samples:
        raise ValueError(f"{paths[0]}: no samples; a sample is a.jpg and a.txt, or a.jpg and a.json, side by side")
    used = ("pictures", *TEXTS, "response and prompt of json")
    given = str(Path(shards).absolute()) if isinstance(shards, str | Path) else ""
    source = f"webdataset:{given}" if given else f"webdataset:{paths[0]}" if len(paths) == 1 else "memory"
    return samples, source, Found(f"{len(paths)} tar shards", used, dict(unused.most_common())).tell(paths[0])


def _members(path: Path) -> Iterator[tuple[str, str, Encoded]]:
    """Key, suffix and place of every file in a tar; the key is the name up to the first dot of its last part."""
    try:
        with tarfile.open(path, "r:") as tar:
            for one in tar:
                if one.isdir() or Path(one.name).name.startswith("."):
                    continue
                if not one.isreg() or one.issparse():
                    raise ValueError(f"{path}, {one.name}: a link or a sparse file; make the tar with plain files")
                folder, _, name = one.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if one.offset_data + one.size > path.stat().st_size:
                    raise ValueError(f"{path} ends within {one.name}: it is torn; download it again")
                yield key, suffix.lower(), Encoded(file=path, offset=one.offset_data, size=one.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a plain tar ({error}); unpack .gz first") from None


def _entry(members: list[tuple[str, Encoded]], where: str, unused: Counter[str]) -> dict[str, Any] | None:
    """What the files of one key say; None where there is neither a picture nor a text."""
    entry: dict[str, Any] = {"image": []}
    for suffix, one in members:
        if f".{suffix.rpartition('.')[2]}" in picture_suffixes():
            entry["image"].append(one)
        elif suffix in TEXTS:
            if "response" in entry:
                raise ValueError(f"{where}: two texts ({', '.join(s for s, _ in members)}); leave one")
            entry["response"] = _text(one, where)
        elif suffix == "json":
            record = _record(one, where)
            told = any(s in TEXTS for s, _ in members)  # by a text of its own
            if told and record.get("response") is not None:
                raise ValueError(f"{where}: two texts ({', '.join(s for s, _ in members)}); leave one")
            if not told:
                check_fields(record, where)
            entry |= {field: record[field] for field in _READ if field in record and not (told and field == "response")}
            unused.update(f"json: {field}" for field in map(str, record) if field not in _READ)
        else:
            unused[f".{suffix}"] += 1
    return entry if entry["image"] or entry.get("response") is not None or "prompt" in entry else None


def _text(one: Encoded, where: str) -> str:
    if one.size > LARGEST_TEXT:
        raise ValueError(f"{where}: a text of {one.size:,} bytes; at most {LARGEST_TEXT:,} are read")
    try:
        return one.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{where}: a text that is not UTF-8") from None


def _record(one: Encoded, where: str) -> dict[str, Any]:
    try:
        record = json.loads(_text(one, where), object_pairs_hook=no_key_twice)
    except KeyTwice as error:
        raise ValueError(f"{where}: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: its .json is not read as JSON ({type(error).__name__})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: its .json is no object")
    return record

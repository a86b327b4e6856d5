"""The Arrow files of evidence: how one is written, and what it says of its batches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons._files import readable, write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 7
WRITER = "vn.gather_evidence(model, data, run, ...)"
_END = b"ARROW1"  # of a file that is whole, behind the size of its footer


def write_shard(file: Path, kind: pa.Schema, batches: Iterable[pa.RecordBatch], told: dict[str, Any]) -> None:
    """One file: its batches, and in the metadata of its schema what each of them is of."""
    import pyarrow as pa

    kind = kind.with_metadata({"format": str(FORMAT), **{name: json.dumps(value) for name, value in told.items()}})

    def write(temporary: Path) -> None:
        # mapped into memory as they are: compressed, activations take 4/5 of the disk and 20 times the time, and
        # samples, whose pictures are compressed already, a millisecond each, to write and to read
        with pa.ipc.new_file(str(temporary), kind) as out:
            for batch in batches:
                out.write_batch(batch)

    write_atomic(file, write)


def told_in(file: Path, name: str) -> list[Any]:
    """What the batches of a file are of; nothing where it does not say."""
    with readable(file, WRITER):
        return list(json.loads(opened(file).schema.metadata.get(name.encode(), b"[]")))


def opened(file: Path) -> Any:
    """An Arrow file, mapped into memory.

    Raises:
        ValueError: it is damaged, or in another format.
    """
    import pyarrow as pa

    with readable(file, WRITER):
        shard = pa.ipc.open_file(pa.memory_map(str(file)))
        found = (shard.schema.metadata or {}).get(b"format")
    if found != str(FORMAT).encode():
        raise ValueError(f"{file}: format {found!r}, this version reads {FORMAT}; gather the evidence again")
    return shard


def mentions(file: Path, name: str) -> bool:
    """Whether a file says a name anywhere in its metadata, as these are on disk: nothing is parsed.

    Raises:
        ValueError: it is torn.
    """
    with readable(file, WRITER), file.open("rb") as raw:
        raw.seek(-4 - len(_END), 2)
        size, end = int.from_bytes(raw.read(4), "little"), raw.read()
        if end != _END:
            raise ValueError("its end is missing")
        raw.seek(-4 - len(_END) - size, 2)
        return json.dumps(name).encode() in raw.read(size)

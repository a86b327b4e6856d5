"""Evidence on disk: Arrow files that anything can read, images as PNG, no pickle; nothing is ever rewritten.

A call of `save` adds two files. `samples-{digest}.arrow`: the samples that no other file has, a record batch each (what
`Seen` says; images as PNG bytes); the metadata of its schema has `keys` of their content (JSON, in the order of the
batches). `neurons-{time}-{digest}.arrow`: a record batch a neuron, in it a row a sample; the metadata has `neurons`
(peak, seed, `written` ...). Of a neuron that several files have the newest counts. So what adding a neuron costs
does not grow with the neurons that are there (a little with the number of earlier calls, whose files are opened),
several processes may save at once, and a kill loses what was being saved and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from vlm_neurons._files import readable, write_atomic
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar, Seen
from vlm_neurons.evidence.rows import exemplars_batch, exemplars_schema, read_acts, read_sample, sample_row, schema
from vlm_neurons.evidence.written import Written

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 7
WRITER = "vn.gather_evidence(model, data, run, ...)"


def save(evidence: Mapping[str, Evidence], path: str | Path) -> Path:
    """Add evidence to a directory. Neurons that are there already are replaced, others stay.

    Returns:
        the directory.
    """
    import pyarrow as pa

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if not evidence:
        return path
    known = {key for file in path.glob("samples-*.arrow") for key in _told(file, "keys")}
    keys: dict[int, str] = {}  # id(seen) -> key
    rows: dict[str, dict[str, Any]] = {}
    told, batches = [], []
    for name, one in evidence.items():
        every = (*one.exemplars, *one.pool)
        for e in every:
            if id(e.seen) not in keys:
                key = keys[id(e.seen)] = key_of(e.seen)
                if key not in known and key not in rows:
                    rows[key] = sample_row(e.seen)
        told.append({"name": name, "neuron": one.neuron, "peak": one.peak, "label": one.label, "seed": one.seed,
                     "source": one.source, "n_samples": one.n_samples,
                     **({} if one.written is None else {"written": asdict(one.written)})})  # fmt: skip
        batches.append(exemplars_batch(every, [keys[id(e.seen)] for e in every]))
    if rows:  # before what names them
        samples = [pa.RecordBatch.from_pylist([row], schema=schema()) for row in rows.values()]
        _write(path / f"samples-{_digest([*rows])}.arrow", schema(), samples, "keys", [*rows])
    name = f"neurons-{time.time_ns():020d}-{_digest([told, time.perf_counter_ns()])}.arrow"
    _write(path / name, exemplars_schema(), batches, "neurons", told)
    return path


class Stored(Mapping[str, Evidence]):
    """The evidence of a directory: each neuron is read when it is asked for, from memory-mapped files. Samples are
    shared by those that are in use together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._home: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in sorted(path.glob("neurons-*.arrow")):
            for place, one in enumerate(_told(file, "neurons")):
                self._home[one["name"]] = file, place, one
        self._samples: dict[str, tuple[Path, int]] = {}
        for file in path.glob("samples-*.arrow"):
            for row, key in enumerate(_told(file, "keys")):
                self._samples[key] = file, row
        self._seen: WeakValueDictionary[str, Seen] = WeakValueDictionary()
        self._open: dict[Path, Any] = {}

    def __repr__(self) -> str:
        return f"<evidence of {len(self)} neurons in {self.path}>"

    def __len__(self) -> int:
        return len(self._home)

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def __getitem__(self, name: str) -> Evidence:
        file, place, one = self._home[name]
        with readable(file, WRITER):
            rows = self._file(file).get_batch(place)
            found = [
                Exemplar(self._sample(key), group, split, rank, *acts)
                for key, group, split, rank, acts in zip(
                    *(rows[column].to_pylist() for column in ("sample_key", "group", "split", "rank")),
                    read_acts(rows), strict=True,
                )
            ]  # fmt: skip
        shown, pool = (tuple(e for e in found if (e.group == "pool") is own) for own in (False, True))
        return Evidence(one["neuron"], one["peak"], shown, one["label"], one["seed"], one["source"], pool,
                        one["n_samples"], Written(**one["written"]) if "written" in one else None)  # fmt: skip

    def about(self, name: str) -> dict[str, Any]:
        """What is known of a neuron without reading what it did: peak, label, seed, source."""
        return dict(self._home[name][2])

    def _sample(self, key: str) -> Seen:
        if (seen := self._seen.get(key)) is None:
            file, row = self._samples[key]
            with readable(file, WRITER):
                seen = read_sample(self._file(file).get_batch(row).to_pylist()[0])
            self._seen[key] = seen
        return seen

    def _file(self, file: Path) -> Any:
        if file not in self._open:
            self._open[file] = _opened(file)
        return self._open[file]


def load(path: str | Path) -> Stored:
    """Read evidence, without a model.

    Args:
        path: the directory that `save` wrote, or a run directory with `evidence/` in it.

    Returns:
        neuron -> evidence, read when it is asked for. What is saved later is not in it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is in a format that this version does not know, or a file is damaged.

    >>> stored = vn.evidence.load(run)
    >>> stored["L2N304"].peak == evidence["L2N304"].peak, "L0N1" in stored
    (True, False)
    """
    path = Path(getattr(path, "path", path))
    path = path if is_there(path) else path / "evidence"
    if not is_there(path):
        raise FileNotFoundError(f"no evidence in {path}; make it with vn.gather_evidence(model, data, run, neurons)")
    if not any(path.glob("neurons-*.arrow")):
        raise ValueError(f"{path}: evidence of an earlier version; this one reads format {FORMAT}; gather it again")
    return Stored(path)


def is_there(path: Path) -> bool:
    """Whether a directory has evidence, of any version."""
    return any(path.glob("neurons-*.arrow")) or (path / "exemplars.parquet").is_file()


def key_of(seen: Seen) -> str:
    """Of all that is stored of a sample."""
    return _digest([seen.digest, seen.name, seen.whole_rows, [i.mode for i in seen.images], seen.prompt, seen.answer])


def _digest(words: Any) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()[:24]


def _write(file: Path, kind: pa.Schema, batches: Sequence[pa.RecordBatch], name: str, told: list[Any]) -> None:
    """One file: its batches, and in the metadata of its schema what each of them is of."""
    import pyarrow as pa

    kind = kind.with_metadata({"format": str(FORMAT), name: json.dumps(told)})

    def write(temporary: Path) -> None:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(str(temporary), kind, options=options) as out:
            for batch in batches:
                out.write_batch(batch)

    write_atomic(file, write)


def _told(file: Path, name: str) -> list[Any]:
    """What the batches of a file are of."""
    return list(json.loads(_opened(file).schema.metadata[name.encode()]))


def _opened(file: Path) -> Any:
    """An Arrow file, mapped into memory.

    Raises:
        ValueError: it is damaged, or in another format.
    """
    import pyarrow as pa

    with readable(file, WRITER):
        opened = pa.ipc.open_file(pa.memory_map(str(file)))
        found = (opened.schema.metadata or {}).get(b"format")
    if found != str(FORMAT).encode():
        raise ValueError(f"{file}: format {found!r}, this version reads {FORMAT}; gather the evidence again")
    return opened

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
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from vlm_neurons._files import readable, unwritten, write_atomic
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar, Seen, later
from vlm_neurons.evidence.rows import exemplars_batch, exemplars_schema, read_acts, read_sample, sample_row, schema
from vlm_neurons.evidence.written import Written

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 7
K = TypeVar("K", bound=Hashable)
_KEPT = 2**28  # bytes of samples that were read last
_OPEN = 64  # files
_SAMPLE = 2**12  # bytes of a sample beside its pictures and tokens
WRITER = "vn.gather_evidence(model, data, run, ...)"


def save(evidence: Mapping[str, Evidence], path: str | Path) -> Path:
    """Add evidence to a directory. Neurons that are there already are replaced, others stay.

    Returns:
        the directory.
    """
    path = Path(path)
    with told_where(path):
        path.mkdir(parents=True, exist_ok=True)
    if not evidence:
        return path
    every = {name: (*one.exemplars, *one.pool) for name, one in evidence.items()}
    keys = save_samples({id(e.seen): e.seen for own in every.values() for e in own}, path, known_samples(path))
    told = [about(name, one.neuron, one.peak, one.label, one.seed, one.source, one.n_samples, one.written)
            for name, one in evidence.items()]  # fmt: skip
    batches = (exemplars_batch(own, [keys[id(e.seen)] for e in own]) for own in every.values())
    save_neurons(path, told, batches)
    return path


def about(
    name: str, neuron: str, peak: float, label: str | None, seed: int, source: dict[str, Any], n_samples: int | None,
    written: Written | None,
) -> dict[str, Any]:  # fmt: skip
    """What a file says of a neuron beside what it did."""
    return {"name": name, "neuron": neuron, "peak": peak, "label": label, "seed": seed, "source": source,
            "n_samples": n_samples, **({} if written is None else {"written": asdict(written)})}  # fmt: skip


def known_samples(path: Path) -> set[str]:
    """Keys of the samples that are in a directory."""
    return {key for file in path.glob("samples-*.arrow") for key in _told(file, "keys")}


def save_samples(samples: Mapping[K, Seen], path: Path, known: set[str]) -> dict[K, str]:
    """Write those of some samples that are not known yet, and add them to what is.

    Returns:
        The key of each.
    """
    import pyarrow as pa

    keys = {name: key_of(seen) for name, seen in samples.items()}
    fresh = {keys[name]: seen for name, seen in samples.items() if keys[name] not in known}
    if fresh:
        batches = (pa.RecordBatch.from_pylist([sample_row(seen)], schema=schema()) for seen in fresh.values())
        told = {"keys": [*fresh], "digests": [[seen.digest, seen.image_digests] for seen in fresh.values()]}
        _write(path / f"samples-{_digest([*fresh])}.arrow", schema(), batches, told)
        known.update(fresh)
    return keys


def save_neurons(
    path: Path, told: Sequence[dict[str, Any]], batches: Iterable[pa.RecordBatch], keys: Sequence[str] = ()
) -> None:
    """Write what neurons did, a batch each; their samples are there already, with `keys` if these are told."""
    name = f"neurons-{time.time_ns():020d}-{_digest([told, time.perf_counter_ns()])}.arrow"
    _write(path / name, exemplars_schema(), batches, {"neurons": told, **({"samples": keys} if keys else {})})


def relabel(stored: Stored, labels: Mapping[str, str | None]) -> Stored:
    """Write neurons again whose class is another one now, as they are but for that.

    Returns:
        The directory as it is then.
    """
    changed = [name for name, label in labels.items() if stored.about(name)["label"] != label]
    if not changed:
        return stored
    told = [{**stored.about(name), "label": labels[name]} for name in changed]
    save_neurons(stored.path, told, map(stored.rows, changed), sorted(stored.keys_of(changed)))
    return Stored(stored.path)


@contextmanager
def told_where(path: Path) -> Iterator[None]:
    """What cannot be written is told with the remedy."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


class Stored(Mapping[str, Evidence]):
    """The evidence of a directory: each neuron is read when it is asked for, from memory-mapped files. Samples are
    shared by those that are in use together."""

    def __init__(self, path: Path) -> None:
        self.path = path = path.absolute()  # wherever the process goes later
        self._home: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in sorted(path.glob("neurons-*.arrow")):
            for place, one in enumerate(_told(file, "neurons")):
                self._home[one["name"]] = file, place, one
        self._samples: dict[str, tuple[Path, int, Any]] = {}
        for file in path.glob("samples-*.arrow"):
            digests = _told(file, "digests")  # nothing in files of before
            for row, key in enumerate(_told(file, "keys")):
                self._samples[key] = file, row, digests[row] if digests else None
        self._seen: WeakValueDictionary[str, Seen] = WeakValueDictionary()
        self._recent: OrderedDict[str, tuple[Seen | None, int]] = (
            OrderedDict()
        )  # samples that were read last, with their bytes
        self._open: OrderedDict[Path, Any] = OrderedDict()  # files that were read last
        self._lock = Lock()
        self._size = 0

    def __reduce__(self) -> tuple[Any, ...]:  # elsewhere it is read anew, with what was saved meanwhile
        return Stored, (self.path,)

    def __repr__(self) -> str:
        return f"<evidence of {len(self)} neurons in {self.path}>"

    def __len__(self) -> int:
        return len(self._home)

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def __getitem__(self, name: str) -> Evidence:
        file, _, one = self._home[name]
        with readable(file, WRITER):
            rows = self.rows(name)
            names = [rows[column].to_pylist() for column in ("sample_key", "sample", "group", "split", "rank")]
            found = [
                Exemplar(self._sample(key, sample), group, split, rank, *acts)
                for key, sample, group, split, rank, acts in zip(*names, read_acts(rows), strict=True)
            ]
        shown, pool = (tuple(e for e in found if (e.group == "pool") is own) for own in (False, True))
        return Evidence(one["neuron"], one["peak"], shown, one["label"], one["seed"], one["source"], pool,
                        one["n_samples"], Written(**one["written"]) if "written" in one else None)  # fmt: skip

    def about(self, name: str) -> dict[str, Any]:
        """What is known of a neuron without reading what it did: peak, label, seed, source."""
        return dict(self._home[name][2])

    def rows(self, name: str) -> pa.RecordBatch:
        """A neuron's batch, as it is in its file."""
        file, place, _ = self._home[name]
        return self._file(file).get_batch(place)

    def keys_of(self, names: Iterable[str]) -> set[str]:
        """Keys of the samples that some neurons need, as the files say that have these neurons."""
        files = {self._home[name][0] for name in names}
        return {key for file in files for key in _told(file, "samples")}

    def has_samples_of(self, names: Iterable[str]) -> bool:
        """Whether the samples of some neurons are there."""
        return self.keys_of(names) <= self._samples.keys()

    def _sample(self, key: str, sample: int) -> Seen:
        """A sample, of which no more than id and digests is read now."""
        if (seen := self._seen.get(key)) is None:
            digests = self._samples[key][2]
            known = {} if digests is None else {"digest": digests[0], "image_digests": tuple(digests[1])}
            seen = self._seen[key] = later(lambda: self._read(key), sample=sample, **known)
        return seen

    def _read(self, key: str) -> Seen:
        file, row, _ = self._samples[key]
        with readable(file, WRITER):
            found = read_sample(self._file(file).get_batch(row).to_pylist()[0])
        size = _SAMPLE + 100 * len(found.tokens) + sum(3 * i.width * i.height for i in found.images)
        with self._lock:  # what was read last stays: other neurons are going to have it too
            self._size += size - self._recent.pop(key, (None, 0))[1]
            self._recent[key] = self._seen[key], size
            while self._size > _KEPT and len(self._recent) > 1:
                self._size -= self._recent.popitem(last=False)[1][1]
        return found

    def _file(self, file: Path) -> Any:
        with self._lock:
            found = self._open.pop(file, None)
            found = self._open[file] = _opened(file) if found is None else found
            if len(self._open) > _OPEN:  # a process may have no more than some hundreds
                self._open.popitem(last=False)
        return found


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


def _write(file: Path, kind: pa.Schema, batches: Iterable[pa.RecordBatch], told: dict[str, Any]) -> None:
    """One file: its batches, and in the metadata of its schema what each of them is of."""
    import pyarrow as pa

    kind = kind.with_metadata({"format": str(FORMAT), **{name: json.dumps(value) for name, value in told.items()}})

    def write(temporary: Path) -> None:
        # activations are mapped into memory as they are; compressed they take 4/5 of the disk, and 20 times the time
        options = pa.ipc.IpcWriteOptions(compression=None if kind.names == exemplars_schema().names else "zstd")
        with pa.ipc.new_file(str(temporary), kind, options=options) as out:
            for batch in batches:
                out.write_batch(batch)

    write_atomic(file, write)


def _told(file: Path, name: str) -> list[Any]:
    """What the batches of a file are of; nothing where it does not say."""
    return list(json.loads(_opened(file).schema.metadata.get(name.encode(), b"[]")))


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

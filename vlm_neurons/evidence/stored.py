"""Evidence that is read from disk, a neuron at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from vlm_neurons._files import readable
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar, Seen, later
from vlm_neurons.evidence.rows import read_acts, read_sample
from vlm_neurons.evidence.shards import FORMAT, WRITER, mentions, opened, told_in
from vlm_neurons.evidence.written import Written

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT = 2**28  # bytes of samples that were read last
_OPEN = 64  # files
_SAMPLE = 2**12  # bytes of a sample beside its pictures and tokens
_FEW = 16  # neurons that are looked for one by one; then all files are read


class Stored(Mapping[str, Evidence]):
    """The evidence of a directory: each neuron is read when it is asked for, from memory-mapped files. Samples are
    shared by those that are in use together. What a file says of its neurons is parsed, and kept, once one of them is
    asked for; that of all files where many are."""

    def __init__(self, path: Path) -> None:
        self.path = path = path.absolute()  # wherever the process goes later
        self._shards = sorted(path.glob("neurons-*.arrow"))  # the newest last
        self._sample_shards = sorted(path.glob("samples-*.arrow"))  # those that were not read yet
        self._homes: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        self._parsed: dict[Path, dict[str, tuple[Path, int, dict[str, Any]]]] = {}  # what files have that were searched
        self._all, self._searches = False, 0  # whether these are all that the files have
        self._samples: dict[str, tuple[Path, int, Any]] = {}
        self._seen: WeakValueDictionary[str, Seen] = WeakValueDictionary()
        self._recent: OrderedDict[str, tuple[Seen | None, int]] = OrderedDict()  # read last, with their bytes
        self._open: OrderedDict[Path, Any] = OrderedDict()  # files that were read last
        self._lock = Lock()
        self._size = 0

    def __reduce__(self) -> tuple[Any, ...]:  # elsewhere it is read anew, with what was saved meanwhile
        return Stored, (self.path,)

    def __repr__(self) -> str:
        return f"<evidence of {len(self)} neurons in {self.path}>"

    def __len__(self) -> int:
        return len(self._every())

    def __iter__(self) -> Iterator[str]:
        return iter(self._every())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def _every(self) -> dict[str, tuple[Path, int, dict[str, Any]]]:
        """File, place in it and what it says, of every neuron."""
        if not self._all:
            self._homes = {name: home for file in self._shards for name, home in self._of(file).items()}
            self._all, self._parsed = True, {}
        return self._homes

    def _of(self, file: Path) -> dict[str, tuple[Path, int, dict[str, Any]]]:
        """The same of the neurons of a file."""
        if (found := self._parsed.get(file)) is None:
            told = told_in(file, "neurons")
            found = self._parsed[file] = {one["name"]: (file, place, one) for place, one in enumerate(told)}
        return found

    def _find(self, name: str) -> tuple[Path, int, dict[str, Any]] | None:
        """The same of one neuron: from the newest file that has it."""
        if name in self._homes or self._all:
            return self._homes.get(name)
        reads = False  # nothing is read again of files that were parsed
        for file in reversed(self._shards):
            if file not in self._parsed:
                if not reads and self._searches >= _FEW:
                    return self._every().get(name)
                self._searches, reads = self._searches + (not reads), True
                if not mentions(file, name):
                    continue
            if (home := self._of(file).get(name)) is not None:  # it is not only in what is told of another
                self._homes[name] = home
                return home
        return None

    def _home(self, name: str) -> tuple[Path, int, dict[str, Any]]:
        """The same. Raises KeyError where it is not there."""
        if (found := self._find(name)) is None:
            raise KeyError(name)
        return found

    def __getitem__(self, name: str) -> Evidence:
        file, _, one = self._home(name)
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
        return dict(self._home(name)[2])

    def rows(self, name: str) -> pa.RecordBatch:
        """A neuron's batch, as it is in its file."""
        file, place, _ = self._home(name)
        return self._file(file).get_batch(place)

    def keys_of(self, names: Iterable[str]) -> set[str]:
        """Keys of the samples that some neurons need, as the files say that have these neurons."""
        files = {self._home(name)[0] for name in names}
        return {key for file in files for key in told_in(file, "samples")}

    def has_samples_of(self, names: Iterable[str]) -> bool:
        """Whether the samples of some neurons are there."""
        return all(self._sample_home(key) for key in self.keys_of(names))

    def _sample_home(self, key: str) -> tuple[Path, int, Any] | None:
        """File of a sample, place in it, and digests; files are read until it is found."""
        with self._lock:
            while key not in self._samples and self._sample_shards:
                digests = told_in(file := self._sample_shards[-1], "digests")  # nothing in files of before
                for row, one in enumerate(told_in(file, "keys")):
                    self._samples[one] = file, row, digests[row] if digests else None
                self._sample_shards.pop()
        return self._samples.get(key)

    def _known(self, key: str) -> tuple[Path, int, Any]:
        if (found := self._sample_home(key)) is None:
            raise ValueError(f"the file with its sample {key} is not there")
        return found

    def _sample(self, key: str, sample: int) -> Seen:
        """A sample, of which no more than id and digests is read now."""
        if (seen := self._seen.get(key)) is None:
            digests = self._known(key)[2]
            known = {} if digests is None else {"digest": digests[0], "image_digests": tuple(digests[1])}
            seen = self._seen[key] = later(lambda: self._read(key), sample=sample, **known)
        return seen

    def _read(self, key: str) -> Seen:
        file, row, _ = self._known(key)
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
            found = self._open[file] = opened(file) if found is None else found
            if len(self._open) > _OPEN:  # a process may have no more than some hundreds
                self._open.popitem(last=False)
        return found


def load(path: str | Path) -> Stored:
    """Read evidence, without a model.

    Args:
        path: the directory that `save` wrote, or a run directory with `evidence/` in it.

    Returns:
        neuron -> evidence, read when it is asked for. What is saved later is not in it. ValueError where a file is
        damaged, or in a format that this version does not know, and what is asked for needs it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of an earlier version.

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

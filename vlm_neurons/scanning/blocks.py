"""Files of a run: written whole or not at all, and checked when they are read."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm_neurons._files import taken, told_where, write_atomic
from vlm_neurons._heap import keep_freed
from vlm_neurons.scanning.fired import UNITS, Fired, P
from vlm_neurons.scanning.moments import MOMENTS, Moments
from vlm_neurons.scanning.state import TENSORS, TopSamples
from vlm_neurons.sites.protocol import IndexedBy
from vlm_neurons.units import Pole

FORMAT = 6  # 1 had no moments, 2 none of third order, 3 no day, 4 one number of images, 5 rows of all latents
READ = (5, FORMAT)
Column = tuple[str, Pole]  # hook, pole
LOGS = (".log", ".out", ".err")  # what schedulers write beside a run
States = dict[Column, TopSamples | Fired[TopSamples]]
Sums = dict[Column, Moments | Fired[Moments]]


@dataclass(frozen=True)
class ColumnInfo:
    """One layer of a site and one pole in a scan; an entry of `columns` in `scan.json`.

    Attributes:
        hook: hook name, or the place of another kind of unit; see `vlm_neurons.Neuron`.
        pole: `"+"` or `"-"`.
        site: name of the site, or the hook name.
        layer: number of the layer.
        indexed_by: `"row"`, or `"image"`: all its tokens are visual.
        d: neurons.
        dtype: of the activations, and of the values that are kept.
        listed: whether few of them fire, so that only those that did have rows in a state. Not in `scan.json`: of
            numbers it decides last digits of concept sums alone.
    """

    hook: str
    pole: Pole
    site: str
    layer: int
    indexed_by: IndexedBy
    d: int
    dtype: str
    listed: bool = False

    @property
    def column(self) -> Column:
        """What names its tensors."""
        return self.hook, self.pole

    @property
    def rows(self) -> int:
        """Rows of a state at first."""
        return 1 if self.listed else self.d

    def empty(self, top_n: int, n_visual: int, n_text: int, device: torch.device) -> TopSamples:
        """A state that has seen nothing: of units that are listed, the row of those that never fire."""
        return TopSamples.empty(self.rows, top_n, n_visual, n_text, getattr(torch, self.dtype), device)

    def record(self) -> dict[str, Any]:
        """For `scan.json`."""
        told = asdict(self)
        del told["listed"]
        return told


@dataclass(frozen=True)
class Skip:
    """A sample that was not scanned.

    Attributes:
        id: the sample's id.
        name: its name.
        reason: `"broken image"`, `"empty response"`, `"no response"`, `"too long"`, `"duplicate"` or `"unusable"`.
        detail: what exactly.
    """

    id: int
    name: str
    reason: str
    detail: str


def check_place(path: Path) -> None:
    """Refuse a directory that holds other things than a run, such as the pictures.

    Raises:
        ValueError: there is a file of that name, or a directory with other files and no scan in it. Hidden files, logs,
            and responses that an interrupted scan left there do not count.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; out= is a directory for the run, such as {path.with_suffix('')}-run")
    if not path.is_dir() or (path / "scan.json").exists():
        return
    if list((path / "blocks").glob("*.safetensors")):
        raise ValueError(f"{path} has blocks but no scan.json; choose another directory, or move blocks/ away")
    names = sorted(f.name for f in path.iterdir() if f.suffix not in LOGS and not f.name.startswith("."))
    foreign = [name for name in names if name not in ("blocks", "captions.jsonl")]
    if foreign:
        shown = ", ".join([*foreign[:3], *["..."] * (len(foreign) > 3)])
        raise ValueError(
            f"{path} holds other files ({shown}) and no scan: choose a new or empty directory for the run, such as "
            f"{path / 'run'}. Nothing was changed"
        )


def read_info(path: Path) -> dict[str, Any]:
    """What `scan.json` of a run directory says.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is none of this package, or of a format that this version does not know.
    """
    file = path / "scan.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no run directory (no scan.json in it); make one with vlm_neurons.scan")
    try:
        info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found, keys = info["format"], set(info)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no scan.json of this package: {error!r}") from None
    if found not in READ:
        writer = info.get("versions", {}).get("vlm_neurons", "unknown")
        raise ValueError(
            f"{file} has format {found!r}, this version reads {' and '.join(map(str, READ))}: use the vlm_neurons "
            f"that wrote it ({writer}), or scan again into another directory"
        )
    if lacking := [key for key in ("model", "data", "parameters", "columns") if key not in keys]:
        raise ValueError(f"{file} is no scan.json of this package: it lacks {', '.join(lacking)}")
    return info


def tensor_name(column: Column, name: str) -> str:
    """Name of a tensor in a block or in `scan.safetensors`.

    >>> tensor_name(("blocks.0.mlp.hook_act", "+"), "sample_ids")
    'blocks.0.mlp.hook_act/+/sample_ids'
    """
    return "/".join((*column, name))


def write_block(
    path: Path,
    states: States,
    moments: Sums,
    fits: dict[str, Tensor],
    samples: dict[str, Tensor],
    skipped: Iterable[Skip],
    block: int,
    run: str,
    made_with: str,
) -> None:
    """Store what a block of sample ids gave.

    Args:
        path: the file.
        states: one state for every hook and pole.
        moments: one for every hook and pole that sees both images and text.
        fits: what dictionaries explain, by tensor name; see `dictionary_fits`.
        samples: tensors with one entry per scanned sample: `id`, `n_visual_tokens`, `n_text_tokens`.
        skipped: samples of the block that were not scanned.
        block: number of the block.
        run: digest of the run's identity, so that a block of another run is never merged.
        made_with: threads and versions, as JSON.
    """
    tensors = {f"samples/{name}": tensor for name, tensor in samples.items()} | fits
    for column, part in [*states.items(), *moments.items()]:
        tensors |= {tensor_name(column, name): tensor for name, tensor in part.tensors().items()}
    metadata = {
        "format": str(FORMAT),
        "run": run,
        "block": str(block),
        "made_with": made_with,
        "skipped": json.dumps([asdict(s) for s in skipped]),
    }
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a block while it is scanned, so that no other process does it too. A killed process lets go.

    Yields:
        Whether the block has still to be done.

    Raises:
        ValueError: another process is at it.
    """
    try:
        import fcntl  # noqa: F401 - whether it is there
    except ImportError:  # not on this system: blocks are still written whole, by whoever is last
        yield not path.exists()
        return
    lock = path.with_suffix(".lock")
    with told_where(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("a+")
    with opened as file:
        if not taken(file, wait=False):
            file.seek(0)
            raise ValueError(
                f"{path.name} of {path.parent.parent} is being scanned by another process ({file.read().strip()}). "
                "Let it finish, or give every process its own RANK and the common WORLD_SIZE; nothing was changed"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield not path.exists()
        finally:
            lock.unlink(missing_ok=True)


def open_block(path: Path, run: str, block: int) -> Any:
    """Open a block (a context manager of safetensors' `safe_open`).

    Raises:
        FileNotFoundError: it is not there, or no more: another process has finished the run.
        ValueError: the file is torn, or is not this block of this run.
    """
    return _open_checked(path, {"run": run, "block": str(block)}, "scan again to make this block anew")


def open_result(path: Path, run: str) -> Any:
    """Open `scan.safetensors`, as `open_block` opens a block.

    Raises:
        ValueError: the file is torn, or is that of another run.
    """
    keep_freed()
    return _open_checked(path, {"run": run}, "make the same call again, which scans anew")


def _open_checked(path: Path, expected: dict[str, str], remedy: str) -> Any:
    try:
        file = safe_open(path, framework="pt")
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, and {remedy}") from error
    metadata = file.metadata() or {}
    for field, value in {"format": " or ".join(map(str, READ)), **expected}.items():
        if metadata.get(field) not in value.split(" or "):
            raise ValueError(
                f"{path}: {field} is {metadata.get(field)!r}, this run has {value!r}; the file belongs to another run: "
                f"move it away, and {remedy}"
            )
    return file


def skipped_of(file: Any) -> list[Skip]:
    """Samples that a block left out."""
    return [Skip(**record) for record in json.loads(file.metadata()["skipped"])]


def state_of(file: Any, column: Column, d: int) -> TopSamples | Fired[TopSamples]:
    """One state of d units, of a block or of `scan.safetensors`."""
    return _fired(file, column, d, TopSamples(*(file.get_tensor(tensor_name(column, name)) for name in TENSORS)))


def moments_of(file: Any, column: Column, d: int) -> Moments | Fired[Moments]:
    """The moments of one column that sees both images and text."""
    return _fired(file, column, d, Moments(*(file.get_tensor(tensor_name(column, name)) for name in MOMENTS)))


def _fired(file: Any, column: Column, d: int, part: P) -> P | Fired[P]:
    names = file.keys()  # safetensors cannot be iterated over
    if (name := tensor_name(column, UNITS)) not in names:
        return part
    return Fired(d, file.get_tensor(name).long(), part)

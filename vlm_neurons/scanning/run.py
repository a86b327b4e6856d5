"""The run directory: what was scanned, and what was found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.scanning.blocks import (
    FORMAT,
    Column,
    moments_of,
    open_result,
    state_of,
)
from vlm_neurons.scanning.moments import Moments
from vlm_neurons.scanning.state import TopSamples
from vlm_neurons.synthetic import open_data
from vlm_neurons.units import Neuron, Pole

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData

# What decides the numbers: a run goes on only where all of this is the same.
IDENTITY = ("format", "model", "data", "parameters", "columns", "rendered", "threads", "versions")
# ... except these, which name or find a thing whose fingerprint is compared
_NAMES = ("model.name", "data.source")


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory.

    Attributes:
        path: the directory.
        info: the content of `scan.json`.

    >>> run.complete, run.n_blocks, len(run.samples), run.skipped
    (True, 1, 120, [])
    >>> vn.Run.load(run.path).identity == run.identity
    True
    """

    path: Path
    info: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Open a run directory.

        Raises:
            FileNotFoundError: no `scan.json` there.
            ValueError: it was written in a format that this version does not know.

        >>> vn.Run.load(run.path).info["parameters"]["top_n"]
        10
        """
        path = Path(path)
        file = path / "scan.json"
        if not file.is_file():
            raise FileNotFoundError(f"{path} is no run directory (no scan.json in it); make one with vlm_neurons.scan")
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
            found, keys = info["format"], set(info)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no scan.json of this package: {error!r}") from None
        if found != FORMAT:
            writer = info.get("versions", {}).get("vlm_neurons", "unknown")
            raise ValueError(
                f"{file} has format {found!r}, this version reads {FORMAT}: use the vlm_neurons that wrote it "
                f"({writer}), or scan again into another directory"
            )
        if lacking := [key for key in ("model", "data", "parameters", "columns") if key not in keys]:
            raise ValueError(f"{file} is no scan.json of this package: it lacks {', '.join(lacking)}")
        return cls(path, info)

    @staticmethod
    def merge(runs: Sequence[str | Path | Run], out: str | Path, data: ImageTextData | str | Path | None = None) -> Run:
        """One run out of several that did different blocks of the same scan, on machines that share no disk.

        On machine k of K scan with `RANK=k WORLD_SIZE=K` in the environment, into a directory of its own; bring the
        directories together, and merge. The result is that of one process, tensor for tensor.

        Args:
            runs: the run directories. A block that several have is taken from the first.
            out: where the whole run goes.
            data: the data that was scanned, or what `synthetic.open_data` takes; by default it is opened from its
                source.

        Raises:
            ValueError: the runs differ in model, data or parameters (the message says in what), a block is in none of
                them or torn, or the data is not where it was or not what was scanned.
        """
        from vlm_neurons.scanning.merging import merge

        if isinstance(runs, str | Path | Run):
            raise ValueError(f"runs={str(getattr(runs, 'path', runs))!r} is one run: give a list of all its parts")
        return merge([run if isinstance(run, Run) else Run.load(run) for run in runs], Path(out), data)

    @property
    def columns(self) -> list[Column]:
        """Every (hook, pole) that was scanned."""
        return [(column["hook"], column["pole"]) for column in self.info["columns"]]

    @property
    def identity(self) -> str:
        """Digest of all that decides the numbers; every block carries it."""
        return hashlib.sha256(json.dumps(identity_of(self.info), sort_keys=True).encode()).hexdigest()

    @property
    def n_blocks(self) -> int:
        """Number of blocks of sample ids."""
        return -(-self.info["data"]["n"] // self.info["parameters"]["block_size"])

    def block_path(self, block: int) -> Path:
        """File of a block, there or not."""
        return self.path / "blocks" / f"{block:06d}.safetensors"

    def missing_blocks(self) -> list[int]:
        """Blocks that have still to be scanned."""
        return [block for block in range(self.n_blocks) if not self.block_path(block).exists()]

    @property
    def complete(self) -> bool:
        """Whether all samples were scanned and merged."""
        return (self.path / "scan.safetensors").exists()

    def top(self, hook: str, pole: Pole = "+") -> TopSamples:
        """The top samples of every neuron of a hook, on the CPU.

        Raises:
            KeyError: the hook or the pole was not scanned.
            FileNotFoundError: the scan is not finished.
            ValueError: `scan.safetensors` is torn, or is that of another run.

        >>> top = run.top("blocks.2.mlp.hook_act")
        >>> top.sample_ids[304, :3].tolist(), round(float(top.peak[304]), 1)  # of L2N304
        ([36, 97, 94], 2.2)
        >>> [data[i].response.split(".")[0] for i in top.sample_ids[304, :2].tolist()]
        ['a large pink cross and a large yellow square', 'a small pink ring and a large red ring']
        """
        self._check_column(hook, pole)
        with self.open_result() as file:
            return state_of(file, (hook, pole))

    def moments(self, hook: str, pole: Pole = "+") -> Moments:
        """What the image-level test needs of every neuron of a hook.

        Raises:
            KeyError: the hook or the pole was not scanned, or its neurons see no text.
            FileNotFoundError: the scan is not finished.
        """
        self._check_column(hook, pole)
        if not any(c["hook"] == hook and c["indexed_by"] == "row" for c in self.info["columns"]):
            raise KeyError(f"{hook!r} sees images only, so there is nothing to compare; the backbone's hooks see both")
        with self.open_result() as file:
            return moments_of(file, (hook, pole))

    def open_result(self) -> Any:
        """Open `scan.safetensors` (a context manager of safetensors' `safe_open`).

        Raises:
            ValueError: the file is torn, or is that of another run.
        """
        return open_result(self.path / "scan.safetensors", self.identity)

    def _check_column(self, hook: str, pole: Pole) -> None:
        if (hook, pole) not in self.columns:
            raise KeyError(f"{hook!r} pole {pole!r}: not scanned; this run has {self.scanned}")
        if not self.complete:
            raise FileNotFoundError(self._unfinished())

    @property
    def scanned(self) -> str:
        """What was scanned, in words.

        >>> run.scanned
        'layers 0-3 at site gate (pole +)'
        """
        sites: dict[str, tuple[set[int], set[str]]] = {}
        for hook, pole in self.columns:
            neuron = Neuron(hook, 0, pole)
            layers, poles = sites.setdefault(neuron.site, (set(), set()))
            layers.add(neuron.layer)
            poles.add(pole)
        return ", ".join(
            f"{_span(sorted(layers))} at site {name} ({'poles + and -' if len(poles) > 1 else f'pole {min(poles)}'})"
            for name, (layers, poles) in sites.items()
        )

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Scanned samples: id, name, images (paths; None for one in memory), prompt, response, n_visual_tokens,
        n_text_tokens."""
        import pandas as pd

        if not self.complete:
            raise FileNotFoundError(self._unfinished())
        return pd.read_parquet(self.path / "samples.parquet")

    @cached_property
    def skipped(self) -> list[dict[str, Any]]:
        """Samples that were not scanned: id, name, reason, detail."""
        if not self.complete:
            raise FileNotFoundError(self._unfinished())
        from vlm_neurons.data.sources import read_records

        return [record for _, record in read_records(self.path / "skipped.jsonl")]

    def open_data(self) -> ImageTextData:
        """The data that was scanned, from its source, with the responses that were scanned.

        Raises:
            ValueError: it was made in memory or is not where it was, or it has another number of samples now.

        >>> len(run.open_data()), run.open_data()[36].response.split(" and ")[0]
        (120, 'a large pink cross')
        """
        data = self.open_source()
        if len(data) != self.info["data"]["n"]:
            raise ValueError(f"{data.source} had {self.info['data']['n']} samples when it was scanned, now {len(data)}")
        scanned = dict(zip(self.samples["id"], self.samples["response"], strict=True))
        return data.with_responses([scanned.get(s.id, s.response) for s in data])

    def open_source(self) -> ImageTextData:
        """What is at the source of the data now.

        Raises:
            ValueError: the data was made in memory, or is not where it was.
        """
        source = self.info["data"]["source"]
        if source == "memory":
            raise ValueError(f"{self.path} was scanned from data in memory: pass that data")
        try:
            return open_data(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the data of {self.path}, {source}, cannot be opened again: say where it is now, with data= or on the "
                f"command line --data ({error})"
            ) from error

    def _unfinished(self) -> str:
        missing = len(self.missing_blocks())
        return f"{self.path} is not finished ({missing} of {self.n_blocks} blocks are missing); scan again to go on"

    def summary(self) -> str:
        """One sentence: how many samples were scanned, how many were skipped and why.

        A reason is followed by its number, such as "2 broken image".

        >>> run.summary()
        '120 samples scanned, 0 skipped'
        """
        text = f"{len(self.samples):,} samples scanned, {len(self.skipped):,} skipped"
        reasons = Counter(record["reason"] for record in self.skipped)
        return text + (f" ({', '.join(f'{n} {reason}' for reason, n in reasons.items())})" if reasons else "")


def _span(layers: list[int]) -> str:
    """Layers in words: from the first to the last where none is missing."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]}-{layers[-1]}" if whole else f"layers {', '.join(map(str, layers))}"


def identity_of(info: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run as one level of names, such as `parameters.top_n`."""
    flat: dict[str, Any] = {}
    for name in IDENTITY:
        value = info.get(name)
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": v for key, v in value.items()}
        else:
            flat[name] = value
    return {name: value for name, value in flat.items() if name not in _NAMES}


def check_length(run: Run, data: ImageTextData) -> None:
    """Refuse data that cannot be what was scanned.

    Raises:
        ValueError: it has another number of samples.
    """
    if len(data) != run.info["data"]["n"]:
        made = f"{run.path} was made with {run.info['data']['n']}"
        raise ValueError(f"data= has {len(data)} samples, {made}: pass the data of the scan")

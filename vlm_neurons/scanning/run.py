"""The run directory: what was scanned, and what was found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

import torch

from vlm_neurons._checks import check_columns, of_kind, whole
from vlm_neurons._files import write_atomic
from vlm_neurons.data.sources import read_records
from vlm_neurons.scanning.blocks import Column, moments_of, open_result, read_info, state_of
from vlm_neurons.scanning.concept_table import MIN_IMAGES, concept_table
from vlm_neurons.scanning.fired import Fired, rows_of
from vlm_neurons.scanning.identity import identity_of
from vlm_neurons.scanning.moments import Moments
from vlm_neurons.scanning.results import columns_in_words, has_rows_of, load_explanations, load_scores
from vlm_neurons.scanning.state import TopSamples
from vlm_neurons.synthetic import open_data
from vlm_neurons.units import Neurons, Pole, ids_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from vlm_neurons.data import ImageTextData

_DIFFERENT = ("neuron", "modality_index", "index_low", "index_high", "p", "q", "pvalue_visual", "pvalue_text",
              "pvalue_multimodal", "peak", "peak_all_tokens")  # columns that a dictionary is no use for  # fmt: skip
_TABLES = {"thresholds": "neurons.parquet", "modality-test": "modality-test.parquet"}  # file of a method's labels


@dataclass(frozen=True, eq=False)
class Run:
    """A run directory.

    Attributes:
        path, info: the directory, and the content of `scan.json`.
        memory: `model` and `data` that `scan` was given, while somebody has them.

    >>> run.complete, run.n_blocks, len(run.samples), run.skipped
    (True, 1, 120, [])
    >>> vn.Run.load(run.path).identity == run.identity
    True
    """

    path: Path
    info: dict[str, Any] = field(repr=False)
    memory: WeakValueDictionary[str, Any] = field(default_factory=WeakValueDictionary, init=False, repr=False)
    _told: dict[int, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:  # to another process: what others have in memory stays here
        return Run, (self.path, self.info)

    @classmethod
    def load(cls, path: str | Path | Run) -> Run:
        """Open a run directory; a run is returned as it is.

        Raises:
            FileNotFoundError: no `scan.json` there.
            ValueError: its format is not known to this version.
        >>> vn.Run.load(run.path).info["parameters"]["top_n"]
        10
        """
        if isinstance(path, Run):
            return path
        of_kind("run", path, str | Path, "give a run, or its directory")
        return cls(Path(path), read_info(Path(path)))

    @property
    def columns(self) -> list[Column]:
        """Every (hook, pole) that was scanned."""
        return [(column["hook"], column["pole"]) for column in self.info["columns"]]

    @cached_property
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
        """Blocks that have still to be scanned. Those of a finished run are merged, and their files gone."""
        lacking = [block for block in range(self.n_blocks) if not self.block_path(block).exists()]
        return [] if self.complete else lacking  # in this order: another process may finish in between

    @property
    def complete(self) -> bool:
        """Whether all samples were scanned and merged."""
        return (self.path / "scan.safetensors").exists()

    def top(self, hook: str, pole: Pole = "+") -> TopSamples:
        """The top samples of every neuron of a hook, on the CPU.

        Raises:
            KeyError: the hook or the pole was not scanned.
            FileNotFoundError: the scan is not finished.
            ValueError: `scan.safetensors` is torn, or another run's.

        >>> top = run.top("blocks.2.mlp.hook_act")
        >>> top.sample_ids[304, :3].tolist(), round(float(top.peak[304]), 1)  # of L2N304
        ([36, 97, 94], 2.2)
        """
        found, rows = self.states(hook, pole)
        return found if isinstance(rows, slice) else rows_of(found, torch.from_numpy(rows))

    def states(self, hook: str, pole: Pole = "+", file: Any = None) -> tuple[TopSamples, np.ndarray | slice]:
        """As `top`, but what is the same for all latents that never fired once: states, and which a neuron has. `file`:
        what `open_result` gave, where several are read."""
        d = self._check_column(hook, pole)
        found = state_of(self.open_result() if file is None else file, (hook, pole), d)
        return (found.part, found.rows.numpy()) if isinstance(found, Fired) else (found, slice(None))

    def moments(self, hook: str, pole: Pole = "+") -> Moments:
        """What the image-level test needs of every neuron of a hook. Raises as `top`, and KeyError for neurons that see
        no text."""
        d = self._check_column(hook, pole)
        if not any(c["hook"] == hook and c["indexed_by"] == "row" for c in self.info["columns"]):
            raise KeyError(f"{hook!r} sees images only, so there is nothing to compare; the backbone's hooks see both")
        with self.open_result() as file:
            found = moments_of(file, (hook, pole), d)
        return found.whole() if isinstance(found, Fired) else found

    def open_result(self) -> Any:
        """Open `scan.safetensors` (a context manager of safetensors' `safe_open`).

        Raises:
            FileNotFoundError, ValueError: the scan is not finished; the file is torn, or is that of another run.
        """
        self._check_complete()
        return open_result(self.path / "scan.safetensors", self.identity)

    def _check_column(self, hook: str, pole: Pole) -> int:
        """How many neurons it has."""
        if (hook, pole) not in self.columns:
            raise KeyError(f"{hook!r} pole {pole!r}: not scanned; this run has {self.scanned}")
        self._check_complete()
        return int(self.info["columns"][self.columns.index((hook, pole))]["d"])

    @property
    def scanned(self) -> str:
        """What was scanned, in words.

        >>> run.scanned
        'layers 0-3 at site gate (pole +)'
        """
        return columns_in_words(self.columns)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Scanned samples: id, name, images (paths, or None), prompt, response, n_visual_tokens, n_text_tokens."""
        self._check_complete()
        return self._parquet("samples.parquet", "delete scan.safetensors, and the same call scans anew")

    @cached_property
    def skipped(self) -> list[dict[str, Any]]:
        """Samples that were not scanned: id, name, reason, detail."""
        self._check_complete()
        return [record for _, record in read_records(self.path / "skipped.jsonl")]

    def save(self, table: pd.DataFrame) -> Path:
        """Make the labels of a table those of the run.

        Args:
            table: what `vn.classify` or `vn.modality_test` returned for this run, all of it.

        Returns:
            The file: `neurons.parquet`, or `modality-test.parquet`. Evidence, scores and report read the former.

        Raises:
            ValueError: it is another table, or has other neurons than the run.

        >>> run.save(vn.classify(run)).name
        'neurons.parquet'
        """
        check_columns("table", table, "neuron", "hook", "index", "pole", "label")
        method = table.attrs.get("parameters", {}).get("method")
        if method not in _TABLES:
            raise ValueError(f"table= does not say how it was made (method {method!r}): pass the table of classify")
        if not has_rows_of(table, self.info["columns"]):
            n = sum(column["d"] for column in self.info["columns"])
            raise ValueError(
                f"table= has {len(table):,} neurons, {self.path} has {n:,}, or they are in another order: "
                "save the whole table of classify for this run"
            )
        path, repeated = self.path / _TABLES[method], [*table.columns.difference(_DIFFERENT)]
        write_atomic(path, lambda file: table.to_parquet(file, index=False, use_dictionary=repeated))
        return path

    def table(self, method: Literal["thresholds", "modality-test"] = "thresholds") -> pd.DataFrame:
        """The saved labels; `.attrs["parameters"]` says how they were made.

        Raises:
            FileNotFoundError: none were saved.
            ValueError: an unknown method.

        >>> run.table().attrs["parameters"]["t_visual"]
        2.0
        """
        if method not in _TABLES:
            raise ValueError(f"method={method!r}: choose from {', '.join(_TABLES)}")
        made = "classify" if method == "thresholds" else "modality_test"
        return self._parquet(_TABLES[method], f"run.save(vn.{made}(run)) writes it")

    def explanations(self, neurons: Neurons | None = None) -> pd.DataFrame:
        """What `explain` wrote into the run, a row a neuron: its last explanation, or failure where there is none.

        Args:
            neurons: only these, without parsing the rest: milliseconds, however many there are.

        Raises:
            FileNotFoundError, KeyError: there is nothing yet, or nothing of one of `neurons`.
            ValueError: a line of the file is no explanation.
        """
        return load_explanations(self.path, ids_of(neurons))

    def scores(self, simulator: str | None = None, neurons: Neurons | None = None) -> pd.DataFrame:
        """The full table that `score` wrote into the run: one row a neuron and side.

        Args:
            simulator: whose; of the one that wrote last if not given.
            neurons: only theirs, without reading the rest.

        Raises:
            FileNotFoundError, KeyError: there is none, or none of one of `neurons`.
            ValueError: it is damaged.
        """
        return load_scores(self.path, simulator, ids_of(neurons))

    def concepts(self, min_images: int = MIN_IMAGES) -> pd.DataFrame:
        """What every unit answers to, of a scan with concepts: a row a unit, side and pole; see `scanning/README.md`.

        `r` ranks concepts of a unit, not units: over all data it falls with a concept's frequency, a right one too. It
        and its interval are of what each half chooses, told on the other: of `concept` where `halves_agree`.

        Args:
            min_images: concepts that fewer images (of the text: samples) of a half have are not chosen.

        Raises:
            FileNotFoundError: the scan is not finished.
            ValueError: it was made without concepts, or sums are missing.
        """
        self._check_complete()
        whole(1, min_images=min_images)
        if (made := self._told.get(min_images)) is None:  # it takes some seconds
            made = concept_table(self.path, self.identity, self.info, self.n_blocks, min_images)
            self._told[min_images] = made
        return made.copy()

    def _parquet(self, name: str, remedy: str) -> pd.DataFrame:
        import pandas as pd

        if not (self.path / name).is_file():
            raise FileNotFoundError(f"{self.path / name} is not there: {remedy}")
        return pd.read_parquet(self.path / name)

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
        return self.with_scanned_responses(data)

    def with_scanned_responses(self, data: ImageTextData) -> ImageTextData:
        """The data of the scan with the responses that were scanned."""
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

    def _check_complete(self) -> None:
        if not self.complete:
            missing = f"{len(self.missing_blocks())} of {self.n_blocks} blocks are missing"
            raise FileNotFoundError(f"{self.path} is not finished ({missing}); scan again to go on")

    def summary(self) -> str:
        """One sentence: how many samples were scanned, how many were skipped and why ("2 broken image").

        >>> run.summary()
        '120 samples scanned, 0 skipped'
        """
        reasons = ", ".join(f"{n} {why}" for why, n in Counter(record["reason"] for record in self.skipped).items())
        text = f"{len(self.samples):,} samples scanned, {len(self.skipped):,} skipped"
        return text + (f" ({reasons})" if reasons else "")

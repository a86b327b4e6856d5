"""One call of `gather_evidence`: every sample once through the model, then every neuron's evidence put together."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from vlm_neurons._files import told_where
from vlm_neurons.evidence.activations import Look, look_into
from vlm_neurons.evidence.assembling import Part, Wanted, batches_of, behind_name, exemplars_of, peaks_at
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.keys import neuron_keys, sha256
from vlm_neurons.evidence.pieces import Files, Memory, Met, Piece, met, read_piece, share
from vlm_neurons.evidence.stored import Stored
from vlm_neurons.evidence.storing import (
    about,
    key_of,
    known_samples,
    relabel,
    save_neurons,
    save_samples,
)
from vlm_neurons.evidence.written import Written
from vlm_neurons.models import on_day
from vlm_neurons.models.state import state_of
from vlm_neurons.scanning.batching import size_now
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlm_neurons.data import ImageTextData, Sample
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

SAMPLES = 32  # of a piece: what a kill can cost
TURNS = 3  # at writing what other calls replace


@dataclass
class Call:
    """What was asked for.

    Attributes:
        model, data, run, labels, seed, progress: see `gather_evidence`.
        chosen: the neurons, in one order however they are asked for: those of a hook in a row, of a pole in a row.
        wanted: what they are looked at on.
        stored: of every neuron what the scan stored of its top samples.
        peaks: of every neuron.
    """

    model: HookedVLM
    data: ImageTextData
    run: Run
    chosen: list[Neuron]
    labels: dict[str, Any]
    seed: int
    progress: bool
    wanted: Wanted = field(init=False)
    stored: Sequence[Sequence[float]] = field(init=False)
    peaks: Sequence[float] = field(init=False)

    def __post_init__(self) -> None:
        self.chosen = sorted(self.chosen, key=lambda n: (n.hook, n.pole, n.index))

    def expect(self, wanted: Wanted, stored: Sequence[Sequence[float]], peaks: Sequence[float]) -> None:
        """Samples, and what the scan stored."""
        self.wanted, self.stored, self.peaks = wanted, stored, peaks

    def in_memory(self) -> dict[str, Evidence]:
        """Gather, and keep all in memory."""
        shelf, samples = Memory(), dict[int, Met]()
        with self._bar() as bar, on_day(self.model, self.run.info["day"]):
            for chunk in self._chunks:
                samples |= self._look(chunk, shelf)
                bar.update(len(chunk))
        found = {}
        for first, last in self.wanted.parts(_longest(samples)):
            part = Part(self.wanted, samples, shelf, first, last)
            for number, rows in part.rows():
                every, told = exemplars_of(rows), self._about(number)
                told["written"] = part.written(number, rows, self._state)
                shown, pool = (tuple(e for e in every if (e.group == "pool") is own) for own in (False, True))
                name = told.pop("name")
                found[name] = Evidence(**told, exemplars=shown, pool=pool)
        return found

    def on_disk(self, path: Path) -> Stored:
        """Gather into a directory, or go on with it; nothing to do where all of it is there.

        Raises:
            ValueError: another call writes other evidence of the same neurons, again and again.
        """
        for _ in range(TURNS):
            if (there := self._finished(path)) is None:
                there = self._gather(path)
            if there is not None:
                for gone in path.glob(".gone-*"):  # of calls that were killed too
                    shutil.rmtree(gone, ignore_errors=True)
                return relabel(there, {name: self.labels.get(name) for name in self._names})
        raise ValueError(
            f"other calls write other evidence of the same neurons into {path} at the same time: name another place "
            "with out="
        )

    def _gather(self, path: Path) -> Stored | None:
        """Gather all, from the pieces that are there; None where another call has replaced some of it meanwhile."""
        folder = path / f".looked-{self._key[:24]}"
        with told_where(path):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._share(path, folder)
            if (there := self._finished(path)) is not None:
                folder.rename(_gone(folder))
            return there
        except torch.OutOfMemoryError:  # these batches are not made again
            with suppress(FileNotFoundError):
                folder.rename(_gone(folder))
            raise
        except FileNotFoundError:  # another process has finished it, and removed the pieces
            if folder.exists():
                raise
            return self._finished(path)

    def _share(self, path: Path, folder: Path) -> None:
        size = max(1, SAMPLES // max(1, len(self._chunks[0]))) if self._chunks else 1
        pieces = [self._chunks[i : i + size] for i in range(0, len(self._chunks), size)]
        files = [folder / f"{number:06d}.f32" for number in range(len(pieces))]
        known, counted = known_samples(path), set[int]()
        with self._bar() as bar, on_day(self.model, self.run.info["day"]):

            def done(number: int) -> bool:
                if (there := files[number].exists()) and number not in counted:
                    counted.add(number)
                    bar.update(sum(map(len, pieces[number])))
                return there

            share(len(pieces), folder, "piece", done, lambda k: self._piece(path, files[k], pieces[k], known))
            all(map(done, range(len(pieces))))
        samples = {sample: one for file in files for sample, one in read_piece(file).items()}
        parts = self.wanted.parts(_longest(samples))
        marks, there = [folder / f"part-{number}" for number in range(len(parts))], Stored(path)
        for mark, part in zip(marks, parts, strict=True):
            if not all(self._is_in(there, k) for k in range(*part)):  # another call has replaced it
                mark.unlink(missing_ok=True)

        def put_together(number: int) -> None:
            made = list(batches_of(Part(self.wanted, samples, Files(), *parts[number]), self._state))
            told = [{**self._about(k, done), "asked": self._keys[k]} for k, done, _ in made]
            used = {*self.wanted.drawn, *(i for k in range(*parts[number]) for i in self.wanted.tops[k])}
            keys = sorted({samples[i].key for i in used})
            save_neurons(path, told, (batch for *_, batch in made), keys)
            marks[number].touch()

        share(len(parts), folder, "part", lambda k: marks[k].exists(), put_together)

    def _piece(self, path: Path, file: Path, chunks: Sequence[Sequence[int]], known: set[str]) -> None:
        with Piece(file) as piece:
            found: dict[int, Met] = {}
            for chunk in chunks:
                found |= self._look(chunk, piece)
            seen = {sample: one.seen for sample, one in found.items() if one.seen is not None}
            save_samples(seen, path, known)  # before what names them
            piece.finish(found)

    def _look(self, chunk: Sequence[int], shelf: Memory | Piece) -> dict[int, Met]:
        """A batch through the model."""
        rows, expected = self._rows, self._expected
        held: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

        def take(row: int, hook: str, values: np.ndarray) -> None:
            sample = chunk[row]
            there = self.wanted.of_hook(sample, hook)
            if len(there) < len(values):
                shelf.put(sample, behind_name(hook), values[len(there) :])
            if not len(there):
                return
            shelf.put(sample, hook, values[: len(there)])
            numbers, stored = expected.get(sample, (there[:0], np.zeros(0)))
            own = slice(*np.searchsorted(numbers, self.wanted.hooks[hook]))
            held.append((row, numbers[own], stored[own], values[np.searchsorted(there, numbers[own])]))

        looks = []
        for i in chunk:
            one, told = self.data[i], rows[i]
            looks.append(Look(i, str(told["name"]), _pictures(one, self.run), told["prompt"], told["response"],
                              one.truth))  # fmt: skip
        wanted = [self.wanted.units_of(i) for i in chunk]
        seen = look_into(self.model, looks, wanted, take, self.run.info["data"]["source"])
        found = {
            sample: met(one, key_of(one), shelf.blocks.get(sample, {})) for sample, one in zip(chunk, seen, strict=True)
        }
        for row, numbers, stored, values in held:
            self._check(found[chunk[row]], numbers, stored, values)
        return found

    def _check(self, one: Met, numbers: np.ndarray, stored: np.ndarray, values: np.ndarray) -> None:
        """The largest activation has to be what the scan stored, but for what another batch may change."""
        assert one.seen is not None
        peaks = peaks_at(one, values)
        tolerance = 1e-3 if self.run.info["model"]["dtype"] == "float32" else 0.1
        good = np.abs(peaks - stored) <= tolerance * np.maximum(1.0, np.abs(stored))
        if not good.all():
            k = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"{self.chosen[numbers[k]].id} reaches {peaks[k]:.4g} on sample {one.seen.sample} ({one.seen.name}), "
                f"the scan stored {stored[k]:.4g}: this is another model or other data than {self.run.path} was made "
                "with; pass the model= and data= of the scan"
            )

    @cached_property
    def _expected(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Of every sample the neurons of which it is a top one, and what the scan stored of them."""
        found: dict[int, tuple[list[int], list[float]]] = {}
        for number, (top, values) in enumerate(zip(self.wanted.tops, self.stored, strict=True)):
            for sample, value in zip(top, values, strict=True):
                numbers, stored = found.setdefault(sample, ([], []))
                numbers.append(number)
                stored.append(value)
        return {sample: (np.array(numbers), np.array(stored)) for sample, (numbers, stored) in found.items()}

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        columns = self.run.samples[["id", "name", "prompt", "response"]]
        return {row["id"]: row for row in columns.astype(object).to_dict("records")}

    @cached_property
    def _chunks(self) -> list[list[int]]:
        """Samples of each batch."""
        ids, size = list(self.wanted.by_sample), size_now(self.run.info)
        return [ids[i : i + size] for i in range(0, len(ids), size)]

    @cached_property
    def _key(self) -> str:
        """SHA-256 of all that decides what pieces hold."""
        return sha256([self._keys, self._chunks])

    @cached_property
    def _keys(self) -> list[str]:
        return neuron_keys(self.model, self._state, self.data, self.run, self.chosen, self.wanted, self.seed)

    @cached_property
    def _state(self) -> str:
        return state_of(self.model)

    def _about(self, number: int, written: Written | None = None) -> dict[str, Any]:
        neuron, name = self.chosen[number], self._names[number]
        source = {"hook": neuron.hook, "index": neuron.index, "pole": neuron.pole, **self._source}
        label = self.labels.get(name)
        return about(name, name, self.peaks[number], label, self.seed, source, len(self._rows), written)

    @cached_property
    def _source(self) -> dict[str, Any]:
        """Where all of it is from."""
        run, info = self.run, self.run.info
        return {"data": info["data"]["source"], "model": info["model"]["name"], "run": run.identity, "day": info["day"]}

    @cached_property
    def _names(self) -> list[str]:
        return [neuron.id for neuron in self.chosen]

    def _is_in(self, there: Stored, number: int) -> bool:
        """Whether a neuron's evidence is stored as it is asked for."""
        name = self._names[number]
        return name in there and there.about(name).get("asked") == self._keys[number]

    def _finished(self, path: Path) -> Stored | None:
        """What is stored, if all of this call is, whatever the labels."""
        there = Stored(path)
        right = all(self._is_in(there, k) for k in range(len(self.chosen)))
        return there if right and there.has_samples_of(self._names) else None

    def _bar(self) -> tqdm[Any]:
        return tqdm(total=len(self.wanted.by_sample), desc="evidence", unit="sample", disable=not self.progress)


def _gone(folder: Path) -> Path:
    """A name for what is to be removed."""
    return folder.with_name(f".gone-{secrets.token_hex(4)}")


def _longest(samples: dict[int, Met]) -> int:
    """Places of the sample that has the most."""
    return max((len(one.text) for one in samples.values()), default=1)


def _pictures(sample: Sample, run: Run) -> list[Image]:
    try:
        return sample.load_images()
    except OSError as error:
        raise OSError(
            f"{error}. It could be read when {run.path} was scanned: if the data was moved, say where it is now, with "
            "data= or on the command line --data"
        ) from error

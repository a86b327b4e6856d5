"""Maps of a bank kept on disk, so that another site, or another checkpoint, need not make them again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from vlm_neurons._files import write_atomic
from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View

if TYPE_CHECKING:
    from torch import device


@dataclass(frozen=True, eq=False)
class Kept(ConceptBank):
    """A bank whose maps are kept in a folder, by the bank's identity, the pixels that the model saw, and where its
    patches are; of a bank of words by the response too. It is the same bank to a run.

    What is not there is made and kept; a file that is broken is made again. What all samples will take is told before
    the first is kept, by its size, and refused where the disk has no room for it. Several processes may share the
    folder. To read the maps of a photograph takes 2 ms, to make those of pixels about 10, of a CLIP a forward pass.

    Attributes:
        bank: whose maps.
        folder: where to. Files of other banks, and of other vocabularies, stay beside them: delete it when done.
        n: number of samples, for the size; a scan tells it.

    >>> bank = vn.concepts.Kept(vn.concepts.Pixels(), "maps")
    >>> bank.name, bank.identity() == vn.concepts.Pixels().identity()
    ('pixels', True)
    """

    bank: ConceptBank
    folder: str | Path
    n: int | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The bank's."""
        return self.bank.name

    @property
    def on_device(self) -> bool:  # type: ignore[override]
        """The bank's."""
        return self.bank.on_device

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """The bank's."""
        return self.bank.concepts(side)

    def identity(self) -> dict[str, Any]:
        """The bank's."""
        return self.bank.identity()

    def fitted(self, responses: Iterable[str]) -> Kept:
        """With the bank fitted, and the number of responses."""
        texts = list(responses)
        return replace(self, bank=self.bank.fitted(texts), n=len(texts))

    def remark(self, model: Any) -> str:
        """The bank's."""
        return self.bank.remark(model)

    @cached_property
    def _bank_digest(self) -> str:
        named = [[c.name for c in self.bank.concepts(side)] for side in ("picture", "text")]
        said = json.dumps([self.bank.name, self.bank.identity(), named], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @cached_property
    def _widths(self) -> tuple[int, int]:
        return len(self.bank.concepts("picture")), len(self.bank.concepts("text"))

    def _path(self, view: View) -> Path:
        """By all of the view that a bank may read."""
        total = hashlib.sha256()
        names = [PurePath(path).name if path is not None else view.name for path in view.paths]
        said: list[Any] = [view.digests, view.grids, names, [image.size for image in view.originals]]
        if self._widths[1]:
            said.append(view.tokens)
        total.update(json.dumps(said).encode())
        for image in view.images:
            total.update(f"{image.mode}{image.size}".encode() + image.tobytes())
        for arrays in (view.boxes, view.cells, view.original_boxes):
            for array in arrays:
                total.update(f"{array.shape}".encode() + np.ascontiguousarray(array, np.float64).tobytes())
        truth = (view.truth() if callable(view.truth) else view.truth) or {}
        for key in sorted(truth):
            total.update(json.dumps([key, truth[key].shape]).encode() + np.ascontiguousarray(truth[key]).tobytes())
        found = total.hexdigest()[:40]
        return Path(self.folder) / self._bank_digest / found[:2] / f"{found}.npz"

    def _read(self, path: Path, view: View) -> Maps | None:
        """What is kept; None if it is not there, or not whole."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
                found = Maps(kept["picture"], kept["text"] if "text" in kept else np.zeros((len(view.tokens), 0), bool))
        except Exception:  # a dozen kinds are raised for files that are missing or cut off
            return None
        wanted = ((view.n_patches, self._widths[0]), (len(view.tokens), self._widths[1]))
        return found if (found.picture.shape, found.text.shape) == wanted else None

    def _write(self, path: Path, maps: Maps) -> None:
        arrays = {"picture": np.asarray(maps.picture)}
        if self._widths[1]:
            arrays["text"] = np.asarray(maps.text)
        dense = np.count_nonzero(arrays["picture"]) > arrays["picture"].size / 2  # not worth the time to pack them
        packed = io.BytesIO()
        (np.savez if dense else np.savez_compressed)(packed, allow_pickle=False, **arrays)
        self._tell(len(packed.getvalue()))
        write_atomic(path, lambda temporary: temporary.write_bytes(packed.getvalue()))

    def _tell(self, size: int) -> None:
        """Say once, whatever the number of processes, what all samples will take.

        Raises:
            OSError: the disk has no room for that.
        """
        about = Path(self.folder) / self._bank_digest / "about.json"
        about.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(about, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return
        with os.fdopen(file, "w") as opened:
            json.dump({"bank": self.bank.name, "identity": self.bank.identity()}, opened)
        free, total = shutil.disk_usage(about.parent).free, size * (self.n or 1)
        samples = f"{self.n:,} samples: about {total / 2**20:,.0f} MiB" if self.n else "a sample"
        told = f"maps of {self.bank.name} are kept in {self.folder}: {size / 2**10:,.0f} KiB a sample, {samples}"
        if total > free:
            about.unlink()
            raise OSError(f"{told}, and {free / 2**20:,.0f} MiB are free: make room, choose another folder, or leave "
                          "Kept out")  # fmt: skip
        Console(stderr=True).print(f"{told} ({free / 2**20:,.0f} MiB are free)", highlight=False)

    def maps(self, view: View) -> Maps:
        """The kept maps, or new ones."""
        path = self._path(view)
        found = self._read(path, view)
        if found is None:
            found = self.bank.maps(view)
            self._write(path, found)
        return found

    def maps_of_batch(self, views: Sequence[View], device: device | str) -> list[Maps]:
        """The bank is asked for what is not kept, all at once."""
        paths = [self._path(view) for view in views]
        found = [self._read(path, view) for path, view in zip(paths, views, strict=True)]
        lacking = [i for i, maps in enumerate(found) if maps is None]
        made = self.bank.maps_of_batch([views[i] for i in lacking], device) if lacking else []
        for i, maps in zip(lacking, made, strict=True):
            self._write(paths[i], maps)
            found[i] = maps
        return [maps for maps in found if maps is not None]

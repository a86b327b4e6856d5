"""What a forward pass gave, kept until the evidence of every neuron is put together: in memory, or in files.

A piece is a file of activations of some samples, laid one after the other as they came (float32: neurons of a hook, in
each all places of a sample), with a line of JSON at its end that says where what is. It is written whole or not at all.
So a call that was killed goes on from its last piece, several processes share the pieces of one call, and memory does
not grow with the neurons: no more than a layer of a batch is there at once.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from jaxtyping import Float

from vlm_neurons._files import held, locked, unwritten
from vlm_neurons.evidence.exemplars import Seen

_LENGTH = 8  # bytes at the end of a piece: how long its line is


@dataclass(frozen=True)
class Met:
    """A sample that was looked at, as far as putting evidence together needs it.

    Attributes:
        key: of what is stored of it.
        keys: its id and the digests of its images: what no two exemplars share.
        grids: rows and columns of patches of every image.
        text: which of its places count towards a peak: all patches, and tokens of the response.
        blocks: hook -> its values, or where they are in the file.
        seen: the sample, where it is in memory.
        file: where its values are, if they are not.
    """

    key: str
    keys: tuple[object, ...]
    grids: tuple[tuple[int, int], ...]
    text: np.ndarray
    blocks: dict[str, Any]
    seen: Seen | None = None
    file: Path | None = None

    @cached_property
    def n_patches(self) -> int:
        """Of all images."""
        return sum(rows * columns for rows, columns in self.grids)

    @cached_property
    def n_tokens(self) -> int:
        """All but the visual ones."""
        return len(self.text) - self.n_patches


def met(seen: Seen, key: str, blocks: dict[str, Any]) -> Met:
    """A sample that was just looked at."""
    grids = tuple((b.shape[0], b.shape[1]) for b in seen.boxes)
    text = np.concatenate([np.ones(sum(rows * columns for rows, columns in grids), bool), seen.is_text])
    return Met(key, (seen.sample, *seen.image_digests), grids, text, blocks, seen)


class Shelf(Protocol):
    """Where values are kept."""

    def values(self, one: Met, hook: str, first: int, last: int) -> Float[np.ndarray, "neuron place"]:
        """Of some neurons in a row."""
        ...


@dataclass
class Memory:
    """Values in memory."""

    blocks: dict[int, dict[str, Any]] = field(default_factory=dict)

    def put(self, sample: int, hook: str, values: Float[np.ndarray, "neuron place"]) -> None:
        """Keep values of a sample."""
        self.blocks.setdefault(sample, {})[hook] = values

    def values(self, one: Met, hook: str, first: int, last: int) -> Float[np.ndarray, "neuron place"]:
        """Of some neurons in a row."""
        kept: np.ndarray = one.blocks[hook]
        return kept[first:last]


class Files:
    """Values in files."""

    def values(self, one: Met, hook: str, first: int, last: int) -> Float[np.ndarray, "neuron place"]:
        """Of some neurons in a row."""
        row = 4 * len(one.text)
        assert one.file is not None
        opened = os.open(one.file, os.O_RDONLY)
        try:
            found = os.pread(opened, (last - first) * row, one.blocks[hook] + first * row)
        finally:
            os.close(opened)
        return np.frombuffer(found, np.float32).reshape(last - first, len(one.text))


class Piece(Files):
    """A piece that is being written; `with` puts it in its place, or leaves nothing."""

    def __init__(self, file: Path) -> None:
        self.file, self.blocks = file, {}  # type: Path, dict[int, dict[str, Any]]
        self._temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        self._out: BinaryIO | None = None
        self._end = 0

    def put(self, sample: int, hook: str, values: Float[np.ndarray, "neuron place"]) -> None:
        """Keep values of a sample."""
        self.blocks.setdefault(sample, {})[hook] = self._end
        self._write(np.ascontiguousarray(values, np.float32).data if values.size else b"")

    def finish(self, found: dict[int, Met]) -> None:
        """Put the piece in its place.

        Raises:
            OSError: the disk is full or cannot be written to; nothing is left behind.
        """
        told = [[sample, one.key, list(one.keys), one.grids, np.flatnonzero(~one.text).tolist(), len(one.text),
                 one.blocks] for sample, one in found.items()]  # fmt: skip
        line = json.dumps(told).encode()
        self._write(line + len(line).to_bytes(_LENGTH, "little"))
        assert self._out is not None
        try:
            self._out.flush()
            os.fsync(self._out.fileno())
            self._out.close()
            os.replace(self._temporary, self.file)
        except OSError as error:
            raise unwritten(self.file, error) from error

    def _write(self, data: bytes | memoryview) -> None:
        try:
            if self._out is None:
                self._out = self._temporary.open("wb")
            self._end += self._out.write(data)  # bytes
        except OSError as error:
            raise unwritten(self.file, error) from error

    def __enter__(self) -> Piece:
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None and not self._out.closed:
            self._out.close()
        self._temporary.unlink(missing_ok=True)


def read_piece(file: Path) -> dict[int, Met]:
    """The samples of a piece.

    Raises:
        ValueError: it is torn.
    """
    with file.open("rb") as opened:
        try:
            end = opened.seek(-_LENGTH, os.SEEK_END)
            length = int.from_bytes(opened.read(), "little")
            opened.seek(end - length)
            told = json.loads(opened.read(length))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{file} is torn ({error}): remove it, and the same call looks at its samples again"
            ) from error
    found = {}
    for sample, key, keys, grids, others, n, blocks in told:
        text = np.ones(n, bool)
        text[others] = False
        found[sample] = Met(key, tuple(keys), tuple((r, c) for r, c in grids), text, blocks, file=file)
    return found


def share(n: int, folder: Path, name: str, done: Callable[[int], bool], do: Callable[[int], None]) -> None:
    """Do n things, each once, however many processes are at them: what another one holds is waited for, and done here
    if that one was killed.

    Args:
        n: how many.
        folder: for lock files.
        name: of these.
        done: whether one is done.
        do: does one.
    """
    left: Sequence[int] = range(n)
    while left:
        others = []
        for number in left:
            if done(number):
                continue
            with held(folder / f".{name}-{number}.lock") as mine:
                if not mine:
                    others.append(number)
                elif not done(number):
                    do(number)
        left = others
        if left:
            with locked(folder / f".{name}-{left[0]}.lock"):
                pass

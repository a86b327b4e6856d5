"""What a scan will cost: measured before it starts, and said."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlm_neurons.scanning.moments import Moments
from vlm_neurons.scanning.recorder import ColumnInfo, Recorder

if TYPE_CHECKING:
    from vlm_neurons.models import Batch, HookedVLM

TIMED = 3  # batches
SHARE = 20  # at most one in so many batches is spent on timing


@dataclass(frozen=True)
class Cost:
    """What is ahead of this process.

    Attributes:
        seconds: time of one sample.
        state: bytes of the state of all neurons, in memory and in every block.
        disk: bytes that blocks and result will take beyond what is there.
        free: bytes that are free where they go.
    """

    seconds: float
    state: int
    disk: int
    free: int

    def check(self, path: Path) -> None:
        """Raise OSError if the disk is too small."""
        if self.disk > self.free:
            raise OSError(
                f"{path}: blocks and result need {self.disk / 2**20:,.1f} MiB, {self.free / 2**20:,.1f} MiB are free. "
                "Free some, choose another directory, or larger blocks (block_size=), each of which stores a state"
            )


def state_bytes(columns: Sequence[ColumnInfo], top_n: int, n_visual: int, n_text: int) -> int:
    """Bytes of the state of all neurons."""
    meta = torch.device("meta")
    states = sum(c.empty(top_n, n_visual, n_text, meta).nbytes for c in columns)
    return states + sum(Moments.empty(c.d, meta).nbytes for c in columns if c.indexed_by == "row")


def measure(
    path: Path, columns: Sequence[ColumnInfo], parameters: dict[str, Any], seconds: float, n_blocks: int
) -> Cost:
    """The cost of `n_blocks` blocks and the result."""
    state = state_bytes(columns, parameters["top_n"], parameters["n_visual"], parameters["n_text"])
    return Cost(seconds, state, state * (n_blocks + 1), shutil.disk_usage(path).free)


def seconds_per_sample(model: HookedVLM, recorder: Recorder, batches: Sequence[Batch]) -> float:
    """Time of one sample, forward pass and statistics together; `recorder` is of no use afterwards.

    Args:
        model: the model, warmed up.
        recorder: an empty one.
        batches: what to time.
    """
    seen, began = 0, time.perf_counter()
    for batch in batches:
        with suppress(FloatingPointError):  # the scan itself will come to this sample, and name it
            recorder.see(batch, range(seen, seen + len(batch)), [""] * len(batch))
        seen += len(batch)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return (time.perf_counter() - began) / seen

"""How many threads a command uses.

Where the work comes in small pieces, threads wait for each other longer than they work, and on a busy machine several
times longer: one is quicker. What a command does besides the forward pass is such work, and so is the forward pass of a
narrow model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the user's, for torch
OF_NUMPY = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
NARROW = 512  # a residual stream below it


@contextmanager
def one_thread() -> Iterator[None]:
    """For a command: one thread, unless the user has set a number; at the end it is what it was."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    if not _set_by_user():
        _use(1)
    try:
        # numpy's are others than torch's, and all its products here are small, with wide models too
        with nullcontext() if _set_by_user(OF_NUMPY) else threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def for_model(model: HookedVLM) -> None:
    """As many threads as a command's model is worth: all that the process may use, if it is wide."""
    if model.cfg.d_model >= NARROW:
        all_threads()


def all_threads() -> None:
    """All that the process may use, unless the user has set a number: for models that explain or simulate too."""
    if not _set_by_user():
        _use(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def as_begun(run: Path) -> None:
    """As many as the run that is there was begun with, which decide last digits, unless the user has set a number."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or none that can be gone on with
        info = json.loads((run / "scan.json").read_text(encoding="utf-8"))
        if info["model"]["device"] == "cpu" and not _set_by_user():
            _use(int(info["threads"]))


def _set_by_user(settings: Sequence[str] = SETTINGS) -> bool:
    return any(name in os.environ for name in settings)


def _use(n: int) -> None:
    import torch

    torch.set_num_threads(n)

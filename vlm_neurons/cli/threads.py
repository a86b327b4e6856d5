"""How many threads a command uses.

Where the work comes in small pieces, threads wait for each other longer than they work, and on a busy machine several
times longer: one is quicker. What a command does besides the forward pass is such work, and so is the forward pass of a
narrow model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the user's
NARROW = 512  # a residual stream below it


@contextmanager
def one_thread() -> Iterator[None]:
    """For a command: one thread, unless the user has set a number; at the end it is what it was."""
    import torch

    before = torch.get_num_threads()
    if not any(name in os.environ for name in SETTINGS):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def for_model(model: HookedVLM) -> None:
    """As many threads as a command's model is worth: all that the process may use, if it is wide."""
    import torch

    if model.cfg.d_model >= NARROW and not any(name in os.environ for name in SETTINGS):
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

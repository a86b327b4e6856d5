"""What the model is running on right now, for hook functions that need to know the positions of a batch.

`HookedVLM` says which batch it runs; the guard, which sees every forward pass, says its mask and how many positions
came before (the KV cache). Hook functions ask here. Outside a forward pass there is nothing to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from vlm_neurons.models.batch import Batch


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass.

    Attributes:
        past: positions in the KV cache: 0 but for the new tokens of a generation.
        attention_mask: [batch, past + pos] of this pass; None where the model was given none.
    """

    past: int
    attention_mask: Tensor | None


_BATCH: ContextVar[Batch | None] = ContextVar("vlm_neurons_batch", default=None)
_PASS: ContextVar[Pass | None] = ContextVar("vlm_neurons_pass", default=None)


@contextmanager
def running(batch: Batch) -> Iterator[None]:
    """While the model runs on a batch."""
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)


def current_batch() -> Batch | None:
    """The batch that HookedVLM runs on; None on a bare bridge."""
    return _BATCH.get()


def current_pass() -> Pass | None:
    """The forward pass that is running, on a bare bridge too; None outside."""
    return _PASS.get()


def begin_pass(past: int, attention_mask: Tensor | None) -> None:
    """Called by the guard at the start of every forward pass."""
    _PASS.set(Pass(past, attention_mask))


def end_pass() -> None:
    """Called by the guard at the end of every forward pass, failed ones too."""
    _PASS.set(None)

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
_PASSES: ContextVar[tuple[Pass, ...]] = ContextVar("vlm_neurons_passes", default=())  # the innermost is the last


@contextmanager
def running(batch: Batch | None) -> Iterator[None]:
    """While the model runs on a batch. What was running before, such as the pass whose hook function calls the model
    again, is put back at the end, whatever happened inside."""
    outer = _BATCH.set(batch), _PASSES.set(())
    try:
        yield
    finally:
        _BATCH.reset(outer[0])
        _PASSES.reset(outer[1])


def current_batch() -> Batch | None:
    """The batch that HookedVLM runs on; None on a bare bridge, also one that is run inside a hook function."""
    return _BATCH.get() if len(_PASSES.get()) <= 1 else None


def current_pass() -> Pass | None:
    """The forward pass that is running, on a bare bridge too; None outside."""
    passes = _PASSES.get()
    return passes[-1] if passes else None


def begin_pass(past: int, attention_mask: Tensor | None) -> None:
    """Called by the guard at the start of every forward pass."""
    _PASSES.set((*_PASSES.get(), Pass(past, attention_mask)))


def end_pass() -> None:
    """Called by the guard at the end of every forward pass, failed ones too: the pass around it is the current one."""
    _PASSES.set(_PASSES.get()[:-1])

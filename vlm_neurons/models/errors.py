"""Errors that callers may want to catch by type."""

from __future__ import annotations


class RowError(ValueError):
    """One row of what `prepare` was given cannot be used.

    A caller that goes through many samples can leave out `row` and go on; the message names the row and the remedy.

    Attributes:
        row: position in the lists given to `prepare`.
        reason: the message without the row.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


class HookNeverFires(RuntimeError):
    """A hook that was asked for by name did not fire in a forward pass: the result would silently lack it."""

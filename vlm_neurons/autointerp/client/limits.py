"""What the numbers among options have to be, so that a limit that cannot be kept is refused, not ignored."""

from __future__ import annotations

import math
from numbers import Integral, Real


def whole(least: int, **options: object) -> None:
    """Refuse options that are not whole numbers from `least` on.

    >>> whole(1, candidates=0)
    Traceback (most recent call last):
    ValueError: candidates=0: give a whole number from 1 on
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r}: give a whole number from {least} on")


def amount(**options: object) -> None:
    """Refuse options that are not finite numbers from 0 on.

    >>> amount(max_cost=float("nan"))
    Traceback (most recent call last):
    ValueError: max_cost=nan: give a finite number, 0 or more
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{name}={value!r}: give a finite number, 0 or more")


def seconds(**options: object) -> None:
    """Refuse options that are not a finite time above 0."""
    for name, value in options.items():
        amount(**{name: value})
        if value == 0:
            raise ValueError(f"{name}=0: give a number of seconds above 0")

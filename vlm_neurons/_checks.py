"""What arguments have to be, so that what cannot be kept is refused, not ignored."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def whole(least: int, **options: object) -> None:
    """Refuse options that are not whole numbers from `least` on.

    >>> whole(1, candidates=0)
    Traceback (most recent call last):
    ValueError: candidates=0: give a whole number from 1 on
    """
    for name, value in options.items():
        if not is_whole(value) or value < least:  # type: ignore[operator]
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


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, numpy's included; True and False are none.

    >>> import numpy
    >>> is_whole(numpy.int64(2)), is_whole(True), is_whole(2.0)
    (True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value as an int.

    Raises:
        ValueError: it is no whole number, or too small.
    """
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number of at least {least} is needed")
    return int(value)


def check_seed(seed: object) -> None:
    """Refuse what numpy and torch do not both take.

    >>> check_seed("a")
    Traceback (most recent call last):
    ValueError: seed='a': give a whole number from 0 to 2**63 - 1
    """
    if not is_whole(seed) or not 0 <= seed < 2**63:  # type: ignore[operator]
        raise ValueError(f"seed={short(seed)}: give a whole number from 0 to 2**63 - 1")


def check_columns(name: str, table: Any, *columns: str) -> None:
    """Raise ValueError for what is not a table with these columns."""
    lacking = [column for column in columns if column not in getattr(table, "columns", ())]
    if lacking:
        raise ValueError(f"{name}= is {type(table).__name__} without {', '.join(lacking)}: pass the table of classify")


def of_kind(name: str, given: object, kind: Any, remedy: str) -> None:
    """Refuse what is of another kind, told in words.

    >>> of_kind("table", [1], dict, "give a dict")
    Traceback (most recent call last):
    TypeError: table=a list: give a dict
    """
    if not isinstance(given, kind):
        raise TypeError(f"{name}={short(given)}: {remedy}")


def on_scale(least: float, most: float, remedy: str, **options: object) -> None:
    """Refuse options that are not numbers between two.

    >>> on_scale(0, 10, "give a number from 0 to 10", t_text="2")
    Traceback (most recent call last):
    ValueError: t_text='2': give a number from 0 to 10
    """
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most:
            raise ValueError(f"{name}={short(value)}: {remedy}")


def short(given: object) -> str:
    """Numbers and words as they are, other things by their kind, in a few characters.

    >>> short("a" * 200)[-8:], short(b"..."), short([1, 2])
    ('aaaa ...', 'a bytes', 'a list')
    """
    if not isinstance(given, str | int | float) and given is not None:
        return f"a {type(given).__name__}"
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:76]} ..."

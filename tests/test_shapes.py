"""Shapes in signatures are checked in every call that could tell something new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
import shapes
from jaxtyping import Float

checked = jaxtyping.jaxtyped(typechecker=shapes.arrays_only)  # as conftest.py has made it


@checked
def summed(x: Float[np.ndarray, "row column"], over: int) -> Float[np.ndarray, "row"]:
    return x.sum(over)


@checked
def listed(x: list[Float[np.ndarray, "n"]]) -> int:
    return len(x)


@checked
@dataclass(frozen=True)
class Held:
    x: Float[np.ndarray, "row column"]
    of_rows: Float[np.ndarray, "row"] | None = None


X = np.zeros((2, 3))
RIGHT: list[Any] = [
    lambda: summed(X, 1), lambda: summed(X, over=1), lambda: listed([X[0], X[1]]), lambda: Held(X),
    lambda: Held(X, X[:, 0]),
]  # fmt: skip
WRONG: list[Any] = [
    lambda: summed(X, 0), lambda: summed(X[0], 0), lambda: summed(X.astype(int), 1), lambda: listed([X]),
    lambda: listed([X.astype(int)[0]]), lambda: Held(X[0]), lambda: Held(X, X[0]), lambda: Held(x=X, of_rows=X[0]),
]  # fmt: skip


@pytest.mark.parametrize("wrong", range(len(WRONG)))
def test_a_wrong_shape_is_found_whatever_was_right_before_and_found_again(wrong: int) -> None:
    for _ in range(2):
        for right in RIGHT:
            right()
        with pytest.raises(jaxtyping.TypeCheckError):
            WRONG[wrong]()


def test_what_cannot_be_wrong_is_not_wrapped() -> None:
    def plain(x: int) -> int:
        return x

    assert checked(plain) is plain

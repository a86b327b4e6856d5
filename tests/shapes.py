"""Shapes in signatures are tests: every call of the package while tests run is checked against its jaxtyping hints.

Hints of other types are mypy's. They are not checked here, since tests pass wrong types on purpose, to see our errors.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import jaxtyping
import numpy as np
import torch
from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def _names_a_shape(hint: Any) -> bool:
    """Unions of arrays and other things are left out: `by: float | Float[Tensor, "neuron"]` has an error of its own."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    parts = [part for part in get_args(hint) if part is not type(None)]
    return (all if get_origin(hint) in (Union, UnionType) else any)(map(_names_a_shape, parts)) and bool(parts)


def arrays_only(fn: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, of the hints that name a shape."""
    fn.__annotations__ = {name: hint for name, hint in fn.__annotations__.items() if _names_a_shape(hint)}
    return beartype(fn)


def form(value: Any) -> Any:
    """All that a hint that names a shape looks at; lists of unequal things are like no other, since beartype looks at
    one of them at random."""
    kind = type(value)
    if isinstance(value, np.ndarray | torch.Tensor):
        return kind, value.dtype, tuple(value.shape)
    if kind in (tuple, dict):
        return kind, tuple(map(form, value.values() if kind is dict else value))
    if kind is list:
        forms = set(map(form, value))
        return kind, forms.pop() if len(forms) == 1 else object() if forms else None
    return kind


def remembered(fn: FunctionType, jaxtyped: Callable[..., Any], typechecker: Any) -> Any:
    """A function that is checked whenever it meets shapes, dtypes and types that it has not met in this process: what
    was right of them stays right, and a check takes longer than most functions."""
    given = threading.local()

    def template(*args: Any, **named: Any) -> Any:
        return given.value

    @functools.cache  # made where it is needed: a process calls few of the functions that it imports
    def whole() -> Callable[..., Any]:
        return jaxtyped(fn, typechecker=typechecker)

    @functools.cache
    def result() -> Callable[..., Any]:
        named_as_fn = FunctionType(template.__code__, fn.__globals__, fn.__name__, None, template.__closure__)
        return jaxtyped(functools.update_wrapper(named_as_fn, fn), typechecker=typechecker)

    met: dict[Any, set[Any]] = {}

    @functools.wraps(fn)
    def call(*args: Any, **named: Any) -> Any:
        given_forms = (*map(form, args), *((name, form(value)) for name, value in named.items()))
        if given_forms not in met:
            out = whole()(*args, **named)
            met[given_forms] = {form(out)}
            return out
        out = fn(*args, **named)
        if (told := form(out)) not in met[given_forms]:
            given.value = out
            result()(*args, **named)
            met[given_forms].add(told)
        return out

    return call


def where_arrays_are(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that leaves functions without a shape in their hints as they are: checking nothing takes time too."""

    def checked(fn: Any, typechecker: Any) -> Any:
        if isinstance(fn, type):
            own = vars(fn).get("__init__")
            if is_dataclass(fn) and isinstance(own, FunctionType) and not hasattr(own, "__wrapped__"):
                fn.__init__ = checked(own, typechecker)
            return fn
        if not isinstance(fn, FunctionType):
            return jaxtyped(fn, typechecker=typechecker)
        try:
            hints = get_type_hints(fn)
        except Exception:  # a name that only type checkers see: the shapes beside it are still checked
            hints = {"": AbstractArray}
        return remembered(fn, jaxtyped, typechecker) if any(map(_names_a_shape, hints.values())) else fn

    return lambda *, typechecker: lambda fn: checked(fn, typechecker)


def check_shapes() -> None:
    """From now on, in what is imported; but for what torch.compile has to capture whole."""
    root = Path(__file__).parents[1]
    files = [*(root / "vlm_neurons").rglob("*.py"), *(root / "hooks").rglob("*.py")]
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files if file.stem != "__init__"]
    full = [f"vlm_neurons.{name}" if name.startswith("hooks.") else name for name in names]
    jaxtyping.jaxtyped = where_arrays_are(jaxtyping.jaxtyped)  # by this name the hook finds it
    captured = {"vlm_neurons.scanning.fused", "vlm_neurons.scanning.summarise"}
    install_import_hook([name for name in full if name not in captured], "shapes.arrays_only")

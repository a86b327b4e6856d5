"""Shapes in signatures are tests: every call of the package while tests run is checked against its jaxtyping hints.

Hints of other types are mypy's. They are not checked here, since tests pass wrong types on purpose, to see our errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import jaxtyping
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


def where_arrays_are(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that leaves functions without a shape in their hints as they are: checking nothing takes time too."""

    def checked(fn: Any, typechecker: Any) -> Any:
        if isinstance(fn, FunctionType):
            try:
                hints = get_type_hints(fn)
            except Exception:  # a name that only type checkers see: the shapes beside it are still checked
                hints = {"": AbstractArray}
            if not any(map(_names_a_shape, hints.values())):
                return fn
        return jaxtyped(fn, typechecker=typechecker)

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

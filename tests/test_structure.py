"""The house stands: no circle of imports, no arrow upwards, small files, one name for one thing, families in one room.

Imports are read from the source, so that those inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import torch

import vlm_neurons as vn
from vlm_neurons import hooks

ROOT = Path(vn.__file__).parent
PACKAGE = "vlm_neurons"
MAX_LINES = 320

# An upper floor imports a lower one, never the reverse; neighbours may, where they close no circle.
FLOORS = [
    ["protocols", "_files", "_checks", "_text", "_images", "_heap", "stats", "zoo"],
    ["units", "tokens", "sites"],
    ["models", "hooks"],
    ["data", "synthetic"],
    ["scanning", "classification"],
    ["evidence", "concepts"],
    ["planted", "autointerp"],
    ["interventions"],
    ["viz", "reporting", "cli", "__main__", ""],  # "": the package itself, which hands on public names
]
# Words that only a family's module paths have: nothing outside models/adapters/ knows where a family keeps its layers.
FAMILY_PATHS = ("multi_modal_projector", "language_model.", "vision_tower", "lm_head", "fc1", "fc2", "linear_1")


@cache
def files() -> dict[str, Path]:
    """Module names, without the package's own, and their files."""
    found = {}
    for folder, prefix in ((ROOT, ()), (Path(hooks.__file__).parent, ("hooks",))):
        for file in sorted(folder.rglob("*.py")):
            parts = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(name: str, file: Path) -> set[str]:
    """Modules of this package that a file imports, wherever in it."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = [PACKAGE, *filter(None, package)][: 2 - node.level + len(list(filter(None, package)))]
            base = ".".join([*above, node.module] if node.module else above) if node.level else str(node.module)
            found |= {f"{base}.{a.name}" for a in node.names}
    return {known(module) for module in found if module.split(".")[0] == PACKAGE} - {name}


def known(module: str) -> str:
    """The module behind "vlm_neurons.units.Neuron"."""
    parts = module.split(".")[1:]
    while parts and ".".join(parts) not in files():
        parts.pop()
    return ".".join(parts)


@cache
def arrows() -> dict[str, set[str]]:
    return {name: imported(name, file) for name, file in files().items()}


def circles() -> list[set[str]]:
    """Groups of modules of which each reaches every other (the strongly connected components, by Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(arrows()[name]):
            if other not in number:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == number[name]:
            group = set(stack[stack.index(name) :])
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(group)

    for name in arrows():
        if name not in number:
            visit(name)
    return found


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if module.split(".")[0] in rooms)


def test_every_room_has_a_floor():
    rooms = {name.split(".")[0] for name in files()}
    assert rooms <= {room for rooms in FLOORS for room in rooms}


def test_imports_are_seen_wherever_they_stand(tmp_path: Path):
    file = tmp_path / "inner.py"
    file.write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nimport vlm_neurons.stats\n"
        "from . import batch\nfrom ..units import Neuron\n"
        "if TYPE_CHECKING:\n    from vlm_neurons import tokens\n"
        "def f():\n    from vlm_neurons.data import Sample\n"
    )
    assert imported("models.inner", file) == {"stats", "models.batch", "units", "tokens", "data"}


def test_imports_close_no_circle():
    assert list(circles()) == []


def test_no_floor_imports_one_above_it():
    assert {(a, b) for a, names in arrows().items() for b in names if floor(b) > floor(a)} == set()


def test_files_are_short():
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in files().items()}
    assert {name for name, length in lengths.items() if length > MAX_LINES} == set()


def test_no_module_has_the_name_of_a_public_function():
    public = {name for name in [*vn.__all__, *hooks.__all__] if not isinstance(getattr(vn, name, None), type(ast))}
    assert {name for name in files() if name.split(".")[-1] in public} == set()


def test_only_adapters_know_the_module_paths_of_a_family():
    knowing = set()
    for name, file in files().items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        said = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        said += [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
        if any(path in text for text in said for path in FAMILY_PATHS):
            knowing.add(name)
    assert {name for name in knowing if not name.startswith("models.adapters")} == set()


def test_shapes_in_signatures_are_checked_while_tests_run():
    from jaxtyping import TypeCheckError

    from vlm_neurons.scanning.state import order_keys

    with pytest.raises(TypeCheckError, match="sample_ids"):
        order_keys(torch.ones(3), torch.ones(4, dtype=torch.int64))


def test_no_alias_of_a_type_is_any():
    found = set()
    for name, file in files().items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Name) and value.id == "Any":
                found.add((name, node.lineno))
    assert not found

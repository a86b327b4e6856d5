"""Every example in a docstring runs and says what it says, and every public name has one.

The names that examples share are those of the README's tutorial; they are made when the first example needs them.
"""

import ast
import doctest
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vlm_neurons as vn
import vlm_neurons.hooks as hooks
from vlm_neurons.synthetic.pairs import color_pairs

NEURONS = ["L2N304", "L0N357", "L3N3"]  # pink patches; words for shapes; cyan, in pictures and as a word
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
PARSER = doctest.DocTestParser()


class Tutorial:
    """The names of the tutorial, on the embedded model and few scenes."""

    vn, np, torch = vn, np, torch

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def model(self) -> Any:
        return vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")

    @cached_property
    def data(self) -> Any:
        return vn.scenes(120, seed=0)

    @cached_property
    def batch(self) -> Any:
        return self.model.prepare(self.data[0].load_images(), [self.data[0].prompt], [self.data[0].response])

    @cached_property
    def run(self) -> Any:
        return vn.scan(
            self.model, self.data, top_n=10, batch_size=32, out=self._folder / "run", compiled=False, progress=False
        )

    @cached_property
    def table(self) -> Any:
        table = vn.classify(self.run)
        self.run.save(table)
        return table

    @cached_property
    def evidence(self) -> Any:
        assert len(self.table)  # so that the evidence knows the classes
        return vn.gather_evidence(self.model, self.data, self.run, NEURONS, out=self.run, progress=False)

    @cached_property
    def explanations(self) -> Any:
        return vn.explain(self.evidence, progress=False)

    @cached_property
    def simulations(self) -> Any:
        return vn.simulate(self.explanations, self.evidence, progress=False)

    @cached_property
    def scores(self) -> Any:
        return vn.score(
            self.explanations, self.evidence, simulations=self.simulations, n_permutations=999, progress=False,
            full=True,
        )  # fmt: skip

    @cached_property
    def clean(self) -> Any:
        return self._prepared(color_pairs(1).clean[0])

    @cached_property
    def corrupted(self) -> Any:
        return self._prepared(color_pairs(1).corrupt[0])

    def _prepared(self, sample: Any) -> Any:
        return self.model.prepare(sample.load_images(), [sample.prompt], [sample.response])

    @cached_property
    def answer(self) -> Any:
        red, cyan = (self.model.tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in ("red", "cyan"))
        return lambda logits: logits[:, -2, red] - logits[:, -2, cyan]  # -1 is the end of the response


SHARED = {name for name in vars(Tutorial) if not name.startswith("_")}


def modules() -> list[str]:
    """Names of all modules; the hooks have a folder of their own."""
    found = ["vlm_neurons", "vlm_neurons.hooks"]
    for package in (vn, hooks):
        found += [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in dict.fromkeys(found) if not name.endswith(".__main__")]


def documented(node: ast.AST, name: str) -> Iterator[tuple[str, str, int]]:
    """Name, docstring and line of a module and of everything in it that has one, whatever decorates it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if text := ast.get_docstring(node):
            yield name, text, node.body[0].lineno
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from documented(child, f"{name}.{child.name}")


def cases(module: str) -> Iterator[Any]:
    file = importlib.util.find_spec(module).origin
    for name, text, line in documented(ast.parse(Path(file).read_text(encoding="utf-8")), module):
        if ">>>" in text:
            yield pytest.param(module, doctest.DocTest(PARSER.get_examples(text), {}, name, file, line, text), id=name)


EXAMPLES = [test for module in modules() for test in cases(module)]


def read_before_written(test: doctest.DocTest) -> set[str]:
    """Names that a docstring's examples take from elsewhere."""
    written: set[str] = set()
    read: set[str] = set()
    for example in test.examples:
        names = [n for n in ast.walk(ast.parse(example.source)) if isinstance(n, ast.Name)]
        read |= {n.id for n in names if isinstance(n.ctx, ast.Load)} - written
        written |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
    return read


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    return Tutorial(tmp_path_factory.mktemp("tutorial"))


@pytest.mark.parametrize(("module", "test"), EXAMPLES)
def test_example_gives_what_it_says(
    module: str, test: doctest.DocTest, tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shared = {name: getattr(tutorial, name) for name in sorted(SHARED & read_before_written(test))}
    test.globs = {**vars(importlib.import_module(module)), **shared}
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append).failed
    assert not failed, "".join(said)


def runs(text: str | None) -> bool:
    """Whether a docstring has an example that is not skipped."""
    return any(not e.options.get(doctest.SKIP) for e in PARSER.get_examples(text or ""))


def places(thing: Any) -> list[Any]:
    """Where the example of a public name may stand: its docstring; of a class those of its constructors too."""
    own = vars(thing).values() if inspect.isclass(thing) else []
    return [thing, *(one.__func__ for one in own if isinstance(one, classmethod))]


PUBLIC = {f"vlm_neurons.{n}": getattr(vn, n) for n in vn.__all__ if callable(getattr(vn, n))} | {
    f"vlm_neurons.hooks.{n}": getattr(hooks, n) for n in hooks.__all__ if inspect.isfunction(getattr(hooks, n))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str):
    assert any(runs(place.__doc__) for place in places(PUBLIC[name])), f"{name}: add an example that runs"


def test_few_examples_are_skipped():
    skipped = [e for p in EXAMPLES for e in p.values[1].examples if e.options.get(doctest.SKIP)]
    assert len(skipped) <= 4, [e.source for e in skipped]

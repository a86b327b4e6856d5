"""What the pages say holds: README's snippet prints what it says, names and files exist, links lead somewhere."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import vlm_neurons as vn
from vlm_neurons.models.bridge import REFUSED

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("*/**/README.md"))]
PAGES = [p for p in PAGES if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language; "" is a block without one."""
    parts = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in parts if name == language]


def same(said: str, printed: str) -> bool:
    """Whether two words are equal, but for last digits, which depend on the processor."""
    if not (NUMBER.fullmatch(said) and NUMBER.fullmatch(printed)):
        return said == printed
    return math.isclose(float(said), float(printed), rel_tol=0.03, abs_tol=0.021)


OF_SHAPES = """
rows = table.query("neuron == 'L0N357' and side == 'text'")
print(rows[["phrase", "r_low"]].to_json(orient="values"))
"""


def printed(folder: Path, *cells: str) -> list[str]:
    """What the cells of a notebook print, each for itself."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return ["".join(one.text for one in cell.outputs if one.get("name") == "stdout") for cell in book.cells]


def test_the_snippets_of_the_readme_print_in_a_notebook_what_they_say(tmp_path: Path):
    told = printed(tmp_path, *blocks(ROOT / "README.md", "python"), OF_SHAPES)
    said = blocks(ROOT / "README.md", "")[-1].split()
    assert len(told[0].split()) == len(said) and all(map(same, said, told[0].split())), told[0]
    assert (tmp_path / "card.html").is_file() and (tmp_path / "runs/mine/report.html").is_file()
    [[phrase, low]] = json.loads(told[2])
    assert phrase == "words for shapes" and low > 0.8


def test_the_code_of_the_models_page_runs_as_pasted_and_its_refusals_are_all():
    page = ROOT / "vlm_neurons/models/README.md"
    names = {
        "vn": vn,
        "model": vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"),
        "data": vn.scenes(4, seed=0),
    }
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)
    assert names["by_head"].shape == (4, 4)
    refused = page.read_text(encoding="utf-8").partition("\nRefused, with")[2].partition("##")[0]
    assert {name for name in REFUSED if f"{name}`" not in refused} == set()


def test_the_readme_can_be_read_in_a_sitting():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and len(blocks(ROOT / "README.md", "python")[0].splitlines()) <= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_commands_of_a_page_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"
    for script in re.findall(r"python (examples/[\w/]+\.py)", text):
        assert (ROOT / script).is_file(), script


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as viewers of Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_in_the_code_of_a_page_exist(page: Path):
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")
    for name in re.findall(r"\bvn\.(\w+(?:\.\w+)*)", page.read_text(encoding="utf-8")):
        found = vn
        for part in name.split("."):
            assert hasattr(found, part), f"vn.{name}"
            found = getattr(found, part)

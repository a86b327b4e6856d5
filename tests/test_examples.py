"""Examples say the same as script and as notebook, keep what was paid for, and refuse what they cannot do."""

from __future__ import annotations

import base64
import io
import re
import runpy
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from PIL import Image, ImageColor

from vlm_neurons.viz.colours import COLORS

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(p for p in (EXAMPLES / "notebooks").glob("*.py") if p.stem != "execute")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_notebook_says_what_its_script_says(script: Path) -> None:
    cells = [[c.source for c in jupytext.read(p).cells] for p in (script, script.with_suffix(".ipynb"))]
    assert cells[0] == cells[1] and len(cells[0]) > 5


def test_what_a_notebook_pays_for_is_kept_for_the_next_time() -> None:
    lines = [(p.stem, line) for p in SCRIPTS for line in p.read_text(encoding="utf-8").splitlines()]
    paying = [(name, line) for name, line in lines if re.search(r"(OpenAIExplainer|ApiSimulator)\(", line)]
    assert {name for name, _ in paying} == {"explaining", "llava_7b"}
    assert not [line for _, line in paying if "out=run" not in line and "cache=run.path" not in line]


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("pictures/make.py", [], "the following arguments are required: run, neuron"),
        ("trust.py", ["judge", "--n", "-1"], "--n: -1: a whole number from 1 on"),
        ("trust.py", ["judge", "--n", "0"], "--n: 0: a whole number from 1 on"),
        ("outside.py", ["all"], "invalid choice: 'all'"),
    ],
)
def test_an_example_refuses_what_it_cannot_do_with_its_usage(
    script: str, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = EXAMPLES / script
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.setattr(sys, "argv", [str(file), *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(file), run_name="__main__")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("usage: ") and words in said


def test_committed_cards_show_the_classes_and_the_scales_in_their_own_colours() -> None:
    cards = [p for p in pictures_of("ten_minutes") if p.width == 1600]
    for card in [Image.open(EXAMPLES / "pictures" / "neurons.png"), *cards]:
        found = {color for _, color in card.convert("RGB").getcolors(card.width * card.height)}  # type: ignore[union-attr]
        assert {ImageColor.getrgb(color) for color, _ in COLORS.values()} <= found  # a legend has all four
        assert len(found) > 1000, "the scales have bands"
    assert len(cards) == 3


def test_the_patching_notebook_shows_its_maps_in_viewers_that_drop_svg() -> None:
    assert len(pictures_of("patching")) == 3


def pictures_of(notebook: str) -> list[Image.Image]:
    """Every picture that an executed notebook shows."""
    cells = nbformat.read(EXAMPLES / "notebooks" / f"{notebook}.ipynb", 4).cells
    data = [o["data"].get("image/png") for c in cells for o in c.get("outputs", []) if "data" in o]
    return [Image.open(io.BytesIO(base64.b64decode(png))) for png in data if png]

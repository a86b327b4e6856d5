"""What a user shows in a notebook: each can be saved as a page and drawn as a picture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons._files import write_atomic
from vlm_neurons.viz.card_content import an_evidence, content, tops_of
from vlm_neurons.viz.card_html import anchor_of, card_html
from vlm_neurons.viz.html_pages import Fragment, document, scripts, styles
from vlm_neurons.viz.wording import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from vlm_neurons.autointerp.explanation import Explanation
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.interventions import EditGallery
    from vlm_neurons.viz.card_content import Content, Row, Simulations


@dataclass(frozen=True, eq=False)
class View:
    """Something to look at: the last line of a notebook cell shows it.

    Attributes:
        title: of a page of it.
        fragment: it as a piece of a page.
        draw: it as a figure of matplotlib.
    """

    title: str
    fragment: Fragment
    draw: Callable[[], Figure]

    def __repr__(self) -> str:
        return f"<{visible(self.title)}; .save('x.html'), .save('x.png') and .static() show it outside a notebook>"

    def _repr_html_(self) -> str:
        inline = scripts([self.fragment], bundle=self.fragment.circuitsvis and _carries_bundle())
        code = "".join(f"<script>{text}</script>" for text in inline)
        return f"<style>{styles([self.fragment])}</style>{self.fragment.html}{code}"

    def save(self, path: str | Path) -> Path:
        """Write a page that needs no network (`.html`), or a picture (`.png`).

        Args:
            path: where to.

        Returns:
            The path.

        Raises:
            ValueError: another ending.
            OSError: it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".png"):
            raise ValueError(f"{path.name}: name a file that ends with .html or .png")
        if path.suffix.lower() == ".png":
            from vlm_neurons.viz.drawing import png

            picture = png(self.static())
            write_atomic(path, lambda temporary: temporary.write_bytes(picture) and None)
        else:
            page = document([self.fragment], self.title)
            write_atomic(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
        return path

    def static(self) -> Figure:
        """It as a figure of matplotlib, to be changed and saved like any other; a notebook shows it as a picture, also
        where viewers strip scripts and styles."""
        return self.draw()


@dataclass(frozen=True, eq=False, repr=False)
class NeuronCard(View):
    """The card of one neuron.

    Attributes:
        evidence: of the neuron.
        told: what else `show_neuron` was given.

    >>> card = vn.show_neuron(evidence["L2N304"], table, explanations["L2N304"], simulations, scores)
    >>> card.save("card.html").name, "pink regions" in card.fragment.html
    ('card.html', True)
    >>> card.static().savefig("card.pdf")
    """

    evidence: Evidence
    told: dict[str, Any]


def show_neuron(
    evidence: Evidence,
    row: Row = None,
    explanation: Explanation | str | None = None,
    simulation: Simulations = None,
    score: Row = None,
    concepts: pd.DataFrame | None = None,
    edits: EditGallery | None = None,
) -> NeuronCard:
    """The card of a neuron: the picture the model saw with the heat of its patches, the tokens coloured by circuitsvis,
    its class, its explanation with score, null and interval, real above simulated, and samples of other strengths.
    Pointing at a patch, a token or the chart marks the same place in all of them; arrow keys do the same.

    Args:
        evidence: of the neuron.
        row: its row of the classification table, or a table that has it.
        explanation: an `Explanation`, or words.
        simulation: made from the explanation: of one side, or all that `simulate` returned.
        score: a row of the score table, or a table that has its rows.
        concepts: what `run.concepts()` returns: what the neuron answers to over all data.
        edits: what was edited for the neuron, of `vn.interventions.edit_gallery(run)`: trials before and after, those
            too in which it did not follow. `.static()` leaves them out.

    Returns:
        A card: shown by a notebook, `.save("card.html")`, `.save("card.png")`, `.static()`.

    Raises:
        TypeError: `evidence` is no evidence, or `simulation` no simulation.
        ValueError: no exemplars; a row, score or simulation of another neuron; a score or simulation of other words
            than the explanation's.

    >>> import vlm_neurons as vn
    >>> evidence = vn.Evidence.from_arrays("probe", tokens=[["a", " cat"]], token_acts=[[0.0, 2.0]])
    >>> vn.show_neuron(evidence, explanation="animals")
    <Neuron probe; .save('x.html'), .save('x.png') and .static() show it outside a notebook>
    """
    told = {"row": row, "explanation": explanation, "simulation": simulation, "score": score,
            "concepts": concepts, "edits": edits}  # fmt: skip
    return _card(evidence, told, None, None)


def _card(evidence: Evidence, told: dict[str, Any], tops: tuple[float, float] | None, anchor: str | None) -> NeuronCard:
    shown = _content(evidence, told, tops)
    piece = card_html(evidence, **told, tops=tops, anchor=anchor)
    return NeuronCard(f"Neuron {evidence.neuron}", piece, lambda: _drawn([shown]), evidence, told)


def _content(evidence: Evidence, told: dict[str, Any], tops: tuple[float, float] | None) -> Content:
    """Of a picture of the card, which has no room for edits."""
    return content(evidence, **{name: one for name, one in told.items() if name != "edits"}, tops=tops)


def compare_neurons(a: Evidence | NeuronCard, b: Evidence | NeuronCard) -> View:
    """Two neurons side by side, their heat and their tokens on a shared scale.

    Args:
        a: evidence, or what `show_neuron` returned: with what it was told.
        b: the same.

    Raises:
        TypeError: one of them is neither.

    >>> import vlm_neurons as vn
    >>> evidence = vn.Evidence.from_arrays("probe", tokens=[["a", " cat"]], token_acts=[[0.0, 2.0]])
    >>> other = vn.Evidence.from_arrays("other", tokens=[["a", " cat"]], token_acts=[[1.0, 4.0]])
    >>> page = vn.viz.compare_neurons(vn.show_neuron(evidence, explanation="animals"), other)
    """
    pairs: list[tuple[Evidence, dict[str, Any]]] = [
        (x.evidence, x.told) if isinstance(x, NeuronCard) else (an_evidence(x, name), {})
        for name, x in (("a", a), ("b", b))
    ]
    (images_a, text_a), (images_b, text_b) = (tops_of(evidence) for evidence, _ in pairs)
    tops = (max(images_a, images_b), max(text_a, text_b))
    anchors = [anchor_of(evidence.neuron) for evidence, _ in pairs]
    if anchors[0] == anchors[1]:
        anchors[1] += "-b"
    cards = [_card(evidence, told, tops, anchor) for (evidence, told), anchor in zip(pairs, anchors, strict=True)]
    html = f'<div class="vn-beside">{"".join(card.fragment.html for card in cards)}</div>'
    first = cards[0].fragment
    images = {name: address for card in cards for name, address in card.fragment.images.items()}
    piece = Fragment(html, first.css, first.js, images, any(card.fragment.circuitsvis for card in cards))
    shown = [_content(evidence, told, tops) for evidence, told in pairs]
    return View(" and ".join(c.title for c in cards), piece, lambda: _drawn(shown))


def _drawn(shown: Sequence[Content]) -> Figure:
    from vlm_neurons.viz.card_figure import card_figure, cards_figure

    return card_figure(shown[0]) if len(shown) == 1 else cards_figure(shown)


_carrier: dict[str, Any] = {}  # the notebook cell whose output has the bundle, and in which of its runs


def _carries_bundle() -> bool:
    """Whether this output is to bring circuitsvis: in a notebook only the first one that shows tokens, so that the
    notebook has it once. If that cell runs again, its output brings it again. Outside notebooks every output does."""
    here = _cell()
    if here is None:
        return True
    if _carrier and (here["cell"] != _carrier["cell"] or here["run"] == _carrier["run"]):
        return False
    _carrier.update(here)
    return True


def _cell() -> dict[str, Any] | None:
    """The notebook cell that runs, and its number; None outside a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    if shell is None or not hasattr(shell, "get_parent"):
        return None
    run = shell.execution_count
    return {"cell": shell.get_parent().get("metadata", {}).get("cellId", f"run {run}"), "run": run}

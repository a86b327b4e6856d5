"""The card of one neuron, as a piece of a page.

    card_html(evidence, row=None, explanation=None, simulation=None, score=None, *, concepts=None,
              edits=None, per_group=3, tops=None, anchor=None, note=None) -> Fragment

`Fragment` has `html`, `css` and `js` (each the same string for all cards, to be included once), `images`
({CSS class: `data:` address}, to be written as background-image, each once: `fragment.styles(fragments)` does it) and
`circuitsvis` (whether the bundle is of use: `fragment.scripts(fragments)` adds it once, packed; `fragment.allowed`
gives the policy). The card's id, and so its permalink, is `anchor_of(evidence.neuron)`: `L16N6512` stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from vlm_neurons.viz.card_charts import score_svg, sequence_svg
from vlm_neurons.viz.card_content import (
    Compared,
    Content,
    caption,
    content,
    group_names,
    has_text,
    strongest_patch,
    strongest_places,
)
from vlm_neurons.viz.colours import data_uri, gradient, heat, without_sinks
from vlm_neurons.viz.edits_in_words import edit_lines, pair_caption
from vlm_neurons.viz.html_pages import Fragment, picture_class, template, template_text
from vlm_neurons.viz.token_strips import Strip, plain, strip
from vlm_neurons.viz.wording import FREQUENCY, number, shortened, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.explanation import Explanation
    from vlm_neurons.evidence import Evidence, Exemplar
    from vlm_neurons.interventions import EditGallery, EditPair
    from vlm_neurons.viz.card_content import Row, Simulations

Box = tuple[str, str, str, str]
FOLLOWED = 100  # characters of the words that edits are of
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,80}")


@dataclass(frozen=True)
class Shown:
    """An exemplar for the template.

    Attributes:
        caption: lines below.
        maps: for each image its map, or the real and the simulated one.
        strips: the tokens, or the real and the simulated ones.
        chart: SVG, or `""`.
        failure: why there is no simulation, or `""`.
    """

    caption: tuple[str, ...]
    maps: tuple[tuple[Map, ...], ...]
    strips: tuple[Strip, ...]
    chart: str = ""
    failure: str = ""


def card_html(
    evidence: Evidence,
    row: Row = None,
    explanation: Explanation | str | None = None,
    simulation: Simulations = None,
    score: Row = None,
    *,
    concepts: pd.DataFrame | None = None,
    edits: EditGallery | None = None,
    per_group: int = 3,
    tops: tuple[float, float] | None = None,
    anchor: str | None = None,
    note: Callable[[Exemplar], str] | None = None,
) -> Fragment:
    """The card of one neuron.

    Args:
        evidence: of the neuron.
        row: its row of the classification table, or a table that has it.
        explanation: in words.
        simulation: made from the explanation: of one side, or all that `simulate` returned.
        score: a row of the score table, or a table that has its rows.
        concepts: what `run.concepts()` returns, or rows of it.
        edits: what was edited for the neuron, of `vn.interventions.edit_gallery(run)`.
        per_group: exemplars shown of each group, besides the strongest one.
        tops: ends of the colour scales of patches and tokens, to compare cards; by default from what is shown.
        anchor: id of the card; by default from the neuron's.
        note: gives a further line under a sample; asked of those that are shown.

    Raises:
        TypeError: `evidence` is no evidence, or `simulation` no simulation.
        ValueError: no exemplars; a row, score or simulation of another neuron; a score or simulation of other words
            than the explanation's.

    >>> import vlm_neurons as vn
    >>> evidence = vn.Evidence.from_arrays("probe", tokens=[["a", " cat"]], token_acts=[[0.0, 2.0]])
    >>> "largest activation 2" in card_html(evidence).html
    True
    """
    shown = content(evidence, row, explanation, simulation, score, per_group, tops, concepts)
    images: dict[str, str] = {}
    names = group_names(evidence)
    html = template("card.html.jinja").render(
        anchor=anchor or anchor_of(evidence.neuron),
        neuron=visible(evidence.neuron),
        classes=shown.classes,
        explained=shown.explained,
        scores=[(one, score_svg(one) if one.r is not None else "") for one in shown.scored],
        answers=shown.answers,
        frequency=FREQUENCY,
        strongest=_shown(shown.strongest, shown, images, note, chart=True),
        groups=[(names[group], [_shown(e, shown, images, note) for e in es]) for group, es in shown.groups.items()],
        compared=[_both(one, images) for one in shown.compared],
        followed=visible(shortened(str(edits.rows["explanation"].iloc[0]), FOLLOWED)) if edits is not None else "",
        edits=[] if edits is None else _edited(edits, shown.tops, images),
        few=all(len(es) == 1 for es in shown.groups.values()),
        n_failed=shown.n_failed,
        patch_sinks=shown.patch_sinks,
        token_sinks=shown.token_sinks,
        image_top=number(shown.tops[0]) if evidence.sees_images else "",
        text_top=number(shown.tops[1]) if evidence.sees_text else "",
        ramp=ramp(),
    )
    return Fragment(html, template_text("card.css"), template_text("card.js"), images, evidence.sees_text)


def anchor_of(neuron: str) -> str:
    """The id of a neuron's card in a page.

    >>> anchor_of("L16N6512"), anchor_of("<b> of a probe")
    ('L16N6512', 'neuron-1b63f9bb')
    """
    if _PLAIN.fullmatch(neuron):
        return neuron
    return f"neuron-{hashlib.sha256(neuron.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _shown(
    e: Exemplar, shown: Content, images: dict[str, str], note: Callable[[Exemplar], str] | None, chart: bool = False
) -> Shown:
    strips = (strip(e.seen, e.token_acts, shown.tops[1]),) if has_text(e) else ()
    maps = tuple((m,) for m in _maps(e, shown.tops[0], images, "real"))
    lines = [caption(e), *strongest_places(e), *([note(e)] if note else [])]
    return Shown(tuple(lines), maps, strips, sequence_svg(e) if chart else "")


def _both(one: Compared, images: dict[str, str]) -> Shown:
    """Real above simulated, both from 0 to 10, on the same patches and the same tokens."""
    rows = [tuple(_maps(one.real, 10, images, "real"))]
    strips = [strip(one.real.seen, one.real.token_acts, 10)] if has_text(one.real) else []
    if one.sees:
        rows.append(tuple(_maps(one.simulated, 10, images, "simulated")))
    if one.reads:
        strips.append(strip(one.real.seen, one.simulated.token_acts, 10, "simulated"))
    chart = sequence_svg(one.real, one.simulated if one.sees or one.reads else None)
    return Shown((caption(one.real),), tuple(zip(*rows, strict=True)), tuple(strips), chart, one.failure)


def _edited(
    edits: EditGallery, tops: tuple[float, float], images: dict[str, str]
) -> list[tuple[list[str], list[Shown]]]:
    """Of every edit what is said, and trials before and after, on one scale that is no shorter than the card's."""
    found = []
    for row in edits.rows.to_dict("records"):
        pairs = [one for one in edits.pairs if (one.edit, one.side) == (row["edit"], row["side"])]
        top = max([tops[row["side"] == "text"], *(act for one in pairs for act in one.acts)])
        shown = [Shown((pair_caption(one),), *_ends(one, top, images)) for one in pairs]
        found.append((edit_lines(row, number(top) if pairs else ""), shown))
    return found


def _ends(pair: EditPair, top: float, images: dict[str, str]) -> tuple[tuple[tuple[Map, ...], ...], tuple[Strip, ...]]:
    """The first pictures before and after, which alone are edited; or the texts."""
    both = (("before", pair.before), ("after", pair.after))
    if pair.side == "picture":
        return tuple(tuple(_maps(e, top, images, name))[:1] for name, e in both), ()
    return (), tuple(strip(e.seen, e.token_acts, top, name) for name, e in both)


def _maps(e: Exemplar, top: float, images: dict[str, str], name: str) -> Iterator[Map]:
    for place, (picture, values) in enumerate(zip(e.seen.images, e.patch_acts, strict=True)):
        sinks = e.seen.patch_sinks[place]
        yield patch_map(picture, values, top, images, name=name, place=place, sinks=sinks)


@cache
def ramp() -> str:
    """The colour bar of patches."""
    return data_uri(gradient())


@dataclass(frozen=True)
class Map:
    """One image under one series of values.

    Attributes:
        name: of the series: `"real"`, `"simulated"`, or of an edit `"before"` and `"after"`.
        image: place of the image in the sample.
        picture: CSS class that shows it.
        ratio: its width over its height.
        rows: of patches.
        columns: of patches.
        values: of every patch, for the script.
        heat: `data:` address of a picture with one pixel a patch.
        best: left, top, width and height of the strongest patch in percent; None where no patch is positive.
        sinks: the same of the patches that do not count.
        strongest: where the strongest patch is and its value, in words.
        alt: what the map shows, in words.
    """

    name: str
    image: int
    picture: str
    ratio: str
    rows: int
    columns: int
    values: str
    heat: str
    best: Box | None
    sinks: tuple[Box, ...]
    strongest: str
    alt: str


def patch_map(
    picture: Any,
    values: Float[np.ndarray, "rows columns"],
    top: float,
    images: dict[str, str],
    *,
    name: str = "real",
    place: int = 0,
    sinks: Bool[np.ndarray, "rows columns"] | None = None,
) -> Map:
    """The heat of one image.

    Args:
        picture: what the model saw.
        values: one for each patch, NaN for none.
        top: end of the colour scale, which begins at 0.
        images: where the pictures of the page are collected.
        name: of the series.
        place: of the image in the sample.
        sinks: patches that do not count: they have a value, no heat.
    """
    rows, columns = values.shape
    counted = values if sinks is None else np.where(sinks, np.nan, values)
    there = ~np.isnan(counted)
    row, column = strongest_patch(counted) if there.any() else (0, 0)
    best = float(counted[row, column]) if there.any() else float("nan")
    if not there.any():
        where = "no patch has a value"
    elif best > 0:
        where = f"strongest patch {number(best)} at row {row}, column {column} of {rows} × {columns}, counted from 0"
    else:
        where = f"no patch is positive; largest {number(best)}"
    coloured = data_uri(heat(without_sinks(values, sinks), top))
    return Map(
        name, place, picture_class(picture, images), f"{picture.width / picture.height:.4f}", rows, columns,
        plain(values), coloured, _box(row, column, rows, columns) if best > 0 else None,
        tuple(_box(int(r), int(c), rows, columns) for r, c in np.argwhere(sinks)) if sinks is not None else (),
        where, f"{name.capitalize()} activation at {rows} by {columns} patches of image {place + 1}; {where}.",
    )  # fmt: skip


def _box(row: int, column: int, rows: int, columns: int) -> Box:
    parts = (column / columns, row / rows, 1 / columns, 1 / rows)
    left, top, width, height = (f"{100 * part:.4f}%" for part in parts)
    return left, top, width, height

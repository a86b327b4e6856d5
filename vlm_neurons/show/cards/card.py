"""The card of one neuron, as a piece of a page.

    card_html(evidence, row=None, explanation=None, simulation=None, score=None, *,
              per_group=2, tops=None, anchor=None) -> Fragment

`Fragment` has `html`, `css` and `js` (each the same string for all cards, to be included once), `images`
({CSS class: `data:` address}, to be written as background-image, each once: `fragment.styles(fragments)` does it) and
`circuitsvis` (whether the bundle is of use: `fragment.scripts(fragments)` adds it once, packed; `fragment.allowed` gives
the policy). The card's id, and so its permalink, is `anchor_of(evidence.neuron)`: `L16N6512` stays as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.show.cards.charts import score_svg, sequence_svg
from vlm_neurons.show.cards.fragment import Fragment, template_text
from vlm_neurons.show.cards.maps import Map, patch_map, top_of
from vlm_neurons.show.cards.tokens import Strip, strip
from vlm_neurons.show.cards.words import classes, explained, record, scored
from vlm_neurons.show.page import FLOOR, number, visible
from vlm_neurons.show.pictures import data_uri, gradient

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence, Exemplar
    from vlm_neurons.explaining import Explanation
    from vlm_neurons.simulating import Simulation

GROUPS = {"top": "strongest samples", "quantile": "lower quantiles of random samples", "random": "random samples"}
NUMBERED = {"top": "top sample", "quantile": "at a lower quantile", "random": "random sample"}
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,80}")


@dataclass(frozen=True)
class Shown:
    """An exemplar: its maps and strips, of one series or of two, and a chart if it is to have one."""

    caption: tuple[str, ...]
    maps: tuple[tuple[Map, ...], ...]
    strips: tuple[Strip, ...]
    chart: str
    failure: str = ""


def card_html(
    evidence: Evidence,
    row: pd.Series | pd.DataFrame | Mapping[str, Any] | None = None,
    explanation: Explanation | str | None = None,
    simulation: Simulation | None = None,
    score: pd.Series | pd.DataFrame | Mapping[str, Any] | None = None,
    *,
    per_group: int = 2,
    tops: tuple[float, float] | None = None,
    anchor: str | None = None,
) -> Fragment:
    """The card of one neuron.

    Args:
        evidence: of the neuron.
        row: its row of the classification table, or a table that has it.
        explanation: in words.
        simulation: made from the explanation.
        score: its row of the score table, or a table that has it.
        per_group: exemplars shown of each group, besides the strongest one.
        tops: ends of the colour scales of patches and tokens, to compare cards; by default from what is shown.
        anchor: id of the card; by default from the neuron's.

    Raises:
        ValueError: no exemplars; a row, score or simulation of another neuron.
    """
    if not evidence.exemplars:
        raise ValueError(f"{evidence.neuron} has no exemplars to show")
    if simulation is not None and simulation.neuron != evidence.neuron:
        raise ValueError(f"simulation= is of {simulation.neuron}, the evidence is of {evidence.neuron}")
    facts = record(row, evidence.neuron, "row")
    images: dict[str, str] = {}
    chosen = choose(evidence, per_group)
    tops = tops or tops_of(evidence, per_group)
    told = scored(record(score, evidence.neuron, "score"))
    html = _template().render(
        anchor=anchor or anchor_of(evidence.neuron),
        neuron=visible(evidence.neuron),
        classes=classes(facts, evidence.label, evidence.peak),
        explained=explained(explanation),
        score=told,
        score_svg=score_svg(told) if told is not None and told.r is not None else "",
        strongest=_shown(chosen["strongest"][0], tops, images, chart=True),
        groups=[
            (title, [_shown(e, tops, images) for e in chosen[group]])
            for group, title in GROUPS.items()
            if chosen[group]
        ],
        compared=[_compared(evidence, e, simulation, images) for e in simulated(evidence, simulation)]
        if simulation
        else [],
        n_failed=simulation.n_failed if simulation else 0,
        image_top=number(tops[0]) if evidence.sees_images else "",
        text_top=number(tops[1]) if evidence.sees_text else "",
        ramp=ramp(),
    )
    return Fragment(html, template_text("card.css"), template_text("card.js"), images, evidence.sees_text)


def anchor_of(neuron: str) -> str:
    """The id of a neuron's card in a page.

    >>> anchor_of("L16N6512"), anchor_of("<b> of a probe")
    ('L16N6512', 'neuron-f1d9b1a6')
    """
    if _PLAIN.fullmatch(neuron):
        return neuron
    return f"neuron-{hashlib.sha256(neuron.encode(errors='surrogatepass')).hexdigest()[:8]}"


def choose(evidence: Evidence, per_group: int) -> dict[str, list[Exemplar]]:
    """The exemplars that a card shows: the strongest, and some of each group."""
    ordered = sorted(evidence.exemplars, key=lambda e: -e.peak)
    groups = {g: [e for e in evidence.exemplars if e.group == g and e is not ordered[0]] for g in GROUPS}
    return {"strongest": ordered[:1], **{g: sorted(es, key=lambda e: e.rank)[:per_group] for g, es in groups.items()}}


def tops_of(evidence: Evidence, per_group: int = 2) -> tuple[float, float]:
    """Ends of the colour scales of patches and of tokens: the largest value that is shown and counts, and not less
    than a tenth of the neuron's peak, so that noise does not look like a signal."""
    shown = [e for es in choose(evidence, per_group).values() for e in es]
    least = FLOOR * evidence.peak if evidence.peak > 0 else 1e-6
    return (
        top_of([p[m] for e in shown for p, m in zip(e.patches, e.scored_patches(), strict=True)], least),
        top_of([e.values[e.scored_tokens()] for e in shown], least),
    )


def simulated(evidence: Evidence, simulation: Simulation | None, n: int = 2) -> list[Exemplar]:
    """The exemplars whose simulation a card shows: the strongest of the test ones, and a random one."""
    if simulation is None:
        return []
    there = [e for e in evidence.split("test") if e.seen.sample in simulation.samples]
    there.sort(key=lambda e: (simulation.of(e.seen.sample).failure is not None, -e.peak))
    random = [e for e in there[1:] if e.group != "top"]
    return [*there[:1], *(random or there[1:])[: n - 1]]


def _shown(e: Exemplar, tops: tuple[float, float], images: dict[str, str], chart: bool = False) -> Shown:
    maps = tuple(_maps(e, tops[0], images, "real"))
    strips = (strip(e.seen, e.values, tops[1]),) if _has_text(e) else ()
    return Shown(
        tuple(_caption(e, maps)), tuple((m,) for m in maps), strips, sequence_svg(e, None, "activation") if chart else ""
    )


def _maps(e: Exemplar, top: float, images: dict[str, str], name: str) -> Iterator[Map]:
    for place, (picture, values) in enumerate(zip(e.seen.images, e.patches, strict=True)):
        sinks = e.seen.patch_sinks[place]
        yield patch_map(picture, values, top, images, name=name, place=place, sinks=sinks)


def _has_text(e: Exemplar) -> bool:
    return bool((~np.isnan(e.values)).any())


def _caption(e: Exemplar, maps: tuple[Map, ...]) -> Iterator[str]:
    yield f"{NUMBERED[e.group]} {e.rank + 1}, split {e.split}: {visible(e.seen.name) or f'sample {e.seen.sample}'}"
    for m in maps:
        yield f"image {m.image + 1}: {m.strongest}" if len(maps) > 1 else m.strongest
    counted = np.where(e.scored_tokens(), e.values, np.nan)
    if not np.isnan(counted).all():
        best = int(np.nanargmax(counted))
        yield f"strongest token “{visible(e.seen.tokens[best]).strip()}” {number(float(counted[best]))}"


def _compared(evidence: Evidence, e: Exemplar, simulation: Simulation, images: dict[str, str]) -> Shown:
    """Real above simulated, both from 0 to 10, on the same patches and the same tokens."""
    prediction = simulation.of(e.seen.sample)
    real = replace(e, patches=tuple(evidence.scale(p) for p in e.patches), values=evidence.scale(e.values))
    nothing = tuple(np.full(p.shape, np.nan) for p in e.patches)
    tokens = prediction.tokens if prediction.tokens is not None else np.full(len(e.values), np.nan)
    other = replace(e, patches=prediction.patches or nothing, values=np.asarray(tokens, float))
    rows = [tuple(_maps(real, 10, images, "real"))]
    strips = [strip(e.seen, real.values, 10)] if _has_text(e) else []
    if prediction.patches:
        rows.append(tuple(_maps(other, 10, images, "simulated")))
    if prediction.tokens is not None and _has_text(e):
        strips.append(strip(e.seen, other.values, 10, "simulated"))
    failure = prediction.failure
    return Shown(
        (next(_caption(e, ())),),
        tuple(zip(*rows, strict=True)),
        tuple(strips),
        sequence_svg(real, other if failure is None else None, "0-10 scale"),
        f"No simulation of this sample: {failure.kind}. {visible(failure.detail)}" if failure else "",
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vlm_neurons.show"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("card.html.jinja")


@cache
def ramp() -> str:
    """The colour bar of patches."""
    return data_uri(gradient())

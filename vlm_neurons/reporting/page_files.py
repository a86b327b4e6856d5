"""A report on disk: one file, or an index with a file per neuron; and the numbers beside it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vlm_neurons._files import write_atomic
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.reporting import edits_in_words as edits
from vlm_neurons.reporting import faithful_in_words as faithful
from vlm_neurons.reporting import run_facts as told
from vlm_neurons.reporting.neuron_list import Shown, file_name, line, verdict
from vlm_neurons.reporting.other_neurons import Others, on_page
from vlm_neurons.reporting.page_folder import MARKER, PIECES, image_file, write_folder
from vlm_neurons.reporting.run_facts import dumps
from vlm_neurons.reporting.trained_or_random import figures_of, rows_of
from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE
from vlm_neurons.viz.card_html import card_html
from vlm_neurons.viz.html_pages import Fragment, policy, scripts, styles, template, template_text
from vlm_neurons.viz.rows_in_words import answers, explained, scored
from vlm_neurons.viz.wording import FREQUENCY, NAMES, decimals, number, share_words, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.interventions import EditGallery
    from vlm_neurons.scanning.run import Run
    from vlm_neurons.viz.concept_map import Map

MOST_NEURONS = 250  # in one file
MOST_BYTES = 10_000_000
MOST_SKIPPED = 20  # lines of the table of skipped samples
_INTRO = (
    "A line each, and below a card each. The card shows the picture as the model saw it and the activation at every "
    "patch, and the text with the activation at every token. An orange frame marks the strongest patch. Patches and "
    "tokens have scales of their own, printed on the card. Neurons come by site and class, the clearest of a class "
    "first; then those that are here for their explanation."
)
_CODE = """import json
import pandas as pd
import vlm_neurons as vn

page = json.load(open("{json}"))
shown = pd.DataFrame(page["neurons"])         # what this page shows
table = pd.read_parquet("neurons.parquet")    # every neuron
layers = vn.statistics(table)                 # counts and shares by layer, with intervals
sweep, choices = vn.classification.sweep("."), vn.classification.sensitivity(".")
"""


@dataclass(frozen=True)
class Story:
    """All that a report tells.

    Attributes:
        run: the run.
        table: its classification.
        rule: the thresholds behind it, where they are known.
        thresholds: what other thresholds would give.
        shown: the neurons.
        numbers: of everything, for the JSON; `numbers["neurons"]` has one record for each of `shown`.
        maps: which concept lives in which layer; none without concepts.
        no_concepts: why there are none though the run was scanned with concepts.
        trusted: what `vn.trust` kept.
        effects: what `vn.input_effects` kept.
        galleries: the same by neuron, to look at.
        faithful: what `vn.faithfulness` kept.
        others: neurons without a card.
    """

    run: Run
    table: pd.DataFrame
    rule: Thresholds | None
    thresholds: told.Dependence | None
    shown: Sequence[Shown]
    numbers: dict[str, Any]
    maps: Sequence[Map] = ()
    no_concepts: str = ""
    trusted: pd.DataFrame | None = None
    effects: pd.DataFrame | None = None
    galleries: Mapping[str, EditGallery] = field(default_factory=dict)
    faithful: pd.DataFrame | None = None
    others: Others | None = None

    @cached_property
    def cards(self) -> list[Fragment]:
        """The card of every neuron."""
        return [_card(s, self.rule, self.scaled_by, self.galleries.get(s.neuron)) for s in self.shown]

    @property
    def scaled_by(self) -> str:
        """Column of the table whose value is 10 on the scale of the thresholds."""
        every = self.table.attrs.get("parameters", {}).get("peak") == "all"
        return "peak_all_tokens" if every else "peak"


def write(story: Story, out: Path) -> None:
    """Write the page, its numbers, and the files of the neurons where one file would be too large.

    Raises:
        ValueError: the folder for the files of the neurons is there and not of an earlier report.
    """
    folder = out.with_name(f"{out.stem}_files")
    whole = page(story, out) if len(story.cards) <= MOST_NEURONS else None
    apart = story.others if story.others and not story.others.few else None
    if pages := whole is None or len(whole.encode()) > MOST_BYTES:
        whole = page(story, out, folder.name)
    if pages or apart:
        images = {k: v for card in story.cards for k, v in card.images.items()} if pages else {}
        write_folder(out, folder, _neuron_pages(story, out) if pages else (), images, apart.pieces() if apart else ())
    elif (folder / MARKER).is_file():
        shutil.rmtree(folder)
    _write(out.with_suffix(".json"), dumps(story.numbers))
    _write(out, whole)


def page(story: Story, out: Path, folder: str = "") -> str:
    """The page as HTML; every text in it is escaped by the template.

    Args:
        story: what it tells.
        out: where it will be.
        folder: of the files of the neurons; `""` has their cards on the page.
    """
    from markupsafe import Markup

    cards = [] if folder else story.cards
    inline = [*scripts(cards, bundle=False), template_text("others.js"), template_text("report.js")]
    lines = [
        line(s, numbers, f"{quote(folder)}/{file_name(s.anchor)}.html" if folder else f"#{s.anchor}")
        for s, numbers in zip(story.shown, story.numbers["neurons"], strict=True)
    ]
    run = story.run
    return template("report.html").render(
        title=f"Neurons of {visible(run.info['model']['name'])}",
        policy=Markup(policy(inline, further=story.others is not None and not story.others.few)),
        styles=Markup(styles(cards)),
        scripts=[Markup(text) for text in inline],
        others=_others(story, out),
        cards=[Markup(f.html) for f in cards],
        together=not folder,
        lines=lines,
        options=_options(lines),
        explained=any(s.explanation for s in story.shown),
        intro=_INTRO if not folder else _INTRO.replace("below a card each", "behind it a page with its card"),
        json_name=out.with_suffix(".json").name,
        code=_code(story, out),
        **_about(story),
    )


def _others(story: Story, out: Path) -> dict[str, Any] | None:
    """How the page finds neurons that have no card."""
    from markupsafe import Markup

    if (others := story.others) is None:
        return None
    pieces = others.pieces() if others.few else ()
    return {
        "n": len(others.table),
        "example": visible(str(others.table["neuron"].iloc[-1])),
        "explained": bool(others.explanations),
        "index": Markup(on_page(others.index(f"{quote(out.stem)}_files/{PIECES}"))),
        "pieces": [(name, Markup(on_page(value))) for name, value in pieces],
    }


def _about(story: Story) -> dict[str, Any]:
    """What the page says of the run as a whole."""
    from markupsafe import Markup

    run, thresholds = story.run, story.thresholds
    figures = figures_of(story.trusted) if story.trusted is not None else []
    panels = [told.panel(part) for part in told.sites(story.table)]
    return {
        "model": visible(run.info["model"]["name"]),
        "data": told.data_name(run),
        "summary": run.summary(),
        "n_neurons": told.n_neurons(story.table),
        "number": number,
        "labels": MODALITIES,
        "names": NAMES,
        "rule": story.rule,
        "everywhere": story.scaled_by != "peak",
        "scanned": told.scanned(run, story.table),
        "panels": [{**panel, "svg": Markup(panel["svg"])} for panel in panels],
        "grid": told.grid(thresholds) if thresholds else None,
        "choices": told.choices(thresholds) if thresholds else [],
        "maps": [{**one, "svg": Markup(one["svg"])} for one in map(told.concept_panel, story.maps)],
        "no_concepts": visible(story.no_concepts) if story.no_concepts else "",
        "frequency": FREQUENCY,
        "remark": visible(remark) if (remark := run.info.get("concepts", {}).get("remark")) else "",
        "trusted": rows_of(story.numbers["trained_or_random"]) if story.trusted is not None else [],
        "trusted_figures": [{**one, "svg": Markup(one["svg"])} for one in figures],
        "edits": edits.rows_of(story.effects) if story.effects is not None else [],
        "edits_summary": edits.summary_of(story.effects) if story.effects is not None and len(story.effects) else "",
        "faithful": faithful.rows_of(story.faithful) if story.faithful is not None else [],
        "faithful_summary": faithful.summary_of(story.faithful)
        if story.faithful is not None and len(story.faithful)
        else "",
        "scores": [_in_words(s) for s in story.numbers["scores"]],
        "scores_svg": Markup(_scores_svg(story)),
        "provenance": list(told.provenance(run)),
        "skipped": [{k: visible(str(v)) for k, v in s.items()} for s in run.skipped[:MOST_SKIPPED]],
        "n_more_skipped": max(0, len(run.skipped) - MOST_SKIPPED),
    }


def _scores_svg(story: Story) -> str:
    import pandas as pd

    from vlm_neurons.viz.drawing import svg
    from vlm_neurons.viz.figures import scores_figure

    scores = [{"neuron": s.neuron, **score} for s in story.shown for score in s.scores]
    return svg(scores_figure(pd.DataFrame(scores))) if scores else ""


def _in_words(summary: Mapping[str, Any]) -> dict[str, str]:
    medians = {name: summary[name] for name in ("r", "r_within", "r_null")}
    words = {name: "–" if value != value else decimals(value) for name, value in medians.items()}
    counts = {name: f"{summary[name]:,}" for name in ("n", "n_scored", "significant", "n_failed")}
    above = share_words(summary["above_null"])
    return {"side": visible(str(summary["side"])), **counts, **words, "above_null": above}


def _options(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[Any, ...]]]:
    """What can be filtered by, with counts."""
    labels = Counter(n["label"] for n in lines)
    layers = Counter(n["layer"] for n in lines if n["layer"] != "")
    return {
        "labels": [(k, NAMES.get(k, "no class"), labels[k]) for k in (*MODALITIES, NOT_APPLICABLE) if labels[k]],
        "sites": list(Counter(n["site"] for n in lines).items()),
        "layers": sorted(layers.items()),
    }


def _code(story: Story, out: Path) -> str:
    lines = _CODE.format(json=out.with_suffix(".json").name)
    if story.numbers["scores"]:
        lines += 'scores = vn.Run.load(".").scores()          # one row a neuron and side\n'
    return lines


def _card(shown: Shown, rule: Thresholds | None, scaled_by: str, edits: EditGallery | None) -> Fragment:
    import pandas as pd

    concepts = pd.DataFrame(shown.concepts) if shown.concepts else None
    if shown.evidence is None or not shown.evidence.exemplars:
        told_of: dict[str, Any] = {
            "explained": explained(shown.explanation),
            "scores": [scored(score) for score in shown.told],
        }
        told_of["answers"] = answers(concepts, shown.neuron)
        return Fragment(
            template("bare.html").render(anchor=shown.anchor, neuron=visible(shown.neuron), **told_of),
            template_text("card.css"),
        )
    evidence, note = shown.evidence, None
    if rule is not None and shown.label != NOT_APPLICABLE and shown.row:
        note = partial(verdict, peak=float(shown.row[scaled_by]), rule=rule)
    # one of each group besides the strongest; three strong ones where there is nothing else
    per_group = 1 if any(e.group != "top" for e in evidence.exemplars) else 2
    return card_html(
        evidence, shown.row or None, shown.explanation, {(shown.neuron, k): s for k, s in shown.simulations.items()},
        pd.DataFrame(shown.told) if shown.told else None, concepts=concepts, edits=edits, per_group=per_group,
        anchor=shown.anchor, note=note,
    )  # fmt: skip


def _neuron_pages(story: Story, out: Path) -> Iterator[tuple[str, str]]:
    """(name, HTML) of every neuron."""
    from markupsafe import Markup

    links = [{"neuron": visible(s.neuron), "href": f"{file_name(s.anchor)}.html"} for s in story.shown]
    for place, (shown, card) in enumerate(zip(story.shown, story.cards, strict=True)):
        inline = scripts([card], bundle=False)
        files = Fragment(card.html, card.css, card.js, {k: image_file(k, v) for k, v in card.images.items()})
        html = template("neuron.html").render(
            title=f"Neuron {visible(shown.neuron)}",
            policy=Markup(policy(inline, "data: 'self' file:")),
            styles=Markup(styles([files])),
            scripts=[Markup(text) for text in inline],
            neuron=visible(shown.neuron),
            card=Markup(card.html),
            index=f"../{quote(out.name)}#{shown.anchor}",
            before=links[place - 1] if place else None,
            after=links[place + 1] if place + 1 < len(links) else None,
        )
        yield file_name(shown.anchor), html


def _write(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)

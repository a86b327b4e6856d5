"""One self-contained page about a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.classification import LABELS, NOT_APPLICABLE, classify
from vlm_neurons.scanning.blocks import write_atomic
from vlm_neurons.scanning.run import Run
from vlm_neurons.show.choose import clearest
from vlm_neurons.show.closeup import CloseUp, close_ups
from vlm_neurons.show.layers import NAMES, layers_svg, percent, shares, site_name
from vlm_neurons.show.page import Card, Pictures, Rule, card, number, visible
from vlm_neurons.show.pictures import data_uri, gradient

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.model import HookedVLM

TOP = 3  # samples shown per neuron
MOST_SKIPPED = 20  # lines of the table of skipped samples


@dataclass(frozen=True)
class Part:
    """Neurons of one class."""

    title: str
    label: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Group:
    """Neurons of one site and pole."""

    anchor: str
    title: str
    intro: str
    parts: tuple[Part, ...]
    folded: bool
    """Shown on demand, so that a page about several sites stays short."""


def report(
    run: Run | str | Path,
    out: str | Path | None = None,
    model: HookedVLM | None = None,
    data: ImageTextData | None = None,
    n_neurons: int = 5,
) -> Path:
    """Write a page about a run: classes by layer, the clearest neurons of every class on their top samples, and how it
    was made. One file that loads nothing, runs no script and needs no network. The same run gives the same bytes.

    Args:
        run: a finished scan, or its directory; classified with the defaults if it is not yet.
        out: the page; by default `report.html` in the run directory.
        model: the model that was scanned; by default loaded again by the name that the run recorded.
        data: the data that was scanned; by default opened again from the source that the run recorded.
        n_neurons: neurons shown per site, pole and class (`vlm_neurons.show.choose.clearest` says which).

    Returns:
        Path of the page.

    Raises:
        ValueError: model or data cannot be found again (the message says which to pass), or are not those scanned.
        OSError: an image cannot be read any more.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    if not isinstance(n_neurons, int) or n_neurons < 0:
        raise ValueError(f"n_neurons={n_neurons!r}: a whole number from 0 on")
    out = Path(out) if out is not None else run.path / "report.html"
    table = _table(run)
    chosen = {key: clearest(part, key[2], n_neurons) for key, part in _classes(table)}
    wanted = [neuron for rows in chosen.values() for neuron in rows["neuron"]]
    close: dict[str, list[CloseUp]] = {}
    if wanted:
        close = close_ups(_model(run, model), _data(run, data), run, wanted, TOP)
    html = page(run, table, chosen, close)
    write_atomic(out, lambda temporary: temporary.write_text(html, encoding="utf-8") and None)
    return out


def page(
    run: Run, table: pd.DataFrame, chosen: dict[tuple[str, str, str], pd.DataFrame], close: dict[str, list[CloseUp]]
) -> str:
    """The page as HTML; every text in it is escaped by the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    rule, pictures = _rule(run, table), Pictures()
    groups = list(_groups(chosen, close, rule, pictures))
    environment = Environment(
        loader=PackageLoader("vlm_neurons.show"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    sites = [part for _, part in table.groupby(["site", "pole"], sort=False) if part["label"].isin(LABELS).any()]
    return environment.get_template("report.html").render(
        model=_shown(run.info["model"]["name"]),
        data="data in memory" if run.info["data"]["source"] == "memory" else _shown(run.info["data"]["source"]),
        summary=run.summary(),
        n_neurons=_n_neurons(table),
        number=number,
        rule=rule,
        panels=[{**_panel(part), "figure": Markup(layers_svg(part))} for part in sites],
        labels=LABELS,
        names=NAMES,
        groups=groups,
        pictures=pictures,
        ramp=data_uri(gradient()),
        provenance=[(name, _shown(value)) for name, value in _provenance(run)],
        skipped=[{k: _shown(v) for k, v in s.items()} for s in run.skipped[:MOST_SKIPPED]],
        n_more_skipped=max(0, len(run.skipped) - MOST_SKIPPED),
    )


def _n_neurons(table: pd.DataFrame) -> str:
    """How many there are at every site; those with two poles count once."""
    counts = table.drop_duplicates(["hook", "index"]).groupby("site", sort=False).size()
    return ", ".join(f"{count:,} neurons at {_shown(site)}" for site, count in counts.items())


def _shown(value: Any) -> str:
    return visible(str(value))


def _table(run: Run) -> pd.DataFrame:
    import pandas as pd

    file = run.path / "neurons.parquet"
    return pd.read_parquet(file) if file.exists() else classify(run)


def _rule(run: Run, table: pd.DataFrame) -> Rule | None:
    """The thresholds behind the table: what it says itself, else the defaults if they give the same shares."""
    if "parameters" in table.attrs:
        return Rule(**table.attrs["parameters"])
    columns = [f"p_{label}" for label in LABELS]
    return Rule() if table[columns].equals(classify(run, write=False)[columns]) else None


def _model(run: Run, model: HookedVLM | None) -> HookedVLM:
    import torch

    from vlm_neurons.model import HookedVLM

    recorded = run.info["model"]
    if model is None:
        try:
            model = HookedVLM.from_pretrained(recorded["name"], dtype=getattr(torch, recorded["dtype"]))
        except (OSError, ValueError) as error:
            raise ValueError(f"model {recorded['name']!r} cannot be loaded again; pass model= ({error})") from error
    if model.fingerprint() != recorded["fingerprint"]:
        raise ValueError(f"{model.name!r} is not the model that {run.path} was made with; pass that one as model=")
    return model


def _data(run: Run, data: ImageTextData | None) -> ImageTextData:
    if data is None:
        try:
            return run.open_data()
        except (OSError, ValueError) as error:
            raise ValueError(f"the data of {run.path} cannot be opened again; pass data= ({error})") from error
    if len(data) != run.info["data"]["n"]:
        raise ValueError(f"data= has {len(data)} samples, {run.path} was made with {run.info['data']['n']}")
    return data


def _classes(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """(site, pole, label) and the rows of that site and pole."""
    for (site, pole), part in table.groupby(["site", "pole"], sort=False):
        for label in LABELS if part["label"].isin(LABELS).any() else (NOT_APPLICABLE,):
            yield (site, pole, label), part


def _groups(
    chosen: dict[tuple[str, str, str], pd.DataFrame],
    close: dict[str, list[CloseUp]],
    rule: Rule | None,
    pictures: Pictures,
) -> Iterator[Group]:
    parts: dict[tuple[str, str], list[Part]] = {}
    for (site, pole, label), rows in chosen.items():
        cards = tuple(card(row, close[row["neuron"]], rule, pictures) for row in rows.to_dict("records"))
        title = "" if label == NOT_APPLICABLE else f"The clearest {NAMES[label]} neurons"
        parts.setdefault((site, pole), []).append(Part(title, label, cards))
    for place, ((site, pole), found) in enumerate(parts.items()):
        if any(part.label != NOT_APPLICABLE for part in found):
            intro = (
                "Ordered by their share of the class, ties last. Left the picture as the model saw it, right the "
                "activation at every patch; below, the text with the activation at every token. An orange frame marks "
                "the strongest patch, an orange line a token above its threshold. The colours of patches and tokens "
                "have scales of their own, printed under each neuron."
            )
        else:
            intro = "These neurons see images only, so they have no class; those with the highest activations."
        folded = place > 0 and any(part.label != NOT_APPLICABLE for part in found)
        yield Group(f"site{place}", site_name(site, pole), intro, tuple(found), folded)


def _panel(part: pd.DataFrame) -> dict[str, Any]:
    """The data table under a figure."""
    ties = part[part["tie"]].groupby("layer").size()
    rows = []
    for _, row in shares(part).iterrows():
        n, n_ties = row["n"], int(part["tie"].sum() if row["layer"] == "all" else ties.get(row["layer"], 0))
        counts = [*(row[label] for label in LABELS), n, row["confident"], n_ties]
        written = [(f"{count:,}", "" if i == len(LABELS) else percent(count, n)) for i, count in enumerate(counts)]
        rows.append({"layer": row["layer"], "cells": written})
    first = part.iloc[0]
    return {"title": site_name(first["site"], first["pole"]), "rows": rows}


def _provenance(run: Run) -> Iterator[tuple[str, Any]]:
    info = run.info
    yield "model", f"{info['model']['name']} ({info['model']['family']}, {info['model']['dtype']})"
    yield "model fingerprint", info["model"]["fingerprint"]
    yield "data", f"{info['data']['source']} ({info['data']['n']:,} samples)"
    yield "data fingerprint", info["data"]["fingerprint"]
    yield "samples", run.summary()
    for name, value in info["parameters"].items():
        if name != "hooks":
            yield name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value
    yield "first prompt, as rendered", info["rendered"]
    yield "threads", info["threads"]
    yield "versions", ", ".join(f"{name} {number}" for name, number in info["versions"].items())
    if "created" in info:
        yield "scanned", info["created"]

"""What a report says of the run as a whole: what was scanned, classes, thresholds, scores; and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.classification import sensitivity, statistics, sweep
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz.class_counts import shares
from vlm_neurons.viz.wording import NAMES, decimals, number, percent, share_words, site_name, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.reporting.run_results import Score
    from vlm_neurons.scanning.run import Run
    from vlm_neurons.viz.concept_map import Map

FORMAT = 2  # of the JSON
SWEEP = {"t_visual": (1.0, 2.0, 3.0, 4.0), "t_text": (2.0, 3.0, 4.0, 5.0)}


@dataclass(frozen=True)
class Dependence:
    """How much the classes depend on what was chosen by hand: numbers of `sweep` and `sensitivity`."""

    sweep: pd.DataFrame
    choices: pd.DataFrame

    @classmethod
    def of(cls, run: Run, rule: Thresholds | None) -> Dependence | None:
        """None where no neuron sees both pictures and text."""
        if not any(column["indexed_by"] == "row" for column in run.info["columns"]):
            return None
        kept, paper = run.info["parameters"], Thresholds()
        n_visual, n_text = min(paper.n_visual, kept["n_visual"]), min(paper.n_text, kept["n_text"])
        used = rule or Thresholds(n_visual=n_visual, n_text=n_text)
        return cls(
            sweep(run, **SWEEP, n_visual=(used.n_visual,), n_text=(used.n_text,)),
            sensitivity(run, **asdict(used)),
        )


def sites(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The parts of the table, by site and pole, whose neurons have a class."""
    return [part for _, part in table.groupby(["site", "pole"], sort=False) if part["label"].isin(MODALITIES).any()]


def panel(part: pd.DataFrame) -> dict[str, Any]:
    """The figure of one site and pole, and the data table under it."""
    from vlm_neurons.viz.drawing import svg
    from vlm_neurons.viz.figures import layers_figure

    ties = part[part["tie"]].groupby("layer").size()
    rows = []
    for _, row in shares(part).iterrows():
        n, n_ties = row["n"], int(part["tie"].sum() if row["layer"] == "all" else ties.get(row["layer"], 0))
        counts = [*(row[label] for label in MODALITIES), n, row["confident"], n_ties]
        written = [(f"{count:,}", "" if i == len(MODALITIES) else percent(count, n)) for i, count in enumerate(counts)]
        rows.append({"layer": row["layer"], "cells": written})
    first = part.iloc[0]
    return {"title": visible(site_name(first["site"], first["pole"])), "rows": rows, "svg": svg(layers_figure(part))}


def concept_panel(one: Map) -> dict[str, Any]:
    """The map of the concepts of one site, pole and side, and the data table under it."""
    from vlm_neurons.viz.concept_map import concept_figure
    from vlm_neurons.viz.drawing import svg

    rows = []
    for name in one.concepts:
        n, total = sum(one.counts[name]), sum(one.sizes)
        random = percent(sum(one.random[name]), sum(one.random_sizes)) if one.random else ""
        r = decimals(one.r[name]) if name in one.r else ""
        rows.append({"name": name, "counts": one.counts[name], "n": f"{n:,} {percent(n, total)}", "random": random,
                     "r": r})  # fmt: skip
    return {"title": visible(one.title), "layers": one.layers, "random": bool(one.random), "rows": rows,
            "svg": svg(concept_figure([one]))}  # fmt: skip


def grid(thresholds: Dependence) -> dict[str, Any]:
    """The sweep as a square: a line per threshold of patches, a column per threshold of tokens."""
    table = thresholds.sweep
    lines = []
    for t_visual, part in table.groupby("t_visual"):
        cells = [
            {
                "widths": [(label, f"{cell[label]:.4f}") for label in MODALITIES],
                "words": ", ".join(f"{NAMES[label]} {share_words(cell[label])}" for label in MODALITIES),
                "shares": [share_words(cell[label]) for label in MODALITIES],
                "same": share_words(cell["same_as_paper"]),
            }
            for cell in part.sort_values("t_text").to_dict("records")
        ]
        lines.append({"t_visual": number(float(t_visual)), "cells": cells})  # type: ignore[arg-type]
    same = table["same_as_paper"]
    return {
        "columns": [number(t) for t in sorted(set(table["t_text"]))],
        "lines": lines,
        "n_visual": int(table["n_visual"].iloc[0]),
        "n_text": int(table["n_text"].iloc[0]),
        "least": share_words(same.min()),
    }


def choices(thresholds: Dependence) -> list[dict[str, Any]]:
    """What the labels would be under choices that the paper leaves open, in words."""
    return [
        {
            "site": visible(site_name(row["site"], row["pole"])),
            "choice": row["choice"],
            "n": f"{row['n']:,}",
            "same": share_words(row["same"]),
            "shares": [share_words(row[label]) for label in MODALITIES],
        }
        for row in thresholds.choices.to_dict("records")
    ]


def score_summary(scores: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """`vn.autointerp.score_statistics` by side, that of all last; nothing without scores."""
    import pandas as pd

    from vlm_neurons.autointerp.comparing import score_statistics

    if not scores:
        return []
    every = pd.DataFrame([score for own in scores.values() for score in own])
    rows = score_statistics(every, by="side").to_dict("records")
    return [*rows[1:], *(rows[:1] if len(rows) != 2 else [])]


def scanned(run: Run, table: pd.DataFrame) -> list[tuple[str, str]]:
    """What was looked at, as names and values."""
    samples = run.samples
    n_images = int((samples["n_visual_tokens"] > 0).sum())
    facts = [
        ("model", visible(run.info["model"]["name"])),
        ("neurons", n_neurons(table)),
        ("data", data_name(run)),
        ("samples", run.summary()),
        ("with an image", f"{n_images:,} of {len(samples):,}"),
    ]
    for name, column in (("visual tokens", "n_visual_tokens"), ("tokens of the text", "n_text_tokens")):
        if len(samples):
            low, middle, high = (number(float(samples[column].quantile(q))) for q in (0, 0.5, 1))
            facts.append((f"{name} a sample", f"median {middle}, from {low} to {high}"))
    return facts


def data_name(run: Run) -> str:
    """The data in words."""
    source = run.info["data"]["source"]
    return "data in memory" if source == "memory" else visible(source)


def n_neurons(table: pd.DataFrame) -> str:
    """How many there are at every site; those with two poles count once."""
    counts = table.drop_duplicates(["hook", "index"]).groupby("site", sort=False).size()
    return ", ".join(f"{count:,} neurons at {visible(str(site))}" for site, count in counts.items())


def provenance(run: Run) -> Iterator[tuple[str, str]]:
    """How the run was made, as names and values."""
    info = run.info
    facts: dict[str, Any] = {
        "model": f"{info['model']['name']} ({info['model']['family']}, {info['model']['dtype']})",
        "model fingerprint": info["model"]["fingerprint"],
        "data": f"{info['data']['source']} ({info['data']['n']:,} samples)",
        "data fingerprint": info["data"]["fingerprint"],
        "run": run.identity,
    }
    for name, value in info["parameters"].items():
        if name != "hooks":
            facts[name.replace("_", " ")] = ", ".join(map(str, value)) if isinstance(value, list) else value
    facts["first prompt, as rendered"] = info["rendered"]
    facts["threads"] = info["threads"]
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in info["versions"].items())
    if "created" in info:
        facts["scanned"] = info["created"]
    for name, value in facts.items():
        yield visible(name), visible(str(value))


def document(
    run: Run,
    table: pd.DataFrame,
    rule: Thresholds | None,
    thresholds: Dependence | None,
    scores: Sequence[dict[str, Any]],
    neurons: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that the page shows as a number.

    Args:
        run: the run.
        table: its classification.
        rule: the thresholds behind it, where they are known.
        thresholds: what other thresholds would give.
        scores: summary by side.
        neurons: `record` of every neuron that is shown.
    """
    return {
        "format": FORMAT,
        "run": run.identity,
        "model": run.info["model"],
        "data": run.info["data"],
        "parameters": run.info["parameters"],
        "versions": run.info["versions"],
        "n_samples": len(run.samples),
        "skipped": run.skipped,
        "rule": None if rule is None else vars(rule),
        "layers": statistics(table).to_dict("records"),
        "sweep": [] if thresholds is None else thresholds.sweep.to_dict("records"),
        "sensitivity": [] if thresholds is None else thresholds.choices.to_dict("records"),
        "scores": list(scores),
        "neurons": list(neurons),
    }


def dumps(numbers: dict[str, Any]) -> str:
    """JSON without loss; what is no number becomes null. The same numbers give the same text."""
    return json.dumps(_plain(numbers), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

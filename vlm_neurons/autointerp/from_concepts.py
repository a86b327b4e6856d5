"""Explanations of all neurons of a run, from the concepts that were summed up while it was scanned."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation
from vlm_neurons.concepts.naming import weighed
from vlm_neurons.protocols import SIDES
from vlm_neurons.tokens import Modality

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.scanning import Run

NAME = "concepts"
_WITHOUT = {Modality.VISUAL: "text", Modality.TEXT: "picture"}  # the side that a class does not answer to


def from_concepts(run: Run, min_images: int) -> dict[str, Explanation]:
    """One explanation a neuron and pole; "no clear pattern" where no side counts.

    Raises:
        ValueError: the run was scanned without concepts.
    """
    table = run.concepts(min_images)
    labels = _labels(run)
    settings = hashlib.sha256(f"{NAME}-2 {run.identity} {min_images}".encode()).hexdigest()
    model, found = run.info["parameters"]["concepts"], {}
    for neuron, sides in _by_neuron(table).items():
        without = _WITHOUT.get(labels.get(neuron, Modality.UNKNOWN))
        rows = [row for row in sides if row["concept"] and row["r_low"] > 0 and row["side"] != without]
        support = tuple(
            {
                "concepts": [row["concept"], *filter(None, row["also"].split("; "))], "side": row["side"],
                **{name: row[name] for name in ("r", "r_low", "r_high")},
                "p_random": row["p_random"] if row["p_random"] == row["p_random"] else None,
            }
            for row in rows
        )  # fmt: skip
        by_side = {row["side"]: _said(row) for row in rows}
        text = "; ".join(by_side[side] for side in SIDES if side in by_side) or NO_PATTERN
        found[neuron] = Explanation(
            neuron, text, confidence=max((row["r"] for row in rows), default=float("nan")), explainer=NAME, model=model,
            support=support, settings=settings, by_side=by_side,
        )  # fmt: skip
    return found


def _said(row: dict[str, Any]) -> str:
    """The concept, or the weighted sum of those that count, the strongest first."""
    parts = sorted(row["parts"], key=lambda part: -part["weight"])
    return "; ".join(weighed(part["phrase"], part["weight"]) for part in parts) or str(row["phrase"])


def _by_neuron(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    columns = ["side", "concept", "phrase", "r", "r_low", "r_high", "p_random", "also", "parts"]
    lists = [table[name].tolist() if name in table else [None] * len(table) for name in columns]
    found: dict[str, list[dict[str, Any]]] = {}
    for neuron, *values in zip(table["neuron"].tolist(), *lists, strict=True):
        found.setdefault(neuron, []).append(dict(zip(columns, values, strict=True)))
    return found


def _labels(run: Run) -> dict[str, Modality]:
    """Saved labels; none where none were saved."""
    try:
        table = run.table()
    except FileNotFoundError:
        return {}
    known = {one.value for one in Modality}
    return {n: Modality(x) for n, x in zip(table["neuron"], table["label"], strict=True) if x in known}

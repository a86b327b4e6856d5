"""Neurons that were scanned and have no card: a page finds them by id or by a word of their explanation.

What is told of them lies in pieces of JSON, on the page where they are few, else in files of which the page reads those
that a search needs: `neurons-K` (`ROWS` rows of the table), `samples-K` (names and words of samples), `texts` (all
explanations, each once) and `said-K` (the rows that have each of some texts). A page that is opened from a disk may
read what is beside it as scripts only, so a file calls `piece(NAME, VALUE)`. Rows are those of the table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.reporting.run_results import LONGEST
from vlm_neurons.scanning.results import has_rows_of
from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz.wording import NAMES, shortened, site_name, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp import Explanation
    from vlm_neurons.scanning.run import Run

ROWS = 1024  # neurons of a piece
SAMPLES = 500  # of a piece
SAID = 4096  # rows of a piece, or those of one text
STRONGEST = 3  # samples of a neuron
FEW = 20_000, 2_000  # neurons and samples that are kept on the page itself


@dataclass(frozen=True)
class Others:
    """What a page can find beside its cards.

    Attributes:
        run, table: the run, and its classification in the order of the run.
        explanations: of neurons without a card.
    """

    run: Run
    table: pd.DataFrame
    explanations: Mapping[str, Explanation] = field(repr=False)

    @classmethod
    def of(
        cls, run: Run, table: pd.DataFrame, explanations: Mapping[str, Explanation], shown: Collection[str]
    ) -> Others | None:
        """None where all neurons have a card, or where the table is not in the order of the run."""
        columns = run.info["columns"]
        if {"hook", "pole"} - set(table) or not has_rows_of(table, columns) or set(table["neuron"]) <= set(shown):
            return None
        hidden = {n: e for n, e in explanations.items() if n not in shown and e.text and not e.failed}
        return cls(run, table, hidden)

    @property
    def few(self) -> bool:
        """Whether all of it is kept on the page."""
        return len(self.table) <= FEW[0] and self.run.info["data"]["n"] <= FEW[1]

    def index(self, folder: str) -> dict[str, Any]:
        """What the page knows from the start: how ids are made, and where the pieces are."""
        columns, end = [], 0
        for column in self.run.info["columns"]:
            own, end = self.table.iloc[end : end + column["d"]], end + column["d"]
            site = visible(site_name(column["site"], column["pole"])).split(":")[0]
            columns.append({"n": column["d"], "site": site, "layer": column["layer"], **_ids(own)})
        classes = [NAMES.get(label, "no class") for label in self._labels]
        return {"folder": folder, "columns": columns, "labels": self._labels, "classes": classes, "rows": ROWS,
                "samples": SAMPLES, "explained": len(self.explanations)}  # fmt: skip

    def pieces(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of each."""
        texts, said, of_row = self._said()
        yield from self._neurons(of_row)
        yield from self._samples()
        if texts:
            sizes, places = [len(rows) for rows in said], []
            for name, rows in _together(said, SAID):
                places += [[name, k] for k in range(len(rows))]
                yield f"said-{name}", rows
            yield "texts", {"texts": texts, "sizes": sizes, "places": places}

    @property
    def _labels(self) -> list[str]:
        return [*MODALITIES, *sorted({str(label) for label in self.table["label"].unique()} - set(MODALITIES))]

    def _said(self) -> tuple[list[str], list[list[int]], dict[int, int]]:
        """Texts; the rows of each, those that are most sure first; and which text a row has."""
        if not self.explanations:
            return [], [], {}
        ids = self.table["neuron"].tolist()
        row_of = {name: row for row, name in enumerate(ids)}
        found: dict[str, list[tuple[float, int]]] = {}
        for name, one in self.explanations.items():
            if name in row_of:
                sure = one.confidence if one.confidence == one.confidence else 0.0
                found.setdefault(shortened(visible(one.text), LONGEST), []).append((-sure, row_of[name]))
        said = [[row for _, row in sorted(rows)] for rows in found.values()]
        return [*found], said, {row: k for k, rows in enumerate(said) for row in rows}

    def _neurons(self, of_row: Mapping[int, int]) -> Iterator[tuple[str, Any]]:
        place = {label: k for k, label in enumerate(self._labels)}
        labels = self.table["label"].map(str).map(place).to_numpy()
        shares, peaks = _shares(self.table, labels), self.table["peak"].to_numpy(float)
        tops = np.concatenate([self._strongest(c["hook"], c["pole"]) for c in self.run.info["columns"]])
        for name, begin in enumerate(range(0, len(self.table), ROWS)):
            own = slice(begin, begin + ROWS)
            value = {
                "label": labels[own].tolist(),
                "share": [_digits(v) for v in shares[own]],
                "peak": [_digits(v) for v in peaks[own]],
                "top": tops[own].tolist(),
            }
            if of_row:
                value["said"] = [of_row.get(row, -1) for row in range(begin, min(begin + ROWS, len(self.table)))]
            yield f"neurons-{name}", value

    def _strongest(self, hook: str, pole: Any) -> np.ndarray:
        """Ids of the strongest samples of every neuron of a column; -1 where it has fewer."""
        state, rows = self.run.states(hook, pole)
        found = state.sample_ids[:, :STRONGEST].numpy()[rows]
        return np.pad(found, ((0, 0), (0, STRONGEST - found.shape[1])), constant_values=-1)

    def _samples(self) -> Iterator[tuple[str, Any]]:
        samples = self.run.samples
        told = {int(i): [shortened(visible(str(name)), LONGEST), shortened(visible(text), LONGEST) if text else ""]
                for i, name, text in zip(samples["id"], samples["name"], samples["response"], strict=True)}  # fmt: skip
        for name, begin in enumerate(range(0, max(told, default=-1) + 1, SAMPLES)):
            yield f"samples-{name}", [told.get(i) for i in range(begin, begin + SAMPLES)]


def on_page(value: Any) -> str:
    """JSON that may stand in an element of a page, or in a script.

    >>> on_page({"a": "</script>"})
    '{"a":"\\\\u003c/script>"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _ids(own: pd.DataFrame) -> dict[str, Any]:
    """How the ids of a column are made of the place: what is before it and behind it; or all of them."""
    names = own["neuron"].map(str)
    first = names.iloc[0] if len(names) else ""
    behind = "-" if first.endswith("-") else ""
    before = first[: len(first) - len(behind) - 1]
    made = [f"{before}{k}{behind}" for k in range(len(names))]
    return {"before": before, "behind": behind} if made == names.tolist() else {"names": names.map(visible).tolist()}


def _shares(table: pd.DataFrame, labels: np.ndarray) -> np.ndarray:
    """Share of a neuron's top samples that are of its class; NaN where it has none."""
    found = np.full(len(table), np.nan)
    for k, label in enumerate(MODALITIES):
        if (name := f"p_{label}") in table:
            found[labels == k] = table[name].to_numpy(float)[labels == k]
    return found


def _digits(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _together(lists: list[list[int]], size: int) -> Iterator[tuple[int, list[list[int]]]]:
    """Lists one after the other in groups of at least so many entries."""
    name, group = 0, list[list[int]]()
    for one in lists:
        group.append(one)
        if sum(map(len, group)) >= size:
            yield name, group
            name, group = name + 1, []
    if group:
        yield name, group

"""What a report says of `vn.faithfulness`: does the model say what explanations name, while neurons are clamped?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from vlm_neurons.interventions.faithful import FOLDER, TABLE, kept_in
from vlm_neurons.viz.wording import dashed, decimals, small, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.scanning.run import Run

MOST = 200  # rows on the page; the file has all
REASONS = 3  # why there are no numbers


def faithfulness_of(run: Run) -> pd.DataFrame | None:
    """What was kept in a run; None where nothing was measured.

    Raises:
        ValueError: the file cannot be read.
    """
    return kept_in(run.path / FOLDER / TABLE)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Explanations with a number, the most faithful first."""
    there = table[table["faithfulness"].notna()].sort_values("faithfulness", ascending=False, kind="stable")
    return [
        {"neuron": r["neuron"], "explanation": visible(r["explanation"]), "strength": f"{r['strength']:g}",
         "faithfulness": f"{decimals(r['faithfulness'])} ({decimals(r['low'])} to {decimals(r['high'])})",
         "null": dashed(r["null"]), "before": decimals(r["before"]), "share": decimals(r["share"]),
         "p": small(r["p"]) if r["p"] == r["p"] else "–"}
        for r in there.head(MOST).to_dict("records")
    ]  # fmt: skip


def summary_of(table: pd.DataFrame) -> str:
    """How many are more faithful than to other units, in a sentence; those without a number are counted too."""
    there = table[table["faithfulness"].notna()]
    more, sure = (there["faithfulness"] > there["null"]).sum(), (there["p"] < 0.05).sum()
    return (
        f"{more:,} of {len(there):,} explanations are more faithful than the same words are to other units in the "
        f"median, {sure:,} with p < .05. Of {len(table) - len(there):,} there is no number{reasons(table, there)}."
    )


def reasons(table: pd.DataFrame, there: pd.DataFrame) -> str:
    """The notes of rows without a number, in brackets, the commonest first."""
    notes = Counter(note for note in table.loc[table.index.difference(there.index), "note"] if note)
    told = "; ".join(f"{n:,}: {visible(note)}" for note, n in notes.most_common(REASONS))
    return f" ({told})" if told else ""

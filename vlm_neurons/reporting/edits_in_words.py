"""What a report says of `vn.input_effects`: do neurons follow what their explanations name?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlm_neurons.interventions.edits.keeping import FOLDER, TABLE, read
from vlm_neurons.reporting.faithful_in_words import reasons
from vlm_neurons.viz.wording import dashed, small, visible

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.scanning.run import Run

MOST = 200  # rows on the page; the file has all


def effects_of(run: Run) -> pd.DataFrame | None:
    """What was kept in a run; None where nothing was edited.

    Raises:
        ValueError: the file cannot be read.
    """
    file = run.path / FOLDER / TABLE
    return read(file) if file.is_file() else None


def rows_of(effects: pd.DataFrame) -> list[dict[str, Any]]:
    """Edits with a number, the most specific first, and then those that contradict the words."""
    there = effects[effects["change"].notna()].sort_values("specificity", ascending=False, kind="stable")
    return [
        {"neuron": r["neuron"], "edit": r["edit"], "named": visible(r["named"]), "n": f"{r['n_images']:,.0f}",
         "change": f"{dashed(r['change'])} ({dashed(r['change_low'])} to {dashed(r['change_high'])})",
         "specificity": dashed(r["specificity"]), "other": visible(r["other"]), "necessity": dashed(r["necessity"]),
         "sufficiency": dashed(r["sufficiency"]), "control": dashed(r["control"]), "sham": dashed(r["sham_change"]),
         "q": small(r["q"]) if r["q"] == r["q"] else "–"}
        for r in there.head(MOST).to_dict("records")
    ]  # fmt: skip


def summary_of(effects: pd.DataFrame) -> str:
    """How many follow, in a sentence; those that do not are counted too."""
    there = effects[effects["change"].notna()]
    follow, specific = there[there["q"] < 0.05], (there["specificity"] > 0).sum()
    silent = effects["neuron"].nunique() - there["neuron"].nunique()
    return (
        f"{len(follow):,} of {len(there):,} edits change their neuron more than the same edit does where nothing is "
        f"named (q < .05), {specific:,} more than anything else that was changed. Of {silent:,} neurons no edit tests "
        f"the words{reasons(effects, there)}."
    )

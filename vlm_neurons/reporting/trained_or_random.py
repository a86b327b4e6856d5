"""What a report says of `vn.trust`: which scores tell this model from random gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_neurons._files import readable
from vlm_neurons.interventions.trusting import FOLDER, VALUES
from vlm_neurons.viz.wording import NAMES, dashed, percent

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.scanning.run import Run

DRAWN = (("concepts", "focus"), ("score", "r"))  # of which there is a figure
SOURCES = {"concepts": "concepts of the pass", "score": "simulated explanations"}
COLUMNS = {"source", "statistic", "label", "neuron", "draw", "value"}


def values_of(run: Run) -> pd.DataFrame | None:
    """What `vn.trust` kept in a run; None where it was not asked.

    Raises:
        ValueError: the file cannot be read.
    """
    import pandas as pd

    if not (file := run.path / FOLDER / VALUES).is_file():
        return None
    with readable(file, "vn.trust(model, data, run, out=run)"):
        found = pd.read_parquet(file)
        if lacking := COLUMNS - {*found.columns}:
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    return found


def rows_of(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `vn.trust` in words, those with numbers."""
    return [
        {"source": SOURCES[r["source"]], "statistic": r["statistic"], "label": NAMES[r["label"]],
         "n": f"{r['n']:,} / {r['n_random']:,}",
         "medians": f"{dashed(r['median'])} / {dashed(r['median_random'])}",
         "auroc": f"{dashed(r['auroc'])} ({dashed(r['low'])} to {dashed(r['high'])})",
         "above": percent(round(r["above"] * r["n"]), r["n"])}
        for r in told if r["n"] and r["n_random"]
    ]  # fmt: skip


def figures_of(values: pd.DataFrame) -> list[dict[str, str]]:
    """The figures, as titles and SVG."""
    from vlm_neurons.viz.drawing import svg
    from vlm_neurons.viz.trust_figure import trust_figure

    there = {*zip(values["source"], values["statistic"], strict=True)}
    return [
        {"title": f"{statistic}, {SOURCES[source]}", "svg": svg(trust_figure(values, source, statistic))}
        for source, statistic in DRAWN if (source, statistic) in there
    ]  # fmt: skip

"""How many neurons of each class every layer has: as a table, and for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE
from vlm_neurons.viz.wording import NAMES, percent, site_name

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def shares(table: pd.DataFrame) -> pd.DataFrame:
    """How many neurons of each class every layer has: `statistics`, one row a layer.

    Args:
        table: what `classify` returns. Sites whose neurons have no class are left out.

    Raises:
        ValueError: a column is missing, or a label is none of the classes.

    Returns:
        One row per site, pole and layer, and one with the layer `"all"` after them, in the order of the table. Columns
        site, pole, layer, visual, text, multimodal, unknown (counts), n (their sum) and confident.
    """
    import pandas as pd

    from vlm_neurons.classification import statistics

    _check(table)
    rows = []
    counted = statistics(table) if len(table) else table
    for (site, pole, layer), part in counted.groupby(["site", "pole", "layer"], sort=False):
        if set(part["label"]) == set(MODALITIES):
            counts = dict(zip(part["label"], part["count"].astype(int), strict=True))
            n, confident = sum(counts.values()), int(part["confident"].sum())
            rows.append({"site": site, "pole": pole, "layer": layer, **counts, "n": n, "confident": confident})
    return pd.DataFrame(rows, columns=["site", "pole", "layer", *MODALITIES, "n", "confident"])


def _check(table: pd.DataFrame) -> None:
    missing = [name for name in ("site", "pole", "layer", "label", "confident") if name not in table]
    if missing:
        raise ValueError(f"table has no column {missing[0]!r}; pass what vn.classify returns")
    strange = sorted(set(map(str, table["label"])) - {*MODALITIES, NOT_APPLICABLE})
    if strange:
        raise ValueError(f"table has the label {strange[0]!r}; known are {', '.join((*MODALITIES, NOT_APPLICABLE))}")


def layer_tables(table: pd.DataFrame) -> list[Table]:
    """Counts and shares of the classes, one table per site and pole.

    Args:
        table: what `classify` returns.

    Returns:
        Tables for `rich.console.Console.print`; sites whose neurons have no class give none.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    tables = []
    for (site, pole), panel in shares(table).groupby(["site", "pole"], sort=False):
        one = Table(
            title=escape(site_name(site, pole)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1)
        )
        for heading in ("layer", *(NAMES[label] for label in MODALITIES), "neurons", "confident"):
            one.add_column(heading, justify="right", no_wrap=True)
        for _, row in panel.iterrows():
            if row["layer"] == "all":
                one.add_section()
            cells = [f"{row[label]:,} {percent(row[label], row['n']):>5}" for label in MODALITIES]
            confident = f"{row['confident']:,} {percent(row['confident'], row['n']):>5}"
            one.add_row(str(row["layer"]), *cells, f"{row['n']:,}", confident)
        tables.append(one)
    return tables

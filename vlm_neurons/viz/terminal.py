"""Classes by layer as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz.layers import NAMES, percent, shares, site_name

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


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

"""`vlm-neurons concepts`, and the banks of `vlm-neurons scan --concepts`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.cli.options import command, positive
from vlm_neurons.cli.output import cell, console, say

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.protocols import ConceptBank
    from vlm_neurons.scanning import Run
    from vlm_neurons.viz.concept_map import Map

PLAIN = ("pixels", "words", "truth")
FILED = ("coco", "masks")  # with a file or a folder
WRITTEN = f"{', '.join(PLAIN)}; {', '.join(f'{name}:PATH' for name in FILED)}"
FILE = "concepts.parquet"
SHOWN = 10  # concepts of a map


def bank_of(text: str) -> ConceptBank:
    """The banks that `--concepts` names, joined by + or commas.

    Raises:
        ValueError: no such bank, or one that needs a file without it.

    >>> bank_of("pixels+words").name
    'pixels+words'
    """
    from vlm_neurons import concepts

    plain = {"pixels": concepts.Pixels, "words": concepts.Words, "truth": concepts.Truth}
    filed = {"coco": concepts.CocoMasks, "masks": concepts.Masks}
    found: ConceptBank | None = None
    for name, _, path in (one.strip().partition(":") for one in re.split("[+,]", text)):
        if (name in plain and path) or (name in filed and not path) or name not in {*plain, *filed}:
            raise ValueError(
                f"--concepts {text}: {name + (':' + path if path else '')!r} is no bank; there are {WRITTEN} (an "
                "annotation file of COCO's format, a folder of label images); others from Python: vn.concepts"
            )
        bank: ConceptBank = filed[name](path) if path else plain[name]()
        found = bank if found is None else found + bank
    assert found is not None
    return found


def add_command(commands: Any) -> None:
    """The command with what it takes."""
    p = command(commands, "concepts", concepts_run, "tell which concept every neuron of a scan answers to",
                "vlm-neurons concepts runs/photos --out concepts.csv")  # fmt: skip
    p.add_argument("run", help="run directory, scanned with --concepts")
    p.add_argument("--out", help=f".parquet or .csv to write the table to (default: {FILE} in the run directory)")
    p.add_argument("--min-images", type=positive, default=20,
                   help="a concept needs so many images in each half of the data (default: %(default)s)")  # fmt: skip


def concepts_run(args: argparse.Namespace) -> None:
    """Write the table of a run, and print which concept lives in which layer."""
    from vlm_neurons._files import write_atomic
    from vlm_neurons.scanning import Run

    run = Run.load(args.run)
    out = Path(args.out) if args.out else run.path / FILE
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out {args.out}: end it in .parquet or .csv")
    table = run.concepts(args.min_images)
    if out.suffix == ".csv":
        write_atomic(out, lambda temporary: table.to_csv(temporary, index=False))
    else:
        write_atomic(out, lambda temporary: table.to_parquet(temporary, index=False))
    show(table)
    say(f"table: {out}   next: vlm-neurons report {args.run}")


def of_all(run: Run) -> None:
    """Write the table of a run, and say of how many neurons it tells a concept; print the maps of the first site."""
    from vlm_neurons._files import write_atomic

    table = run.concepts()
    write_atomic(run.path / FILE, lambda temporary: table.to_parquet(temporary, index=False))
    sure = table[table["r_low"] > 0].drop_duplicates("neuron")
    say(
        f"{len(sure):,} of {table['neuron'].nunique():,} units have a concept for sure: {run.path / FILE}", stderr=False
    )
    first = table[table["site"] == table["site"].iloc[0]]
    first.attrs = table.attrs
    show(first)


def show(table: pd.DataFrame) -> None:
    """The concepts of most neurons, of every site and side."""
    from vlm_neurons.viz.concept_map import concept_maps
    from vlm_neurons.viz.wording import FREQUENCY

    for one in concept_maps(table, SHOWN):
        console().print(_table(one))
    console().print(f"Of a neuron counts the concept with the largest r, if its 95 % interval is above 0. {FREQUENCY}",
                    style="dim")  # fmt: skip


def _table(one: Map) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from vlm_neurons.viz.wording import decimals, percent

    made = Table(title=cell(one.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    made.add_column("concept", min_width=20)
    for heading in ("neurons", "share", *(["random units"] if one.random else []), "most in layer", "median r"):
        made.add_column(heading, justify="right", no_wrap=True)
    for name in one.concepts:
        counts = one.counts[name]
        shares = [n / size for n, size in zip(counts, one.sizes, strict=True)]
        at = max(range(len(shares)), key=lambda i: shares[i])
        most = f"{one.layers[at]} ({percent(counts[at], one.sizes[at])})" if name in one.r else ""
        random = [percent(sum(one.random[name]), sum(one.random_sizes))] if one.random else []
        r = decimals(one.r[name]) if name in one.r else ""
        made.add_row(cell(name), f"{sum(counts):,}", percent(sum(counts), sum(one.sizes)), *random, most, r)
    return made

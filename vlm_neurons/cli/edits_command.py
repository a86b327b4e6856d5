"""`vlm-neurons edits`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vlm_neurons.cli.explain_command import named
from vlm_neurons.cli.inputs import model_of
from vlm_neurons.cli.options import command, model_options, names, positive
from vlm_neurons.cli.output import cell, console, say

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.protocols import ConceptBank
    from vlm_neurons.scanning import Run

SHOWN = 15
COLUMNS = ("change", "specificity", "necessity", "control", "sham_change", "q")


def add_command(commands: Any) -> None:
    """What the command takes."""
    p = command(commands, "edits", edits_run, "edit what explanations name: do the neurons follow?",
                "vlm-neurons edits runs/scenes --data scenes:n=300,seed=9")  # fmt: skip
    p.add_argument("run", help="run directory with explanations")
    p.add_argument("--neurons", help="ids, such as L3N17,P0N5 (default: all that have an explanation)")
    p.add_argument("--edits", type=names, help="kinds, such as repaint,replace (default: all that the words ask for)")
    p.add_argument("--n", type=positive, default=100, help="samples that are edited (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    p.add_argument("--batch-size", type=positive, default=32, help="(default: %(default)s)")
    p.add_argument("--regions", help="bank that finds what words name in pictures that cannot be drawn anew, as in "
                   "scan --concepts (default: the run's own, where its name is enough to make it)")  # fmt: skip
    p.add_argument("--save-images", help="folder for the edited pictures")
    p.add_argument("--data", help="samples to edit, best others than those that were explained, such as "
                   "scenes:n=300,seed=9 (default: the data that the scan recorded)")  # fmt: skip
    model_options(p, required=False)


def edits_run(args: argparse.Namespace) -> None:
    """Edit for the explanations of a run, and print a table."""
    from vlm_neurons.autointerp.store import read_explanations
    from vlm_neurons.interventions.edits.effects import input_effects
    from vlm_neurons.interventions.edits.keeping import FOLDER, TABLE
    from vlm_neurons.scanning import Run
    from vlm_neurons.synthetic import open_data

    run = Run.load(args.run)
    explanations = {n: e for n, e in read_explanations(run.path).items() if not e.failed}
    if not explanations:
        raise ValueError(f"{run.path} has no explanations; run vlm-neurons explain {run.path} first")
    wanted = named(args.neurons) if args.neurons else list(explanations)
    if missing := [n for n in wanted if n not in explanations]:
        raise ValueError(f"no explanation of {', '.join(missing)} in {run.path}; run vlm-neurons explain first")
    data = open_data(args.data) if args.data else run.open_data()
    model = model_of(args, args.model or run.info["model"]["name"])
    table = input_effects(
        model, data, {n: explanations[n] for n in wanted}, edits=args.edits, regions=_regions(args.regions, run, data),
        n=args.n, seed=args.seed, batch_size=args.batch_size, out=run, save_images=args.save_images,
    )  # fmt: skip
    show(table)
    say(f"edits: {run.path / FOLDER / TABLE}   next: vlm-neurons report {args.run}")


def _regions(given: str | None, run: Run, data: ImageTextData) -> ConceptBank | None:
    """The bank that regions are found by: what is given, or of photographs the run's own; None for what is drawn."""
    from vlm_neurons.cli.concepts_command import bank_of
    from vlm_neurons.synthetic.dataset import Scenes

    if given is not None or isinstance(data, Scenes):
        return bank_of(given) if given is not None else None
    try:
        bank = bank_of(run.info["parameters"]["concepts"])
    except (KeyError, TypeError, ValueError):  # scanned without a bank, or with one that needs more than its name
        return None
    return bank if bank.concepts("picture") else None


def show(table: pd.DataFrame) -> None:
    """The rows with the largest specificity, and what was not tested."""
    from rich.box import SIMPLE
    from rich.table import Table

    rows = table[table["change"].notna()].sort_values("specificity", ascending=False, kind="stable")
    shown = Table(box=SIMPLE, padding=0, title=f"{min(SHOWN, len(rows))} of {len(rows)} edits, the most specific first")
    for name in ("neuron", "edit", "named", *COLUMNS):
        shown.add_column(name, no_wrap=name != "named")
    for row in rows.head(SHOWN).to_dict("records"):
        numbers = ("-" if row[name] != row[name] else f"{row[name]:.2f}" for name in COLUMNS)
        shown.add_row(cell(row["neuron"]), row["edit"], cell(row["named"]), *numbers)
    out = console()
    out.print(shown)
    out.print("change: activation with what is named, less without, in SD; specificity: less the largest change by "
              "something else; control: the same edit where nothing is named; sham_change: by the words of other "
              f"neurons. {len(table) - len(rows)} rows have no number; their note says why", style="dim")  # fmt: skip

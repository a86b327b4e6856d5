"""`vlm-neurons faithfulness`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vlm_neurons.cli.explain_command import named
from vlm_neurons.cli.inputs import model_of
from vlm_neurons.cli.options import command, model_options, positive
from vlm_neurons.cli.output import cell, console, say

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 15
COLUMNS = ("faithfulness", "null", "p", "before", "share", "strength")


def add_command(commands: Any) -> None:
    """What the command takes."""
    p = command(commands, "faithfulness", faithfulness_run,
                "clamp explained neurons: does the model say what their explanations name?",
                "vlm-neurons faithfulness runs/scenes")  # fmt: skip
    p.add_argument("run", help="run directory with explanations and their evidence")
    p.add_argument("--neurons", help="ids, such as L3N17,P0N5 (default: all that have an explanation and evidence)")
    p.add_argument("--n", type=positive, default=32, help="answers at each strength (default: %(default)s)")
    p.add_argument("--max-new-tokens", type=positive, default=24, help="of an answer (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    p.add_argument("--batch-size", type=positive, default=32, help="(default: %(default)s)")
    model_options(p, required=False)


def faithfulness_run(args: argparse.Namespace) -> None:
    """Clamp the neurons of a run's explanations, and print a table. The null is of these, and where they are few of
    others that have evidence."""
    from vlm_neurons.autointerp.store import read_explanations
    from vlm_neurons.evidence import load
    from vlm_neurons.evidence.gathered import Part
    from vlm_neurons.interventions.faithful import FOLDER, OTHERS, TABLE, faithfulness
    from vlm_neurons.scanning import Run

    run = Run.load(args.run)
    explanations = {n: e for n, e in read_explanations(run.path).items() if not e.failed}
    evidence = load(run.path) if explanations else {}
    wanted = named(args.neurons) if args.neurons else [n for n in explanations if n in evidence]
    missing = [n for n in wanted if n not in explanations or n not in evidence]
    if missing or not wanted:
        what = f"no explanation with evidence of {', '.join(missing)}" if missing else "no explanations with evidence"
        raise ValueError(f"{run.path}: {what}; run vlm-neurons explain {run.path} --neurons ... first")
    others = [n for n in evidence if n not in wanted][: max(0, OTHERS + 1 - len(wanted))]
    clamped = Part(evidence, [*wanted, *others])  # read one by one
    model = model_of(args, args.model or run.info["model"]["name"])
    table = faithfulness(
        model, {n: explanations[n] for n in wanted}, clamped, n=args.n, seed=args.seed,
        max_new_tokens=args.max_new_tokens, batch_size=args.batch_size, out=run,
    )  # fmt: skip
    show(table)
    say(f"faithfulness: {run.path / FOLDER / TABLE}   next: vlm-neurons report {args.run}")


def show(table: pd.DataFrame) -> None:
    """The most faithful rows, and how many have no number."""
    from rich.box import SIMPLE
    from rich.table import Table

    rows = table[table["faithfulness"].notna()].sort_values("faithfulness", ascending=False, kind="stable")
    shown = Table(box=SIMPLE, padding=0, title=f"{min(SHOWN, len(rows))} of {len(rows)} explanations, the most "
                  "faithful first")  # fmt: skip
    for name in ("neuron", "explanation", *COLUMNS):
        shown.add_column(name, no_wrap=name != "explanation")
    for row in rows.head(SHOWN).to_dict("records"):
        numbers = ("-" if row[name] != row[name] else f"{row[name]:.2f}" for name in COLUMNS)
        shown.add_row(cell(row["neuron"]), cell(row["explanation"]), *numbers)
    out = console()
    out.print(shown)
    out.print("faithfulness: how much more often the model says it while the neuron is clamped (share) than without "
              "(before), of what there is room for; null: the same words, other neurons. "
              f"{len(table) - len(rows)} rows have no number; their note says why", style="dim")  # fmt: skip

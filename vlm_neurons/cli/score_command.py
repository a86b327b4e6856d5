"""`vlm-neurons score`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.registry import SIMULATORS, in_words
from vlm_neurons.cli.explain_command import SERVER, add_server_options, named, refuse_unused, server_options
from vlm_neurons.cli.options import device, positive
from vlm_neurons.cli.output import cell, console, say
from vlm_neurons.cli.threads import all_threads

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.protocols import Simulator
    from vlm_neurons.evidence.gathered import Gathered
    from vlm_neurons.evidence.stored import Stored
    from vlm_neurons.scanning import Run

NAMES = {"visual": "visual", "text": "text", "multimodal": "multi-modal", "unknown": "unknown",
         "not_applicable": "see images only", "all": "all"}  # fmt: skip
LOGPROBS = ("api", "local")  # whose models may give log probabilities of a prompt
SHOWN = 15


def add_options(p: argparse.ArgumentParser) -> None:
    """What the command takes."""
    p.add_argument("run", help="run directory with explanations")
    p.add_argument("--neurons", help="ids, such as L3N17,P0N5 (default: all that have an explanation)")
    p.add_argument("--simulator", choices=list(SIMULATORS), default="concepts",
                   help=f"{in_words(SIMULATORS)} (default: %(default)s)")  # fmt: skip
    p.add_argument("--simulator-model", help="name of the model that simulates, or a local directory")
    add_server_options(p)
    p.add_argument("--prompt-logprobs", type=positive, metavar="N",
                   help="api and local: read the values of all tokens off N log probabilities at each place of one "
                   "prompt, as vLLM gives them (20 there)")  # fmt: skip
    p.add_argument(
        "--device", type=device, help="grounded, clip and local: where they compute, such as cuda (default: cpu)"
    )
    p.add_argument("--n-null", type=int, default=20,
                   help="explanations of other neurons tried on each one, at most; each costs as much as the neuron's "
                   "own (default: %(default)s)")  # fmt: skip
    p.add_argument("--stability", type=int, default=0, metavar="N",
                   help="explain each neuron N times more from resampled samples, and say how often the same comes "
                   "(explanations by dissection)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="of permutations and bootstrap (default: %(default)s)")
    p.add_argument("--dry-run", action="store_true", help="print what it will cost; simulate nothing")


def score_run(args: argparse.Namespace) -> pd.DataFrame | None:
    """Simulate and score every explanation of a run, and print tables."""
    from vlm_neurons.autointerp.scorers.other_explanations import all_by
    from vlm_neurons.autointerp.scoring import cost_of, nothing_came, score
    from vlm_neurons.autointerp.store import read_explanations
    from vlm_neurons.evidence import load
    from vlm_neurons.scanning import Run
    from vlm_neurons.scanning.results import SCORES

    run = Run.load(args.run)
    explanations = read_explanations(run.path)
    if not explanations:
        raise ValueError(f"{run.path} has no explanations; run vlm-neurons explain {run.path} first")
    every = labelled(load(run.path), run)
    pool = {n: e for n, e in explanations.items() if n in every}
    if args.neurons is not None:
        wanted = named(args.neurons)
        missing = [n for n in wanted if n not in explanations]
        if missing:
            raise ValueError(f"no explanation of {', '.join(missing)} in {run.path}; run vlm-neurons explain first")
        explanations = {n: explanations[n] for n in wanted}
    if lost := [n for n in explanations if n not in every]:
        raise ValueError(f"{run.path}/evidence has nothing of {', '.join(lost[:5])}; run vlm-neurons explain again")
    if args.stability and not all_by(explanations, "dissection"):
        raise ValueError(
            "--stability explains again by dissection, and not all of these explanations are its own; from Python "
            "vn.score(..., n_stability=, explainer=) asks any explainer"
        )
    simulator = _simulator(args, run)
    if args.dry_run:
        say(cost_of(explanations, every, simulator, args.n_null, pool, n_stability=args.stability))
        return None
    table = score(explanations, every, simulator, out=run, n_null=args.n_null, pool=pool, seed=args.seed,
                  full=True, n_stability=args.stability)  # fmt: skip
    if nothing_came(table):
        notes = "; ".join(sorted(set(table["note"][table["n_failed"] > 0])))
        raise ValueError(f"{notes}; {run.path / SCORES} is as it was")
    show(table)
    say(f"scores: {run.path / SCORES}   next: vlm-neurons report {args.run}")
    return table


def labelled(evidence: Stored, run: Run) -> Gathered:
    """With the classes that the run's table has now: it may have been classified anew since."""
    from vlm_neurons.evidence.gathered import Gathered
    from vlm_neurons.evidence.gathering import labels_of

    return Gathered.of(evidence, evidence, labels_of(run, [*evidence]))


def _simulator(args: argparse.Namespace, run: Run) -> str | Simulator:
    entry = SIMULATORS[args.simulator]
    unused: tuple[str, ...] = SERVER if entry.needs != "server" else ()
    unused += ("prompt_logprobs",) if args.simulator not in LOGPROBS else ()
    unused += ("simulator_model",) if not entry.needs else ()
    unused += ("device",) if entry.needs != "weights" else ()
    refuse_unused(args, unused, f"--simulator {args.simulator}")
    if not entry.needs:
        return str(args.simulator)
    if entry.must_name and not args.simulator_model:
        raise ValueError(f"--simulator {args.simulator} needs --simulator-model")
    kind: Any = entry.load()
    if entry.needs == "server":
        made: Simulator = kind(
            args.simulator_model, cache=run.path / "cache.sqlite", prompt_logprobs=args.prompt_logprobs or 0,
            **server_options(args),
        )  # fmt: skip
        return made
    options: dict[str, Any] = {"device": args.device}
    if args.simulator in LOGPROBS:
        options["prompt_logprobs"] = args.prompt_logprobs or 0
    named = [args.simulator_model] if args.simulator_model else []
    all_threads()
    found: Simulator = kind.from_pretrained(*named, **options)
    return found


def show(scores: pd.DataFrame) -> None:
    """The neurons with the best scores, and how many of each class have an explanation that predicts."""
    from rich.box import SIMPLE
    from rich.table import Table

    from vlm_neurons.autointerp.comparing import score_statistics

    out = console()
    table = Table(box=SIMPLE, padding=0, title=f"best {min(SHOWN, len(scores))} of {len(scores)} scores")
    for name in ("neuron", "class", "side", "explanation", "r (95 %)", "others'", "q"):
        table.add_column(name, no_wrap=name != "explanation", min_width=20 if name == "explanation" else None)
    best = scores.sort_values(["r", "neuron", "side"], ascending=[False, True, True])
    for row in best.head(SHOWN).to_dict("records"):
        span = f"{_two(row['r'])} ({_two(row['r_low'])}-{_two(row['r_high'])})" + ("*" if row["approximate"] else "")
        table.add_row(
            cell(row["neuron"]), NAMES.get(row["label"], "-"), row["side"], cell(row["explanation"]),
            cell(row["note"] if row["r"] != row["r"] else span), _two(row["r_null"]), _q(row["q"]),
        )  # fmt: skip
    out.print(table)
    out.print("r: of simulated and real activations of one side, over all of the data (estimated from samples that the "
              "explainer did not see; not of top and random samples alone); others': "
              "median r of explanations of other neurons of the same layer and class; q: after Benjamini-Hochberg"
              + ("; *: few images, approximate" if scores["approximate"].any() else ""), style="dim")  # fmt: skip
    table = Table("class", "scores", "explained", "with a score", "q < 0.05", "median r", "others'", box=SIMPLE)
    for row in score_statistics(scores).to_dict("records"):
        table.add_row(cell(NAMES.get(row["label"], row["label"])), str(row["n"]), str(row["n_explained"]),
                      str(row["n_scored"]), str(row["significant"]), _two(row["r"]), _two(row["r_null"]))  # fmt: skip
    out.print(table)


def _two(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def _q(value: float) -> str:
    return "-" if value != value else "< .001" if value < 0.001 else f"{value:.3f}"

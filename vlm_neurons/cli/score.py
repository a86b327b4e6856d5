"""`vlm-neurons score`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.simulators.baselines import BASELINES
from vlm_neurons.cli.explain import CONCURRENCY, SERVER, add_server_options, named, refuse_unused
from vlm_neurons.cli.output import cell, console, say

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.simulators import Simulator
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

NAMES = {"visual": "visual", "text": "text", "multimodal": "multi-modal", "unknown": "unknown",
         "not_applicable": "see images only", "all": "all"}  # fmt: skip
MODELS = {"grounded": "GroundedSimulator", "clip": "ClipSimulator", "api": "ApiSimulator", "local": "LocalSimulator"}
IN_PROCESS = ("grounded", "clip", "local")
SHOWN = 15


def add_options(p: argparse.ArgumentParser, positive: Callable[[str], int], device: Callable[[str], str]) -> None:
    """What the command takes."""
    p.add_argument("run", help="run directory with explanations")
    p.add_argument("--neurons", help="ids, such as L3N17,P0N5 (default: all that have an explanation)")
    p.add_argument("--simulator", choices=["concepts", *BASELINES, *MODELS], default="concepts",
                   help="concepts needs no key; api is any OpenAI-compatible server, its key in OPENAI_API_KEY; "
                   "grounded, clip and local are models of transformers (default: %(default)s)")  # fmt: skip
    p.add_argument("--simulator-model", help="name of the model that simulates, or a local directory")
    add_server_options(p, positive)
    p.add_argument("--prompt-logprobs", type=positive, metavar="N",
                   help="api and local: read the values of all tokens off N log probabilities at each place of one "
                   "prompt, as vLLM gives them (20 there)")  # fmt: skip
    p.add_argument(
        "--device", type=device, help="grounded, clip and local: where they compute, such as cuda (default: cpu)"
    )
    p.add_argument("--n-null", type=int, default=20,
                   help="explanations of other neurons tried on each one, at most; each costs as much as the neuron's "
                   "own (default: %(default)s)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="of permutations and bootstrap (default: %(default)s)")
    p.add_argument("--dry-run", action="store_true", help="print what it will cost; simulate nothing")


def score_run(args: argparse.Namespace) -> pd.DataFrame | None:
    """Simulate and score every explanation of a run, and print tables."""
    from vlm_neurons.autointerp.explanation import Log
    from vlm_neurons.autointerp.scorers.specific import cost_of
    from vlm_neurons.autointerp.scoring import nothing_came, score
    from vlm_neurons.evidence import load
    from vlm_neurons.scanning import Run

    run = Run.load(args.run)
    explanations = Log(run.path / "explanations.jsonl").read()
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
    simulator = _simulator(args, run)
    if args.dry_run:
        say(cost_of(explanations, every, simulator, args.n_null, pool))
        return None
    table = score(explanations, every, simulator, out=run, n_null=args.n_null, pool=pool, seed=args.seed)
    if nothing_came(table):
        notes = "; ".join(sorted(set(table["note"][table["n_failed"] > 0])))
        raise ValueError(f"{notes}; {run.path / 'scores.parquet'} is as it was")
    show(table)
    say(f"scores: {run.path / 'scores.parquet'}   next: vlm-neurons report {args.run}")
    return table


def labelled(evidence: dict[str, Evidence], run: Run) -> dict[str, Evidence]:
    """With the classes that the run's table has now: it may have been classified anew since."""
    from vlm_neurons.evidence.gathering import labels_of

    labels = labels_of(run)
    return {n: replace(e, label=labels.get(n, e.label)) for n, e in evidence.items()}


def _simulator(args: argparse.Namespace, run: Run) -> str | Simulator:
    unused: tuple[str, ...] = SERVER if args.simulator != "api" else ()
    unused += ("prompt_logprobs",) if args.simulator not in ("api", "local") else ()
    unused += ("simulator_model",) if args.simulator not in MODELS else ()
    unused += ("device",) if args.simulator not in IN_PROCESS else ()
    refuse_unused(args, unused, f"--simulator {args.simulator}")
    if args.simulator not in MODELS:
        return str(args.simulator)
    import vlm_neurons as vn

    if args.simulator in ("api", "local") and not args.simulator_model:
        raise ValueError(f"--simulator {args.simulator} needs --simulator-model")
    kind: Any = getattr(vn, MODELS[args.simulator])
    if args.simulator == "api":
        made: Simulator = kind(
            args.simulator_model, base_url=args.base_url, max_cost=args.max_cost, price=args.price,
            concurrency=args.concurrency or CONCURRENCY, cache=run.path / "cache.sqlite",
            prompt_logprobs=args.prompt_logprobs or 0,
        )  # fmt: skip
        return made
    options: dict[str, Any] = {"device": args.device}
    if args.simulator == "local":
        options["prompt_logprobs"] = args.prompt_logprobs or 0
    named = [args.simulator_model] if args.simulator_model else []
    found: Simulator = kind.from_pretrained(*named, **options)
    return found


def show(scores: pd.DataFrame) -> None:
    """The neurons with the best scores, and how many of each class have an explanation that predicts."""
    from rich.box import SIMPLE
    from rich.table import Table

    from vlm_neurons.autointerp.comparing import score_statistics

    out = console()
    table = Table(box=SIMPLE, padding=0, title=f"best {min(SHOWN, len(scores))} of {len(scores)} explanations")
    for name in ("neuron", "class", "explanation", "r (95 %)", "others'", "q"):
        table.add_column(name, no_wrap=name != "explanation", min_width=20 if name == "explanation" else None)
    for row in scores.sort_values(["r", "neuron"], ascending=[False, True]).head(SHOWN).to_dict("records"):
        span = f"{_two(row['r'])} ({_two(row['r_low'])}-{_two(row['r_high'])})" + ("*" if row["approximate"] else "")
        table.add_row(
            cell(row["neuron"]), NAMES.get(row["label"], "-"), cell(row["explanation"]),
            cell(row["note"] if row["r"] != row["r"] else span), _two(row["r_null"]), _q(row["q"]),
        )  # fmt: skip
    out.print(table)
    out.print("r: of simulated and real activations on samples that the explainer did not see; others': median r "
                  "of explanations of other neurons of the same layer and class; q: after Benjamini-Hochberg"
                  + ("; *: few images, approximate" if scores["approximate"].any() else ""), style="dim")  # fmt: skip
    table = Table("class", "neurons", "explained", "with a score", "q < 0.05", "median r", "others'", box=SIMPLE)
    for row in score_statistics(scores).to_dict("records"):
        table.add_row(cell(NAMES.get(row["label"], row["label"])), str(row["n"]), str(row["n_explained"]),
                      str(row["n_scored"]), str(row["significant"]), _two(row["r"]), _two(row["r_null"]))  # fmt: skip
    out.print(table)


def _two(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def _q(value: float) -> str:
    return "-" if value != value else "< .001" if value < 0.001 else f"{value:.3f}"

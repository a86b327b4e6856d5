"""`vlm-neurons demo` beside that of another version: CPU seconds of what both do.

    python examples/benchmark_demo.py --baseline BASE/bin/python    # some two minutes a round

BASE is an environment with another version of this package (README of `vlm_neurons/scanning`: commit 83d2710). What the
command calls is called without what that version had not: concepts, random units and edits. Each version is a process of
its own, imports among it, and they take turns. `OMP_NUM_THREADS` is left unset, so that each has the threads that a user of its
command has: torch's own choice before, one for such small work today.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from importlib import import_module
from statistics import median
from typing import Any

from after_steps import found

CHOSEN = ("clearest_of_classes", "evidence_of")


def demo(out: str) -> dict[str, float]:
    """Old content, by whatever version of this package the interpreter has."""
    main = import_module("vlm_neurons.cli.main" if _is_new() else "vlm_neurons.cli")
    args = main._parser().parse_args(["demo", "--out", out])
    with found("cli.threads:one_thread")() if _is_new() else nullcontext():
        model_of, label = found("cli.main:model_of", "cli:_model"), found("classification.classify")
        clearest, gather = (found(f"cli.explain_command:{n}", f"cli_explain:{n}") for n in CHOSEN)
        explain, score = found("autointerp.explain", "explaining.explain"), found("autointerp.score", "scoring.score")
        scenes, report = found("synthetic.scenes", "world.scenes"), found("reporting.report", "show.report")
        show_scores = found("cli.score_command:show", "cli_score:show")
        model, data = model_of(args, main.DEMO_MODEL), scenes(main.DEMO_SCENES, seed=0)
        run = main._scan(model, data, args, site=main.DEMO_SITES, batch_size=32, block_size=256)
        table = label(run)
        if hasattr(run, "save"):
            run.save(table)
        main._show(run, table)
        evidence = gather(run, clearest(run, main.DEMO_NEURONS), lambda: model, data, seed=0)
        explanations = explain(evidence, out=run)
        show_scores(score(explanations, evidence, out=run, **({"full": True} if _is_new() else {})))
        report(run if _is_new() else run.path, model=model, **({"out": run} if _is_new() else {}))
    return {"cpu": sum(os.times()[:4]), "neurons": len(explanations)}


def _is_new() -> bool:
    return hasattr(import_module("vlm_neurons.cli"), "__path__")


def measured(python: str) -> dict[str, float]:
    """One version's, in a process of its own; neither threads nor paths of the shell count."""
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([python, __file__, "--one", out], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{python} ended with {done.returncode}: {done.stderr[-300:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Measure in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", help="python of an environment with another version")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # by the version that runs this, into a directory
    args = parser.parse_args()
    if args.one:
        told: dict[str, Any] = demo(args.one)
        sys.stdout.write(f"\n{json.dumps(told)}\n")
        return
    if not args.baseline:
        parser.error("--baseline: the python of an environment with another version")
    ratios = []
    for _ in range(args.rounds):
        before, now = measured(args.baseline), measured(sys.executable)
        if before["neurons"] != now["neurons"]:
            raise SystemExit(f"not the same work: {before['neurons']} and {now['neurons']} neurons were explained")
        ratios.append(now["cpu"] / before["cpu"])
        sys.stdout.write(f"baseline {before['cpu']:.1f} CPU s, today {now['cpu']:.1f}: {ratios[-1]:.2f}\n")
        sys.stdout.flush()
    sys.stdout.write(f"median {median(ratios):.2f}\n")


if __name__ == "__main__":
    main()

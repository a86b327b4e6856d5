"""What comes after the scan: CPU seconds and memory of every step at 352,256 neurons, today's beside those of a baseline.

    python examples/benchmark_after.py runs/after --baseline BASE/bin/python    # some ten minutes
    python examples/benchmark_after.py runs/after --growth                      # how today's grow, and the picture of it

BASE is an environment with another version of this package (the tables: commit 83d2710). Each version makes its own run
directory: a scan of a random model of 4 x 11,008 neurons on 120 scenes, and the same state for 32 layers (their neurons in
another order). Every step is a process of its own, the versions one after the other; CPU seconds are those of the process
with all its threads. `--threads 1` (the default) gives both one thread; `--threads 0` as many as torch takes by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LAYERS = 32
STEPS = ("classify", "modality_test", "statistics", "sweep", "sensitivity", "table")
GROWING = ("classify", "modality_test", "sweep", "sensitivity")
STORED = (10, 1_000, 10_000)
KEPT = 20_000  # neurons with evidence, explanation and score, of which one is read


def step(python: str, threads: int, *words: object) -> dict[str, float]:
    """One step by one version."""
    own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | own | {"HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / "after_steps.py"), *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def made(python: str, at: Path, layers: int = LAYERS, samples: int = 120) -> Path:
    """A run of so many layers and samples, made by this version."""
    if not (at / "model").is_dir():
        step(python, 1, "make_model", at / "model")
    if not (at / "small").is_dir():
        step(python, 1, "make_run", at / "small", at / "model")
    run = at / f"run-{layers}-{samples}"
    if not run.is_dir():
        step(python, 1, "make_larger", run, at / "small", layers, samples)
    return run


def line(name: str, *cells: Any) -> None:
    """Print a row of the table."""
    words = [f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells]
    sys.stdout.write(f"| {' | '.join([name, *words])} |\n")
    sys.stdout.flush()


def compare(work: Path, baseline: str, threads: int, only: list[str]) -> None:
    """Today's figures beside the baseline's."""
    sides = {"baseline": baseline, "today": sys.executable}
    runs = {name: made(python, work / name) for name, python in sides.items()}
    state = (runs["today"] / "scan.safetensors").stat().st_size / 2**20
    line("step", "baseline, CPU s", "today, CPU s", "ratio", "baseline, MB", f"today, MB (the state: {state:.0f})")

    def both(name: str, what: str, *words: object) -> None:
        if only and what not in only:
            return
        found = {k: step(python, threads, what, *[w(k) if callable(w) else w for w in words])
                 for k, python in sides.items()}  # fmt: skip
        old, new = found["baseline"], found["today"]
        line(name, old["cpu"], new["cpu"], new["cpu"] / old["cpu"], round(old["mb"]), round(new["mb"]))

    for name in STEPS:
        both(name, name, lambda side: runs[side])
    both("first `HookedVLM` over a model in memory", "start", lambda side: work / side / "model")
    for n in (40, 1_000):
        both(f"evidence of {n:,} neurons", "evidence", lambda s: work / s / "small", lambda s: work / s / "model", n)
    for n in STORED[:2]:  # the baseline would rewrite the most for hours
        both(f"one neuron more beside {n:,}", "stored", lambda side: work / side / "small", n)


def today(work: Path, threads: int) -> None:
    """What the baseline has not, or does by rewriting all."""
    at, python = work / "today", sys.executable
    run = made(python, at)
    line("today", "CPU s", "")
    for n in (40, 1_000):
        found = step(python, threads, "evidence", at / "small", at / "model", n)
        line(f"evidence of {n:,} neurons", found["cpu"], f"{found['ratio']:.2f} of the bare forward pass")
    for n in STORED:
        found = step(python, threads, "stored", at / "small", n)
        line(f"one neuron more beside {n:,}", found["cpu"], f"{found['bytes'] / 1024:.0f} kB written")
        line(f"the evidence of one of {n:,}: opened, read", found["open"], f"{found['read'] * 1000:.1f} ms")
    for name, seconds in step(python, threads, "one_of", at / "one-of", at / "small", KEPT).items():
        line(f"of {KEPT:,} neurons: {name}", f"{seconds * 1000:.1f} ms", "")
    step(python, threads, "make_explained", run, at / "small", 1_000)
    step(python, threads, "classify", run)
    line("report with 1,000 explained neurons", step(python, threads, "report", run)["cpu"], "")
    page = step(python, threads, "opened", run, f"L{LAYERS - 1}N11007")
    line("its page opened in Chromium", f"{page['wall']:.2f} s", f"{page['mb']:.1f} MB of {page['all_mb']:.0f}")
    line("one of the others found", f"{page['found']:.2f} s", f"of {page['others_mb']:.1f} MB told of them")


def growth(work: Path, threads: int, picture: Path) -> None:
    """Today's figures for a quarter, one and four times the neurons, and for more samples."""
    found: dict[str, dict[int, dict[str, float]]] = {"neurons": {}, "samples": {}}
    sizes = {"neurons": [(n * 11_008, n, 120) for n in (8, 32, 128)],
             "samples": [(n, LAYERS, n) for n in (120, 1_000, 23_000)]}  # fmt: skip
    for title, table in found.items():
        line(title, *GROWING)
        for size, layers, samples in sizes[title]:
            run = made(sys.executable, work / "today", layers, samples)
            table[size] = {name: step(sys.executable, threads, name, run)["cpu"] for name in GROWING}
            line(f"{size:,}", *table[size].values())
    draw(found, picture)


def draw(found: dict[str, dict[int, dict[str, float]]], picture: Path) -> None:
    """A panel each of what grows, on one scale: size -> step -> CPU seconds."""
    from matplotlib.figure import Figure

    figure = Figure((8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True)
    for axes, (title, table) in zip(panels, found.items(), strict=True):
        for name in GROWING:
            axes.loglog([*table], [row[name] for row in table.values()], marker="o", label=name)
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("CPU seconds")
    panels[0].legend()
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for the run directories (some GB)")
    parser.add_argument("--baseline", help="python of an environment with another version")
    parser.add_argument("--only", nargs="+", default=[], help="of the steps beside a baseline, such as classify sweep")
    parser.add_argument("--growth", action="store_true", help="instead: how today's figures grow")
    parser.add_argument("--threads", type=int, default=1, help="0: as torch chooses (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=HERE / "pictures/after.png", help="of the growth")
    args = parser.parse_args()
    if args.growth:
        growth(args.work, args.threads, args.picture)
    elif args.baseline:
        compare(args.work, args.baseline, args.threads, args.only)
    else:
        today(args.work, args.threads)


if __name__ == "__main__":
    main()

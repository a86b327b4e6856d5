"""How fast explanations are scored: CPU milliseconds a neuron, beside another version of this package.

    python examples/benchmark_scores.py [--baseline PYTHON] [--rounds 3]

40 neurons of the embedded model (15 visual, 15 text, 10 multi-modal), explained by dissection from 400 scenes, scored with
the concept simulator and everything else as it stands by default. The first call in a process also makes what neurons share
(banks of all samples, draws of the permutations, imports); the third shows what one more neuron costs. `--baseline` is the
Python of an environment with the other version, which does the same; both take turns.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = {"visual": 15, "text": 15, "multimodal": 10}


def measure() -> None:
    """Print CPU milliseconds a neuron of the first and the third call."""
    import vlm_neurons as vn

    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), vn.scenes(400, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        run = vn.scan(model, data, out=folder, batch_size=32, progress=False)
        table = vn.classify(run).sort_values("neuron")
        if hasattr(run, "save"):  # earlier versions kept the table themselves
            run.save(table)
        wanted = [n for label, k in KINDS.items() for n in table.neuron[table.label == label].iloc[::7][:k]]
        evidence = vn.gather_evidence(model, data, run, wanted, progress=False)
        explanations, times = vn.explain(evidence, progress=False), []
        for _ in range(3):
            start = time.process_time()
            vn.score(explanations, evidence, progress=False)
            times.append((time.process_time() - start) / len(evidence) * 1e3)
    print(f"{times[0]:.2f} {times[2]:.2f}")


def run_in(python: str) -> tuple[float, float]:
    """The two numbers of one process."""
    code = inspect.getsource(sys.modules[__name__]).split("def run_in")[0] + "measure()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=environment, cwd=tempfile.gettempdir()
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    first, warm = done.stdout.split()[-2:]
    return float(first), float(warm)


def main() -> None:
    """Both versions in turns, and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--baseline", type=Path, help="Python of an environment with another version")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pythons = {"this version": sys.executable} | ({"baseline": str(args.baseline)} if args.baseline else {})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pythons}
    for _ in range(args.rounds):
        for name, python in pythons.items():
            found[name].append(run_in(python))
            print(
                f"{name}: first call {found[name][-1][0]:.1f}, warm {found[name][-1][1]:.1f} CPU ms a neuron",
                flush=True,
            )
    if args.baseline:
        for place, what in enumerate(("first call", "warm")):
            ratios = [b[place] / a[place] for a, b in zip(found["this version"], found["baseline"], strict=True)]
            print(f"{what}: {statistics.median(ratios):.1f} times as fast ({min(ratios):.1f} - {max(ratios):.1f})")


if __name__ == "__main__":
    main()

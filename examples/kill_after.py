"""Kill what follows a scan (evidence, explain, score) at random moments, call it again, and compare what is stored.

    python examples/kill_after.py --kills 20          # 20 of each; some 10 minutes

Every kill is kill -9 of a process that gathers evidence of 200 neurons of the embedded model, explains or scores them. The
next process goes on with the same directory. What is stored in the end has to be what a process stored that was never
killed: evidence by its digests, explanations word for word, scores number for number.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import vlm_neurons as vn

SAMPLES, NEURONS = 200, 200
STEPS = ("evidence", "explain", "score")


def work(step: str, out: str) -> None:
    """One step, as its own process; says when it begins."""
    torch.set_num_threads(1)
    run, model = vn.Run.load(out), vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    table = vn.classify(run)
    known = table[table.label.isin(["visual", "text", "multimodal"])]
    neurons = known.neuron.tolist()[:: max(1, len(known) // NEURONS)][:NEURONS]
    evidence = None if step == "evidence" else vn.evidence.load(run)
    explanations = (
        dict(zip(*run.explanations()[["neuron", "text"]].to_numpy().T, strict=True)) if step == "score" else {}
    )
    print("begins", flush=True)
    if evidence is None:
        vn.gather_evidence(model, vn.scenes(SAMPLES, seed=1), run, neurons, out=run, progress=False)
    elif step == "explain":
        vn.explain(evidence, out=run, progress=False)
    else:
        vn.score(explanations, evidence, out=run, n_permutations=999, progress=False)


def stored(step: str, out: Path) -> str:
    """A digest of all that a step has stored."""
    run = vn.Run.load(out)
    if step == "evidence":
        evidence = vn.evidence.load(run)
        what = str([(name, evidence[name].digest) for name in sorted(evidence)])
    elif step == "explain":
        table = run.explanations().sort_values("neuron")
        what = table[["neuron", "text", "failure"]].to_csv(index=False)
    else:
        what = run.scores().sort_values(["neuron", "side"]).to_csv(index=False)
    return hashlib.sha256(what.encode(errors="surrogatepass")).hexdigest()


def start(step: str, out: Path) -> subprocess.Popen[str]:
    """The step in a new process, that is about to begin."""
    child = subprocess.Popen([sys.executable, __file__, "--work", step, str(out)], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    return child


def finish(step: str, out: Path) -> float:
    """Run it to its end; how long that took."""
    child, began = start(step, out), time.monotonic()
    if child.wait():
        raise SystemExit(f"{step} in {out} failed")
    return time.monotonic() - began


def main() -> None:
    """Kill, go on, compare; prints one line per step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each step")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)  # what this script starts itself as
    args = parser.parse_args()
    if args.work:
        return work(*args.work)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        model = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
        vn.scan(model, vn.scenes(SAMPLES, seed=1), out=whole, progress=False)
        for step in STEPS:
            before = Path(folder) / f"before {step}"
            shutil.copytree(whole, before)
            longest, killed, rounds = finish(step, whole), 0, 0
            expected = stored(step, whole)
            while killed < args.kills:
                out = Path(folder) / f"{step} {rounds}"
                shutil.copytree(before, out)
                for _ in range(min(4, args.kills - killed)):
                    child = start(step, out)
                    time.sleep(rng.uniform(0.02, 0.95) * longest)
                    child.kill()
                    killed += child.wait() == -signal.SIGKILL
                finish(step, out)
                if stored(step, out) != expected:
                    raise SystemExit(f"{step}: what is stored differs from what was never killed (seed {args.seed})")
                rounds += 1
            print(
                f"{step}: {killed} kills in {rounds} directories, {longest:.1f} s each without; the same is stored",
                flush=True,
            )
    print(f"seed {args.seed}")


if __name__ == "__main__":
    main()

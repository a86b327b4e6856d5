"""Kill a scan at random moments, resume it with another number of processes, and compare with one that was never killed.

    python examples/kill_scan.py --kills 20

Every kill is kill -9 of all processes of a scan of the embedded model. Nothing may be lost or counted twice: the merged
result has to be identical, tensor for tensor.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import torch

import vlm_neurons as vn

SAMPLES, SETTINGS = 96, {"site": ["gate", "projector"], "top_n": 10, "batch_size": 4, "block_size": 8}


def work(out: str) -> None:
    """One process of the scan; says when the model is there."""
    torch.set_num_threads(1)
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(SAMPLES, seed=1)
    print("ready", flush=True)
    vn.scan(model, data, **SETTINGS, out=out, progress=False)


def start(out: str, processes: int) -> list[subprocess.Popen[str]]:
    """The scan as `processes` new processes, all of which have their model loaded."""
    command = [sys.executable, __file__, "--work", out]
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(processes)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    return children


def wait(children: list[subprocess.Popen[str]]) -> list[int]:
    """Exit codes; negative for the killed."""
    return [child.wait() for child in children]


def same(a: vn.Run, b: vn.Run) -> bool:
    """Whether two runs hold the same, bit by bit."""
    tensors = [(c, kind) for c in a.info["columns"] for kind in ("top", "moments")]
    for column, kind in tensors:
        if kind == "moments" and column["indexed_by"] == "image":
            continue
        x, y = (getattr(run, kind)(column["hook"], column["pole"]).tensors() for run in (a, b))
        if not all(torch.equal(x[name], y[name]) for name in x):
            return False
    return a.samples.equals(b.samples) and a.skipped == b.skipped


def kill_and_resume(whole: vn.Run, out: str, kills: int, rng: random.Random, longest: float) -> int:
    """Run until finished, killing `kills` times on the way; returns how often something was there to kill."""
    killed = 0
    for _ in range(kills):
        children = start(out, rng.choice([1, 2]))
        time.sleep(rng.uniform(0.05, 0.8) * longest)
        for child in children:
            child.kill()
        killed += sum(code == -signal.SIGKILL for code in wait(children))
    if any(wait(start(out, rng.choice([1, 2])))):
        raise SystemExit("the resumed scan failed")
    found = vn.Run.load(out)
    if not found.complete or not same(whole, found):
        raise SystemExit(f"{out} differs from the scan that was never killed")
    return killed


def main() -> None:
    """Kill, resume, compare; prints one line per scan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--work", help=argparse.SUPPRESS)  # what this script starts itself as
    args = parser.parse_args()
    if args.work:
        return work(args.work)
    rng, killed, scans = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        children = start(f"{folder}/whole", 1)
        began = time.monotonic()
        wait(children)
        longest = time.monotonic() - began
        whole = vn.Run.load(f"{folder}/whole")
        while killed < args.kills:
            scans += 1
            killed += kill_and_resume(whole, f"{folder}/{scans}", min(3, args.kills - killed), rng, longest)
            print(
                f"{killed} processes killed in {scans} scans; identical to the scan that was never killed", flush=True
            )
    print(f"seed {args.seed}")


if __name__ == "__main__":
    main()

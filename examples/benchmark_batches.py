"""What a scan costs beside the quickest thing that a user would write by hand, and how much memory each takes.

    OMP_NUM_THREADS=1 python examples/benchmark_batches.py                       # both shapes, 200 pictures, three rounds
    OMP_NUM_THREADS=1 python examples/benchmark_batches.py --samples 8 --rounds 1   # every line of it; no measurement

By hand: one forward hook a layer on transformers' model (fused attention, no unembedding), the maximum of every sample
over visual and text tokens, and one torch.topk in the end: no labels, no statistics, nothing on disk, no resuming. All
of it is counted for both, from pictures in memory to the result: CPU seconds of the process. A round runs every variant
once; a ratio is to the quickest by hand of the same round. Responses have 31 to 299 words, pictures 576 visual tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmark_models import Shape, make_model
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.models.fused import inputs_of
from vlm_neurons.tokens import TokenKind

SHAPES = {"4 x 512": Shape(256, 512, 4, 8), "1 x 5,504": Shape(256, 5504, 1, 8)}
WORDS = ["a", "red", "blue", "green", "circle", "square", "two", "of", "the"]
PROMPT = "What is there?"


def pictures(n: int) -> vn.ImageTextData:
    """Random pictures with responses of random words."""
    rng, shuffled = np.random.default_rng(0), random.Random(0)
    return vn.ImageTextData.from_samples(
        [
            {
                "image": Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((336, 336)),
                "response": " ".join(shuffled.choices(WORDS, k=shuffled.randint(31, 299))),
                "name": str(i),
            }
            for i in range(n)
        ]
    )


def by_hand(model: vn.HookedVLM, data: vn.ImageTextData, batch_size: int) -> list[torch.return_types.topk]:
    """The 50 samples with the largest maximum of every neuron."""
    hf, kinds = model._twin.model.model, torch.empty(0)
    best: list[list[torch.Tensor]] = [[] for _ in hf.language_model.layers]

    def look(layer: int) -> Callable[..., None]:
        def keep(module: object, args: object, acts: torch.Tensor) -> None:
            wanted = (kinds == TokenKind.VISUAL) | (kinds == TokenKind.TEXT)
            if len(acts) == 1:  # neighbours: a view
                at = wanted[0].nonzero().flatten()
                best[layer].append(acts[:, int(at[0]) : int(at[-1]) + 1].amax(1))
            else:
                best[layer].append(acts.masked_fill(~wanted[..., None], -torch.inf).amax(1))

        return keep

    handles = [layer.mlp.act_fn.register_forward_hook(look(i)) for i, layer in enumerate(hf.language_model.layers)]
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            samples = [data[i] for i in range(start, min(start + batch_size, len(data)))]
            batch = model.prepare(
                [s.load_images() for s in samples], [PROMPT] * len(samples), [s.response for s in samples]
            )
            kinds = batch.kinds
            hf(**inputs_of(batch), use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(own).topk(min(50, len(data)), dim=0) for own in best]


def scanned(model: vn.HookedVLM, data: vn.ImageTextData, batch_size: int | None) -> int:
    """A whole scan; its batch size."""
    with tempfile.TemporaryDirectory() as out:
        run = vn.scan(model, data, batch_size=batch_size, prompt=PROMPT, out=f"{out}/run", progress=False)
        return int(run.info["parameters"]["batch_size"])


VARIANTS: dict[str, Callable[[vn.HookedVLM, vn.ImageTextData], object]] = {
    "by hand, one at a time": lambda model, data: by_hand(model, data, 1),
    "by hand, 8 at a time": lambda model, data: by_hand(model, data, 8),
    "scan": lambda model, data: scanned(model, data, None),
    "scan, batch_size=8": lambda model, data: scanned(model, data, 8),
}


def peak(shape: str, variant: str, samples: int) -> float:
    """MiB that the process of one variant takes at its highest."""
    command = [sys.executable, __file__, "--samples", str(samples), "--only", shape, variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measured(shape: str, samples: int, rounds: int) -> None:
    """One table."""
    torch.manual_seed(0)
    model, data = make_model(SHAPES[shape], "cpu", torch.float32), pictures(samples)
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    by_hand(model, data, 1)
    for number in range(rounds):
        order = list(VARIANTS)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            began = time.process_time()
            VARIANTS[name](model, data)
            seconds[name].append(time.process_time() - began)
    quickest = [min(times) for times in zip(*(seconds[n] for n in VARIANTS if n.startswith("by")), strict=True)]
    print(f"\n{shape} neurons, {samples} pictures, {rounds} rounds, {torch.get_num_threads()} threads\n")
    print("| | CPU s / quickest by hand | range | CPU s a sample | peak MiB |\n|---|---|---|---|---|")
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, quickest, strict=True)]
        print(
            f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} - {max(ratios):.2f} | "
            f"{statistics.median(own) / samples:.3f} | {peak(shape, name, min(samples, 40)):,.0f} |",
            flush=True,
        )


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)  # what this script starts itself as
    args = parser.parse_args()
    if args.only:
        shape, variant = args.only
        VARIANTS[variant](make_model(SHAPES[shape], "cpu", torch.float32), pictures(args.samples))
        status = Path("/proc/self/status").read_text()  # getrusage would tell the parent's, where that is more
        print(next(int(line.split()[1]) / 2**10 for line in status.splitlines() if line.startswith("VmHWM")))
        return
    for shape in SHAPES:
        measured(shape, args.samples, args.rounds)


if __name__ == "__main__":
    main()

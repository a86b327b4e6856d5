"""What a scan of a sparse dictionary costs beside the forward pass and its encoding, and one of all attention heads.

    OMP_NUM_THREADS=1 python examples/benchmark_dictionaries.py                     # CPU: width 512, 16,384 latents
    python examples/benchmark_dictionaries.py --device cuda --latents 262144        # GPU
    python examples/benchmark_dictionaries.py --memory --latents 262144             # what a state takes; embedded model
    python examples/benchmark_dictionaries.py --shape tiny --latents 512 --rounds 1  # every line of it; no measurement

Every round runs the bare forward pass, the same with the dictionary's `encode` at one hook and nothing else done, and the
scan, one after the other on the same batches; printed are medians and ranges of ratios within rounds. On a CPU it is the
process's own seconds that count, whatever else the machine does. The scan's state lets in as many samples as one of 23,000
does on average, as in `benchmark_scan.py`. With --memory: bytes of the blocks of a scan of 120 scenes, and by how much the
process grows in it, of a dictionary of which 4 % of the latents are not switched off, and about 1 % fire.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmark_models import SHAPES, make_batches, make_model
from benchmark_scan import Bench, timed

import vlm_neurons as vn
from vlm_neurons.models import HookedVLM
from vlm_neurons.sites import SAE, forget, named, register
from vlm_neurons.sites.coder import Coder, Rule


def dictionary(model: HookedVLM, latents: int, rule: Rule, fire: int) -> SAE:
    """A random dictionary of the middle layer of which about `fire` latents fire at a position."""
    hook, d = f"blocks.{model.n_layers // 2}.hook_resid_post", model.cfg.d_model
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(latents, d, generator=generator), dim=1)
    # lengths of the vectors are near sqrt(d) times their spread: quantiles of a normal distribution say what fires
    level = float(torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - fire / latents)))
    zeros = torch.zeros(latents)
    coder = Coder(rows.T.contiguous(), zeros, rows, torch.zeros(d), rule=rule, k=fire if rule == "topk" else None,
                  threshold=zeros + level if rule == "jumprelu" else None, norm="layer_norm")  # fmt: skip
    return register(SAE(coder, hook, "bench", hook))  # type: ignore[return-value]


def seconds(run: Callable[[], object], device: str) -> float:
    """Of one call."""
    if device == "cuda":
        return timed(run, device)
    began = time.process_time()
    run()
    return time.process_time() - began


def measured(bench: Bench, site: SAE, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Of every round, what encoding costs beside the bare forward pass, and the scan beside both."""
    encoding, scanning = [], []
    for _ in range(args.rounds):
        bare = seconds(bench.bare, args.device)
        encoded = seconds(lambda: bench.encode(site), args.device)
        scanned = seconds(lambda: bench.scan(bench.recorder(before=True)), args.device)
        encoding.append(encoded / bare)
        scanning.append(scanned / encoded)
    return encoding, scanning


def memory(latents: int, concepts: bool) -> None:
    """Bytes on disk and in memory of a scan of the embedded model, and seconds of it; with 154 concepts or without."""
    model, data, hook = (
        vn.HookedVLM.from_pretrained("tiny-llava-scenes"),
        vn.scenes(120, seed=0),
        "blocks.2.hook_resid_post",
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(latents, 128, generator=generator), dim=1)
    threshold = torch.full((latents,), 3.0).masked_fill(torch.rand(latents, generator=generator) > 0.04, torch.inf)
    zeros = torch.zeros(latents), torch.zeros(128)
    coder = Coder(rows.T.contiguous(), zeros[0], rows, zeros[1], "jumprelu", threshold, norm="layer_norm")
    site = SAE(coder, hook, "bench", hook)
    model(model.prepare(data[0].images, data[0].prompt or "What is it?"))  # what the code itself takes
    site.read_sparse({hook: torch.randn(8, 128, 128, generator=generator)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as out:
        bank, began = vn.concepts.Pixels() + vn.concepts.Words() if concepts else None, time.process_time()
        run = vn.scan(model, data, site, block_size=40, concepts=bank, null_directions=0, out=out, progress=False)
        took = time.process_time() - began
        state, *sums = (
            f.stat().st_size / 2**20 for f in (run.path / "scan.safetensors", *Path(out).glob("concepts/*"))
        )
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
        fired = int((vn.classify(run).peak > 0).sum())
    print(
        f"{latents:,} latents, {fired:,} fired: a state of {state:,.1f} MiB, {sum(sums):,.1f} MiB of sums of concepts, "
        f"{grown:,.0f} MiB of memory more, {took:.1f} s"
    )


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", choices=SHAPES, help="default: 512 on cpu, llava-7b on cuda")
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--fire", type=int, default=32, help="latents that fire at a position")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--memory", action="store_true", help="bytes of states instead of seconds")
    parser.add_argument("--concepts", action="store_true", help="with --memory: sums of concepts too")
    args = parser.parse_args()
    if args.memory:
        memory(args.latents, args.concepts)
        return
    gpu = args.device == "cuda"
    shape, dtype = SHAPES[args.shape or ("llava-7b" if gpu else "512")], torch.bfloat16 if gpu else torch.float32
    model = make_model(shape, args.device, dtype)
    batches = make_batches(model, 700, 4, args.batches)
    print(f"{shape}, {args.latents:,} latents, about {args.fire} fire, {torch.get_num_threads()} threads\n")
    print("| dictionary | encoding / bare forward | scan / (bare forward and encoding) | range |\n|---|---|---|---|")
    for rule in ("topk", "jumprelu"):
        site = dictionary(model, args.latents, rule, args.fire)
        try:
            encoding, scanning = measured(Bench(model, batches, sites=[site.place(site.layer)]), site, args)
            print(f"| {rule} | {statistics.median(encoding):.3f} | {statistics.median(scanning):.3f} | "
                  f"{min(scanning):.3f} - {max(scanning):.3f} |", flush=True)  # fmt: skip
        finally:
            forget("bench")
    bench = Bench(model, batches, sites=named("heads").places(model.hook_dict))
    found = []
    for _ in range(args.rounds):
        bare = seconds(bench.bare, args.device)
        found.append(seconds(lambda: bench.scan(bench.recorder(before=True)), args.device) / bare)
    print(f"\nscan of all heads / bare forward: {statistics.median(found):.3f} ({min(found):.3f} - {max(found):.3f})")


if __name__ == "__main__":
    main()

"""A scan on a GPU: is it right, what does it cost, and does it run over several processes and devices?

    python examples/benchmark_gpu.py                        # one card: three true shapes, random bfloat16 weights
    python examples/benchmark_gpu.py --tiny --device cpu    # every line of it, in two minutes; no measurement

First what has to be right: labels, and all that is kept, against plain sorting on the CPU of the same activations, which
are taken from the same forward pass. Then the cost beside the bare forward pass (transformers, fused attention, no hooks,
no unembedding), and of what users would write: forward hooks and torch.topk, and nnsight's trace and topk where it is
installed. Then two processes of torchrun on the one card, and a model spread over CPU and GPU.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import benchmark_models
import numpy as np
import torch
from benchmark_families import QWEN_TOWER, WORDS, gemma3, qwen2_5_vl
from benchmark_scan import Bench, matrix_rate, ratios, timed
from gpu_checks import N_TEXT, N_VISUAL, TOP_N, right, spread, two_processes
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.models.fused import inputs_of
from vlm_neurons.scanning.fused import choose

IMAGES = 23_000
GEMMA_4B = (
    {
        "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 1024, "vocab_size": 262_208,
    },
    {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 896,
    },
)  # fmt: skip
QWEN_7B = (
    {
        "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152_064,
    },
    {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
)  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def built(family: str, tiny: bool, device: str, dtype: torch.dtype) -> tuple[vn.HookedVLM, tuple[int, int]]:
    """A model with random weights of a family's true shape, and the size of its pictures."""
    if family == "LLaVA-1.5-7B":
        return benchmark_models.make_model(benchmark_models.SHAPES["tiny" if tiny else "llava-7b"], device, dtype), (
            336,
            336,
        )
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            if family == "Gemma-3-4B":
                text, tower = GEMMA_4B if not tiny else (
                    {**SMALL, "head_dim": 16, "sliding_window": 64},
                    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                     "image_size": 224},
                )  # fmt: skip
                hf, processor, size = gemma3(text, tower, every=2 if tiny else 6)
            else:
                text, tower = QWEN_7B if not tiny else (SMALL, {**QWEN_TOWER, "hidden_size": 32})
                hf, processor, size = qwen2_5_vl(text, tower)
    finally:
        torch.set_default_dtype(torch.float32)
    return vn.HookedVLM(hf, processor), (size if not tiny else (224, 224))


def batches_of(model: vn.HookedVLM, size: tuple[int, int], rows: int, n: int) -> list[Any]:
    """Batches of noise with responses of other lengths."""
    rng, made = np.random.default_rng(0), []
    for _ in range(n):
        noise = rng.integers(0, 256, (rows, 24, 24, 3), dtype=np.uint8)
        said = [" ".join(rng.choice(WORDS, int(rng.integers(20, 100)))) for _ in range(rows)]
        made.append(
            model.prepare([[Image.fromarray(one).resize(size)] for one in noise], ["What is there?"] * rows, said).to(
                model.device
            )
        )
    return made


def hooks_and_topk(bench: Bench) -> None:
    """Forward hooks that keep the maximum of every sample and neuron, and torch.topk over all in the end."""
    best: dict[str, list[torch.Tensor]] = {hook: [] for hook in bench.hooks}
    wanted = torch.empty(0)

    def keep(hook: str, acts: torch.Tensor) -> None:
        best[hook].append(acts.masked_fill(~wanted, -torch.inf).amax(1))

    handles = []
    for hook in bench.hooks:
        module, is_output = bench.model._twin.points[hook]
        handles.append(module.register_forward_hook(lambda m, a, out, h=hook, o=is_output: keep(h, out if o else a[0])))
    with torch.no_grad():
        for batch in bench.batches:
            wanted = (batch.mask("visual") | batch.mask("text"))[..., None]
            bench.body(**inputs_of(batch, bench.model.adapter.causal), use_cache=False)
    for handle in handles:
        handle.remove()
    for own in best.values():
        scores = torch.cat(own)
        scores.topk(min(TOP_N, len(scores)), dim=0)


def nnsight_and_topk(bench: Bench) -> None:
    """The same by nnsight's trace."""
    from nnsight import NNsight

    traced, names = NNsight(bench.body), {id(module): name for name, module in bench.body.named_modules()}
    paths = [names[id(bench.model._twin.points[hook][0])] for hook in bench.hooks]
    best: list[list[torch.Tensor]] = [[] for _ in paths]

    def at(path: str) -> Any:
        found = traced
        for step in path.split("."):
            found = found[int(step)] if step.isdigit() else getattr(found, step)
        return found

    for batch in bench.batches:
        wanted = (batch.mask("visual") | batch.mask("text"))[..., None]
        with torch.no_grad(), traced.trace(**inputs_of(batch, bench.model.adapter.causal), use_cache=False):
            maxima = list().save()
            for path in paths:
                maxima.append(at(path).output.masked_fill(~wanted, -torch.inf).amax(1))
        for own, values in zip(best, maxima, strict=True):
            own.append(values)
    for own in best:
        scores = torch.cat(own)
        scores.topk(min(TOP_N, len(scores)), dim=0)


def costs(name: str, bench: Bench, rounds: int, rate: float) -> None:
    """One batch size of one shape, as rows of the table."""
    model, device = bench.model, bench.model.device.type
    tokens = sum(int(batch.attention_mask.sum()) for batch in bench.batches)
    samples, neurons = bench.rows * len(bench.batches), sum(column.d for column in bench.columns)
    body = model._twin.model.get_submodule(model.adapter.body)
    weights = sum(p.numel() for n, p in body.named_parameters() if "language_model.layers" in n)
    variants: dict[str, Callable[[], object]] = {"scan": lambda: bench.scan(bench.recorder())}
    fused = None
    if bench.rows > 1:
        fused = choose(
            True if device == "cpu" else None, bench.columns, bench.batches[0].kinds, N_VISUAL, N_TEXT, print
        )
    if fused is not None:
        variants["scan, compiled summaries"] = lambda: bench.scan(bench.recorder(fused=fused))
    variants["forward hooks + torch.topk"] = lambda: hooks_and_topk(bench)
    if find_spec("nnsight"):
        variants["nnsight + torch.topk"] = lambda: nnsight_and_topk(bench)
    for run in variants.values():  # what is compiled and allocated once
        run()
    bare = min(timed(bench.bare, device) for _ in range(3))
    found = ratios(bench, variants, rounds, device)
    share = 2 * weights * tokens / bare / rate
    print(f"| {name}, {bench.rows} | bare forward | {tokens / bare:,.0f} tokens/s | {share:.0%} of the matrix rate | | "
          f"{bare / samples * IMAGES / 3600:.2f} | {highest(bench.bare, device)} |", flush=True)  # fmt: skip
    for variant, values in found.items():
        ratio = statistics.median(values)
        print(f"| {name}, {bench.rows} | {variant} | {ratio:.3f} | {min(values):.3f} - {max(values):.3f} | "
              f"{neurons * tokens / (bare * ratio) / 1e9:,.1f} | {bare * ratio / samples * IMAGES / 3600:.2f} | "
              f"{highest(variants[variant], device)} |", flush=True)  # fmt: skip


def highest(run: Callable[[], object], device: str) -> str:
    """GiB of the card at the highest while it runs."""
    if device != "cuda":
        return "-"
    torch.cuda.reset_peak_memory_stats()
    run()
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--tiny", action="store_true", help="small shapes: does it run?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--only", nargs="*", choices=["LLaVA-1.5-7B", "Gemma-3-4B", "Qwen2.5-VL-7B"])
    args = parser.parse_args()
    families = args.only or ["LLaVA-1.5-7B", "Gemma-3-4B", "Qwen2.5-VL-7B"]
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}{', small shapes: no measurement' if args.tiny else ''}\n")
    print(
        "| shape, dtype, batch | summaries | labels that differ | neurons with other ids or values | of |\n"
        + 5 * "|---"
        + "|"
    )
    for family in families:
        for dtype in (torch.bfloat16, torch.float32):
            model, size = built(family, args.tiny, args.device, dtype)
            for rows in (1, 8):
                bench = Bench(model, batches_of(model, size, rows, 2))
                for compiled in (False, True)[: 1 + (rows > 1)]:
                    labels, values, n = right(bench, compiled)
                    kind = "compiled" if compiled else "plain"
                    print(f"| {family}, {str(dtype)[6:]}, {rows} | {kind} | {labels} | {values} | {n:,} |", flush=True)
            del model, bench
            gc.collect()
            torch.cuda.empty_cache()
    print("\ntwo processes of torchrun on one card, beside one process:", two_processes(args.device))
    print("a model spread over CPU and card:", spread(args.device))
    rate = matrix_rate(args.device, torch.bfloat16)
    print(f"\nmatrix rate {rate / 1e12:.1f} TFLOP/s; nnsight is {'' if find_spec('nnsight') else 'not '}installed\n")
    print(
        "| shape, batch | | time / bare forward | range | 1e9 values/s | hours for 23,000 images | GiB |\n"
        + 7 * "|---"
        + "|"
    )
    for family in families:
        model, size = built(family, args.tiny, args.device, torch.bfloat16)
        for rows in args.batch_sizes:
            try:
                costs(family, Bench(model, batches_of(model, size, rows, max(1, 16 // rows))), args.rounds, rate)
            except torch.OutOfMemoryError:
                print(f"| {family}, {rows} | out of memory | | | | | |", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
        del model


if __name__ == "__main__":
    main()

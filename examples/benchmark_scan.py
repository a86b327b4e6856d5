"""What a scan costs beside the forward pass, and beside what one would otherwise write.

    OMP_NUM_THREADS=1 python examples/benchmark_scan.py                    # CPU: LLaMA shape, width 512, 700 tokens
    OMP_NUM_THREADS=1 python examples/benchmark_scan.py --concepts         # what concepts cost beside a scan
    python examples/benchmark_scan.py --device cuda                        # GPU: LLaVA-1.5-7B's shape, random bf16 weights
    python examples/benchmark_scan.py --shape tiny --compiled --rounds 2   # every line of it, in a minute; no measurement

Everything is measured on the same batches in the same process: a round runs every variant once, one after the other, and
gives one ratio to the bare forward pass of that round. Printed are the median ratio and its range over rounds. The bare
forward pass is the best that a user could run: transformers, fused attention, no hooks, no unembedding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from benchmark_models import SHAPES, Shape, make_batches, make_model
from concept_costs import all_costs

from vlm_neurons.models import Batch, HookedVLM
from vlm_neurons.models.adapters import module_at
from vlm_neurons.models.fused import inputs_of
from vlm_neurons.scanning.fired import Fired
from vlm_neurons.scanning.fused import Fused, choose
from vlm_neurons.scanning.planning import state_bytes
from vlm_neurons.scanning.recorder import Recorder, measure_columns
from vlm_neurons.sites import SAE
from vlm_neurons.tokens import TokenKind

RESIDUAL = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")
ENTER = 1.6  # % of samples that enter a neuron's top 50, on average over 23,000: (50 ln(23,000 / 50) + 50) / 23,000


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    wait = torch.cuda.synchronize if device == "cuda" else bool
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


def ignore(tensor: torch.Tensor) -> None:
    """See it and keep nothing."""


@dataclass
class Bench:
    """A model, batches, and the ways of running them."""

    model: HookedVLM
    batches: list[Batch]
    top_n: int = 50
    sites: Sequence[str] = ()  # places; none: neurons of site gate

    def __post_init__(self) -> None:
        self.body = module_at(self.model._twin.model, self.model.adapter.body)
        self.hooks = list(self.sites) or self.model.site_hooks("gate")
        self.columns = measure_columns(self.model, self.hooks, self.batches[0], fast=True)
        self.rows = len(self.batches[0])
        self.full = self.recorder()
        self.scan(self.full)  # the state after all batches, to start from
        # Of n samples as many have to get in as of 23,000: the floor is a neuron's best or second best sample.
        n, generator = self.rows * len(self.batches), torch.Generator().manual_seed(0)
        self.before = {}
        for column, kept in self.full.kept[0].items():
            state = kept.part if isinstance(kept, Fired) else kept
            expected = torch.full((len(state.sample_ids),), n * ENTER / 100)
            place = (expected.floor() + torch.bernoulli(expected % 1, generator=generator)).long().to(self.model.device)
            floor = state.empty_like()
            for name in ("sample_ids", "visual", "text"):
                values = getattr(state, name)
                at = values[torch.arange(len(values), device=values.device), place.clamp(max=min(n, self.top_n) - 1)]
                getattr(floor, name).copy_(at[:, None].expand_as(values))
            self.before[column] = Fired(kept.d, kept.units, floor) if isinstance(kept, Fired) else floor

    def recorder(self, before: bool = False, fused: Fused | None = None) -> Recorder:
        """An empty state; with `before`, one that lets in as many samples as a scan of 23,000 does on average."""
        return Recorder(self.model, self.columns, self.top_n, 4, 2, True, self.before if before else None, fused)

    def bare(self) -> None:
        """The forward pass alone."""
        with torch.no_grad():
            for batch in self.batches:
                self.body(**inputs_of(batch, self.model.adapter.causal), use_cache=False)

    def encode(self, site: SAE) -> None:
        """The forward pass, and a dictionary's encoding of what its hook holds."""
        for batch in self.batches:
            self.model.observe(batch, {site.hook: lambda held: site.codes.encode(held.float())}, fast=True)

    def scan(self, recorder: Recorder) -> None:
        """What `vlm_neurons.scan` does with batches that are loaded."""
        for number, batch in enumerate(self.batches):
            ids = range(number * self.rows, (number + 1) * self.rows)
            recorder.see(batch, ids, [str(i) for i in ids])

    def bridge(self) -> None:
        """The bridge, without hooks or unembedding."""
        for batch in self.batches:
            self.model.observe(batch, {})

    def residual(self, fast: bool) -> None:
        """A scan of every coordinate of the residual stream and of what is added to it, both poles."""
        hooks = [f"blocks.{i}.{hook}" for i in range(self.model.n_layers) for hook in RESIDUAL]
        columns = measure_columns(self.model, hooks, self.batches[0], fast)
        recorder = Recorder(self.model, columns, 10, 4, 2, fast)
        for number, batch in enumerate(self.batches):
            recorder.see(batch, range(number * self.rows, (number + 1) * self.rows), [""] * self.rows)

    def looked_at(self, fast: bool) -> None:
        """The hooks of the residual stream, and nothing done with them."""
        hooks = [f"blocks.{i}.{hook}" for i in range(self.model.n_layers) for hook in RESIDUAL]
        for batch in self.batches:
            self.model.observe(batch, dict.fromkeys(hooks, ignore), fast=fast)

    def cache_and_topk(self) -> None:
        """`run_with_cache`, the maxima of every sample, and torch.topk over what was best so far."""
        best: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for number, batch in enumerate(self.batches):
            with torch.no_grad():
                _, cache = self.model.run_with_cache(batch, names_filter=self.hooks)
            ids = torch.arange(self.rows) + number * self.rows
            for hook in self.hooks:
                tokens = (batch.mask("visual") | batch.mask("text"))[..., None]
                score = cache[hook].masked_fill(~tokens, -torch.inf).amax(1).cpu()
                scores, who = best.get(hook, (score[:0], torch.zeros(0, score.shape[1], dtype=torch.long)))
                scores = torch.cat([scores, score])
                who = torch.cat([who, ids[:, None].expand_as(score)])
                top = scores.topk(min(self.top_n, len(scores)), dim=0)
                best[hook] = top.values, who.gather(0, top.indices)

    def two_pass(self) -> int:
        """Maxima first; then the data again, keeping the raw tokens of every neuron's top samples. Returns bytes kept."""
        scores: dict[str, list[torch.Tensor]] = {hook: [] for hook in self.hooks}

        def first(hook: str, batch: Batch) -> Callable[[torch.Tensor], None]:
            mask = ((batch.kinds == TokenKind.VISUAL) | (batch.kinds == TokenKind.TEXT))[..., None]
            return lambda acts: scores[hook].append(acts.masked_fill(~mask, -torch.inf).amax(1).cpu())

        for batch in self.batches:
            self.model.observe(batch, {h: first(h, batch) for h in self.hooks}, fast=True)
        tops = {h: torch.cat(s).topk(min(self.top_n, len(torch.cat(s))), dim=0).indices for h, s in scores.items()}
        kept: list[torch.Tensor] = []

        def second(hook: str, start: int) -> Callable[[torch.Tensor], None]:
            def keep(acts: torch.Tensor) -> None:
                for row in range(acts.shape[0]):
                    neurons = (tops[hook] == start + row).any(0).nonzero().flatten()
                    kept.append(acts[row].index_select(1, neurons.to(acts.device)).cpu())

            return keep

        for number, batch in enumerate(self.batches):
            self.model.observe(batch, {h: second(h, number * self.rows) for h in self.hooks}, fast=True)
        return sum(k.nbytes for k in kept)


def ratios(bench: Bench, variants: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Times of every variant over the bare forward pass of the same round; the order turns from round to round."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    bench.bare()
    bare = timed(bench.bare, device)
    for number in range(rounds):
        order = list(variants)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            # between two bare passes of its own: a machine's speed drifts
            seconds, before = timed(variants[name], device), bare
            bare = timed(bench.bare, device)
            found[name].append(2 * seconds / (before + bare))
    return found


def line(name: str, values: Sequence[float], note: str = "") -> None:
    """One row of the table."""
    print(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} - {max(values):.3f} | {note} |", flush=True)


def compare(bench: Bench, rounds: int, device: str, compiled: bool) -> None:
    """The main table. A GPU looks at every sample in the same way: the first ones cost as much as later ones."""
    state = state_bytes(bench.columns, bench.top_n, 4, 2)
    neurons = sum(c.d for c in bench.columns)
    average = "scan" if device == "cuda" else "scan, as on average over 23,000 samples"
    variants: dict[str, Callable[[], object]] = {average: lambda: bench.scan(bench.recorder(before=True))}
    if device == "cpu":
        variants["scan, its first samples (every one enters)"] = lambda: bench.scan(bench.recorder())
    fused = choose(compiled or None, bench.columns, bench.batches[0].kinds, 4, 2, lambda text: print(f"{text}\n"))
    if fused is not None:
        variants["scan, compiled summaries"] = lambda: bench.scan(bench.recorder(fused=fused))
        bench.scan(bench.recorder(fused=fused))  # compiles what is left
    notes = {average: f"{state / neurons:.0f} bytes a neuron, moments included"}
    print("| | time / bare forward | range | |\n|---|---|---|---|")
    for name, values in ratios(bench, variants, rounds, device).items():
        line(name, values, notes.get(name, ""))
    two = "two passes, storing tokens of the top samples"
    variants = {
        "the bridge, nothing kept": bench.bridge,
        "run_with_cache + torch.topk (maxima only)": bench.cache_and_topk,
    }
    variants["five hooks of the residual stream a layer, looked at"] = lambda: bench.looked_at(True)
    variants["the same on the bridge"] = lambda: bench.looked_at(False)
    variants["scan of these 20 hooks, both poles, N 10, its first samples"] = lambda: bench.residual(True)
    variants["the same scan on the bridge"] = lambda: bench.residual(False)
    variants[two] = bench.two_pass
    notes[two] = f"{bench.two_pass() / neurons:,.0f} bytes a neuron"
    for name, values in ratios(bench, variants, max(2, rounds // 2), device).items():
        line(name, values, notes.get(name, ""))


def growth(shape: Shape, device: str, dtype: torch.dtype, rounds: int) -> None:
    """How the overhead grows: one thing changed at a time. For samples the state is empty at first and carried on."""
    base = shape._replace(layers=2)
    cases = {
        f"base: {base.d_mlp:,} neurons a layer, 700 tokens, N 50": (base, 700, 50, 4, True),
        "twice the neurons": (base._replace(d_mlp=2 * base.d_mlp), 700, 50, 4, True),
        "1,000 tokens": (base, 1000, 50, 4, True),
        "N 10": (base, 700, 10, 4, True),
        "N 200": (base, 700, 200, 4, True),
    } | {f"N 10, the first {n} batches, from an empty state": (base, 700, 10, n, False) for n in (4, 8, 16)}
    print("\n| scan, as on average over 23,000 samples | time / bare forward | range | |\n|---|---|---|---|")
    for name, (one, tokens, top_n, n, before) in cases.items():
        model = make_model(one, device, dtype)
        bench = Bench(model, make_batches(model, tokens, 4, n), top_n)
        found = ratios(bench, {name: lambda b=bench, old=before: b.scan(b.recorder(old))}, rounds, device)
        line(name, found[name])


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Multiply-adds times two per second of a large matrix product."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = min(timed(lambda: a @ a, device) for _ in range(10))
    return 2 * size**3 / best


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4, help="a GPU has little to do in 4: try 8 and 16 there")
    parser.add_argument("--shape", choices=SHAPES, help="default: 512 on cpu, llava-7b on cuda")
    parser.add_argument("--compiled", action="store_true", help="compiled summaries on a CPU too")
    parser.add_argument("--growth", action="store_true", help="also how the overhead grows (two layers)")
    parser.add_argument("--concepts", action="store_true", help="instead: what concepts of all neurons cost; on a CPU")
    parser.add_argument("--baseline", help="with --concepts: a Python with the version that they are compared with")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    shape, dtype = SHAPES[args.shape or ("llava-7b" if gpu else "512")], torch.bfloat16 if gpu else torch.float32
    model = make_model(shape, args.device, dtype)
    bench = Bench(model, make_batches(model, 700, args.batch_size, args.batches))
    if args.concepts:
        all_costs(bench, args.rounds, args.baseline, small=args.shape == "tiny")
        return
    tokens = bench.batches[0].input_ids.shape[1]
    print(
        f"{shape}, {str(dtype).removeprefix('torch.')}, {args.batches} batches of {args.batch_size} x {tokens} tokens,"
    )
    print(f"{torch.get_num_threads()} threads, {args.rounds} rounds\n")
    weights = sum(p.numel() for n, p in model._twin.model.model.language_model.named_parameters() if "embed" not in n)
    flops = 2 * weights * tokens * args.batch_size * args.batches
    seconds = min(timed(bench.bare, args.device) for _ in range(2))
    rate = matrix_rate(args.device, dtype)
    print(
        f"bare forward: {seconds / args.batches / args.batch_size:.4f} s a sample, {flops / seconds / 1e12:.3f} TFLOP/s"
    )
    print(f"in the backbone's matrices, {flops / seconds / rate:.0%} of the measured {rate / 1e12:.3f} TFLOP/s\n")
    compare(bench, args.rounds, args.device, args.compiled)
    if args.growth:
        growth(shape, args.device, dtype, args.rounds)


if __name__ == "__main__":
    main()

"""Scorers are judged before neurons are: planted neurons, synthetic intervals, failing replies.

    python examples/trust.py judge [--n 30] [--seed 0]      # simulators x scores on planted neurons
    python examples/trust.py baselines [--n 30]             # what the true explanation gets, against baselines
    python examples/trust.py coverage [--n 300]             # of the 95 % interval, on synthetic neurons with a known r
    python examples/trust.py failures [--n 30]              # a fifth of the replies lost: dropped, and as zeros
    python examples/trust.py rare [--n 12]                  # which scores see too broad and too narrow, by frequency
    python examples/trust.py nulls [--n 5000]               # how often p is small where a simulation knows nothing
    python examples/trust.py sums [--n 60] [--model M]      # explanations of several weighted concepts against one
    python examples/trust.py circularity [--n 10] [--api-model M]       # explainers x simulators of different families
    python examples/trust.py trained [--n 60] [--model M] [--out DIR]   # which tell a trained model from random gates

judge: every planted neuron has a true explanation, a near miss, one too broad, one too narrow, a wrong one and the empty
one. A number is the AUROC of the score: the chance that a true explanation of one neuron scores above a false one of
another, with a 95 % interval (bootstrap over neurons). An explanation without a score (a constant or failed simulation)
counts as no association. The neurons, the banks and the world are all ours: this judges scores, not explanations of
neurons in the wild.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import circularity
import null_rates
import numpy as np
import rare_concepts
import weighted_sums
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import vlm_neurons as vn
from vlm_neurons import planted, stats
from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.jobs import sides_for
from vlm_neurons.autointerp.protocols import Prediction, Simulator
from vlm_neurons.autointerp.sampling import drawn
from vlm_neurons.autointerp.scorers import Piece, measures, pieces_of
from vlm_neurons.autointerp.simulators import BASELINES, ConceptSimulator, Oracle
from vlm_neurons.evidence import Exemplar

GROUPS = {
    "visual": ("color", "shape", "size", "position", "conjunction", "polysemantic"),
    "text": ("word", "word_class", "context"),
    "multi-modal": ("picture_or_word", "picture_and_word"),
}
PIXELS = ("color", "position", "picture_or_word")  # what the pixels alone can tell
DEFAULTS = {
    "judge": 30,
    "baselines": 30,
    "coverage": 300,
    "failures": 30,
    "rare": 12,
    "nulls": 5000,
    "sums": 60,
    "circularity": 10,
    "trained": 60,
}  # neurons of each kind, or draws
FALSE = ("near_miss", "too_broad", "too_narrow", "wrong", "empty")
SCORES = {"r": (measures.weighted, 0.0), "r_top_random": (measures.pooled, 0.0), "r_within": (measures.within, 0.0), "r_between": (measures.between, 0.0),
          "spearman": (measures.spearman, 0.0), "auroc": (measures.auroc, 0.5), "iou": (measures.iou, 0.0),
          "detection": (measures.detection, 0.5)}  # fmt: skip


def made(group: str, n: int, seed: int) -> list[planted.Planted]:
    """Planted neurons of a group, those whose rule is in a bank."""
    return planted.neurons(GROUPS[group], n=n, seed=seed)


def pieces(
    p: planted.Planted, explanation: str, simulator: Simulator, lost: Sequence[bool] | None = None
) -> list[Piece]:
    """Pieces of a neuron's test exemplars, of all of its sides; without those that were lost."""
    evidence = drawn({p.evidence.neuron: explanation}, {p.evidence.neuron: p.evidence}, None)[p.evidence.neuron]
    own, exemplars, found = simulator.for_neuron(p.evidence), evidence.split("test"), []
    none = Prediction(failure=Failure("network", "lost"))
    for side in sides_for(p.evidence, own):
        guesses = own.simulate(explanation, exemplars, side)
        if lost is not None:
            guesses = [none if x else g for x, g in zip(lost, guesses, strict=True)]
        found += pieces_of(evidence, exemplars, guesses, side)
    return found


def judge(n: int, seed: int) -> None:
    """Simulators x scores: do true explanations score above false ones?"""
    table = Table("simulator", "neurons", "score", *(f.replace("_", " ") for f in FALSE), "no score: true / false")
    pixels = ConceptSimulator(truth=False, name="pixels only")
    cases = [(group, made(group, n, seed), ConceptSimulator()) for group in GROUPS]
    cases += [(kind, planted.neurons(kind, n=n, seed=seed), pixels) for kind in PIXELS]
    for group, neurons, simulator in cases:
        found = _all_scores(neurons, simulator)
        for score, (_, none) in SCORES.items():
            rng = np.random.default_rng(seed)
            cells = [_auroc(found[score, "true"], found[score, f], none, rng) for f in FALSE]
            missing = [int(np.isnan(found[score, k]).sum()) for k in ("true", *FALSE)]
            table.add_row(simulator.name, f"{group}, {len(neurons)}", score, *cells,
                          f"{missing[0]} / {sum(missing[1:])}")  # fmt: skip
    Console(width=150).print(table)


def _all_scores(neurons: Sequence[planted.Planted], simulator: Simulator) -> dict[tuple[str, str], np.ndarray]:
    found: dict[tuple[str, str], list[float]] = {}
    for p in tqdm(neurons, desc=simulator.name):
        for kind in ("true", *FALSE):
            there = pieces(p, p.rule.explanations.get(kind, ""), simulator)
            for score, (measure, _) in SCORES.items():
                those = there if score == "r" else [piece for piece in there if not piece.extra]
                found.setdefault((score, kind), []).append(measure(those))
    return {key: np.array(values, float) for key, values in found.items()}


def _auroc(true: np.ndarray, false: np.ndarray, none: float, rng: np.random.Generator) -> str:
    """AUROC and its interval; neurons are drawn, with both of their explanations."""
    a, b = np.nan_to_num(true, nan=none), np.nan_to_num(false, nan=none)

    def one(order: np.ndarray) -> float:
        x, y = a[order], b[order]
        return stats.auroc(np.concatenate([x, y]), np.arange(2 * len(x)) < len(x))

    drawn = [one(rng.integers(len(a), size=len(a))) for _ in range(300)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{one(np.arange(len(a))):.2f} ({low:.2f}-{high:.2f})"


def baselines(n: int, seed: int) -> None:
    """Median r and r_within of the true explanation, and of what does not read it."""
    names = ["concepts", "concepts, pixels only", *BASELINES, "oracle"]
    table = Table("neurons", *names)
    for group in GROUPS:
        neurons = made(group, n, seed)
        simulators = [ConceptSimulator(), ConceptSimulator(truth=False), *(c() for c in BASELINES.values()),
                      Oracle.of_planted(neurons)]  # fmt: skip
        cells = []
        for simulator in tqdm(simulators, desc=group):
            every = [pieces(p, p.rule.explanations["true"], simulator) for p in neurons]
            r, w = ([f(x) for x in every] for f in (measures.weighted, measures.within))
            scored = np.isfinite(r).sum()
            cells.append(f"{np.nanmedian(r):.2f} / {np.nanmedian(w):.2f}" if np.isfinite(w).any() else
                         f"{np.nanmedian(r):.2f} / -" if scored else "-")  # fmt: skip
            cells[-1] += f" ({scored} of {len(r)})" if scored < len(r) else ""
        table.add_row(f"{group}, {len(neurons)}", *cells)
    Console(width=170).print("median r / median r within images", table)


def population(share: float, heavy: bool, skill: float, rng: np.random.Generator, n: int = 4000) -> vn.Evidence:
    """A neuron of texts of 64 words, in a share of which it is active for 4 to 16 words; in a share `skill` of these the
    word 'dog' is where it is active, in others elsewhere."""
    texts, values = [], []
    for active in rng.random(n) < share:
        said, acts = [" cat"] * 64, rng.lognormal(-1.5, 1.0, 64) if heavy else rng.uniform(0, 1.5, 64)
        length, start = int(rng.integers(4, 17)), int(rng.integers(48))
        if active:
            acts[start : start + length] += 5 * (rng.lognormal(0, 1.0) if heavy else 0.3 + 0.7 * rng.beta(2, 2))
        if active or rng.random() < share * (1 - skill):
            start = start if active and rng.random() < skill else int(rng.integers(48))
            said[start : start + length] = [" dog"] * length
        texts.append(said)
        values.append(acts)
    return vn.Evidence.from_arrays("dog", tokens=texts, token_acts=values, label="text", n_top=50)


def coverage(n: int, seed: int) -> None:
    """How often the 95 % interval of `vn.score` holds the r of all samples."""
    table = Table("activations", "share", "samples tested", "coverage, %", "median width")
    for heavy, share in ((False, 0.2), (False, 0.02), (True, 0.2), (True, 0.02)):
        rng = np.random.default_rng([seed, heavy, int(100 * share)])
        made = [population(share, heavy, skill, rng) for skill in (0.2, 0.5, 0.8)]
        tops = [tuple(e for e in one.exemplars if e.group == "top") for one in made]
        true = [_whole_r(replace(one, exemplars=top), one.pool) for one, top in zip(made, tops, strict=True)]
        for tested in (60, 100):
            found = []
            for i in tqdm(range(n), desc=f"{tested} samples, share {share}"):
                one, top, r = made[i % 3], tops[i % 3], true[i % 3]
                order = rng.permutation(len(one.pool))
                again = replace(one, exemplars=top, pool=tuple(one.pool[k] for k in order), seed=i,
                                n_samples=len(top) + len(order))  # fmt: skip
                row = vn.score({"dog": "the word 'dog'"}, {"dog": again}, n_null=0, n_permutations=999, n_test=tested,
                               progress=False).iloc[0]  # fmt: skip
                found.append((row.r_low <= r <= row.r_high, row.r_high - row.r_low))
            inside, width = np.array(found, float).T
            kind = f"{'heavy-tailed' if heavy else 'bounded'} (r {', '.join(f'{r:.2f}' for r in true)})"
            table.add_row(kind, f"{share}", f"{tested}", f"{100 * inside.mean():.1f}", f"{np.median(width):.2f}")
    Console(width=120).print(table)


def _whole_r(evidence: vn.Evidence, rest: Sequence[Exemplar]) -> float:
    every = (*evidence.exemplars, *rest)
    guesses = ConceptSimulator().simulate("the word 'dog'", every, "text")
    return measures.pooled(pieces_of(evidence, every, guesses, "text"))


def failures(n: int, seed: int) -> None:
    """A fifth of the simulations lost: r of the rest against r of all, and against zeros in their place."""
    rng = np.random.default_rng(seed)
    inside, dropped, zeros, whole = 0, [], [], []
    neurons = [p for group in GROUPS for p in made(group, max(1, n // 3), seed)]
    for p in tqdm(neurons):
        true, simulator = p.rule.explanations["true"], ConceptSimulator()
        lost = rng.random(len(p.evidence.split("test"))) < 0.2
        part, every = pieces(p, true, simulator, lost.tolist()), pieces(p, true, simulator)
        as_zero = [replace(x, simulated=x.simulated * (not lost[x.exemplar])) for x in every]
        low, high = measures.interval(every, seed)
        inside += low <= measures.weighted(part) <= high
        for values, those in ((whole, every), (dropped, part), (zeros, as_zero)):
            values.append(measures.weighted(those))
    Console().print(f"median r: all {np.median(whole):.3f}, a fifth dropped {np.median(dropped):.3f}, as zeros "
                    f"{np.median(zeros):.3f}; dropped stays inside the interval for {inside} of {len(neurons)}")  # fmt: skip


def rare(n: int, seed: int) -> None:
    """Missing and extra labels, by frequency of the concept: all samples kept, and the 500 of `vn.gather_evidence`."""
    rare_concepts.judge(n, seed)
    rare_concepts.judge(n, seed, (0.02, 0.01, 0.005), pool=500)


def trained(n: int, seed: int, name: str, out: Path) -> None:
    """AUROC of every score and statistic of the pass, the model's own gates against three draws of random ones."""
    model, data = vn.HookedVLM.from_pretrained(name), vn.scenes(1000, seed=seed + 107)
    bank = vn.concepts.Pixels() + vn.concepts.Truth() + vn.concepts.Words()
    run = vn.scan(model, data, batch_size=32, concepts=bank, out=out)
    found = vn.trust(model, data, run, bank, n=n, draws=3, seed=seed, out=run)
    table = Table("", "statistic", *(f"{label}: AUROC, above 95 % of random" for label in found["label"].unique()))
    for (source, statistic), rows in found.groupby(["source", "statistic"], sort=False):
        numbers = [f"{r.auroc:.2f} ({r.low:.2f}-{r.high:.2f}), {100 * r.above:.0f} %" for r in rows.itertuples()]
        table.add_row(str(source), str(statistic), *numbers)
    console = Console(width=160)
    console.print(table)
    sizes = found.groupby(["source", "label"], sort=False)[["n", "n_random"]].first()
    console.print(sizes.to_string())


def at_least_one(text: str) -> int:
    """A number of neurons from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 on")
    return int(text)


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=list(DEFAULTS))
    parser.add_argument(
        "--n",
        type=at_least_one,
        help="neurons of each kind (default: 30; coverage: 300; rare: 12; nulls: 5000; circularity: 10; sums, trained: 60)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tiny-llava-scenes", help="of sums and trained")
    parser.add_argument("--api-model", default="", help="of circularity: such as gpt-4o (needs OPENAI_API_KEY)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/trust"), help="of trained: the run, which can be resumed"
    )
    args = parser.parse_args()
    functions = {"judge": judge, "baselines": baselines, "coverage": coverage, "failures": failures, "rare": rare,
                 "nulls": null_rates.judge, "sums": partial(weighted_sums.judge, name=args.model),
                 "circularity": partial(circularity.judge, api_model=args.api_model),
                 "trained": partial(trained, name=args.model, out=args.out)}  # fmt: skip
    functions[args.what](args.n or DEFAULTS[args.what], args.seed)


if __name__ == "__main__":
    main()

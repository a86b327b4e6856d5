"""What may be concluded from the concepts of one pass, measured: intervals, too broad concepts, training, precision.

    python examples/one_pass_validity.py runs/validity                    # everything
    python examples/one_pass_validity.py runs/validity --only broad       # or coverage, trained, operands
    python examples/one_pass_validity.py runs/seed-1 --only trained --model examples/tiny_llava/seed-1

Scans are kept in the folder, and not made again: a call that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from causes import markdown
from operands import operands
from safetensors.torch import load_file
from scipy.stats import t as student
from tqdm import tqdm
from trained_or_random import SCENES, banks, scans, trained

import vlm_neurons as vn
from vlm_neurons.protocols import SIDES
from vlm_neurons.scanning.concept_moments import FoldSums, best
from vlm_neurons.scanning.concept_sums import UnitSums

FOLDS = 8
EXPLANATIONS = ("true", "half of it", "2x too broad", "4x too broad")
FREQUENCIES = {0.2: 2500, 0.05: 2500, 0.02: 2500, 0.01: 4000, 0.005: 8000}  # share of images: images of a draw
UNITS = {"noise .05": (0.05, False), "noise .2": (0.2, False), "noise .2, heavy-tailed": (0.2, True),
         "noise 1, heavy-tailed": (1.0, True)}  # fmt: skip
DRAWS = {400: 8, 2000: 2}  # scenes: draws of so many
TRUTH = 8_000  # scenes


def broad(model: vn.HookedVLM | None, out: Path, args: Any) -> str:
    """Does a true concept have a larger r than one with half of its images, twice, or four times as many?"""
    rows = []
    with tqdm(total=args.draws * len(FREQUENCIES), desc="too broad", disable=None) as bar:
        for frequency, images in FREQUENCIES.items():
            file, rng = out / f"broad-{frequency}-{args.draws}.json", np.random.default_rng(int(1e4 * frequency))
            if not file.exists():
                drawn = []
                for _ in range(args.draws):
                    drawn.append(one_draw(frequency, images, rng))
                    bar.update()
                file.write_text(json.dumps([x for x in drawn if x]))
            drawn = json.loads(file.read_text())
            for i, unit in enumerate(UNITS):
                r = np.array([x["r"][i] for x in drawn])  # draw, explanation
                above = [f"{100 * (r[:, 0] > r[:, k]).mean():.0f}" for k in range(1, len(EXPLANATIONS))]
                chosen = [100 * np.mean([x[key][i] for x in drawn]) for key in ("chosen", "both")]
                rows.append([frequency, f"{images:,}", len(r), unit, f"{r[:, 0].mean():.2f}", *above,
                             *(f"{c:.0f}" for c in chosen)])  # fmt: skip
    names = ["images with it", "images", "draws", "unit", "mean r, true", *(f"true > {e}, %" for e in EXPLANATIONS[1:]),
             "chosen over all data, %", "chosen in both halves, %"]  # fmt: skip
    return markdown(pd.DataFrame(rows, columns=names))


def one_draw(frequency: float, images: int, rng: np.random.Generator) -> dict[str, Any] | None:
    """r of some units with four explanations of them, from sums by fold; None where fewer than 20 images have the
    concept. A concept covers a block of patches of 6 x 6; the unit has its share times the image's strength, and noise."""
    there = rng.random(images) < frequency
    if there.sum() < 20:
        return None
    blocks = np.where(there[:, None, None], patches(images, rng), 0)
    others = rng.permutation(np.flatnonzero(~there))
    false = patches(images, rng)
    maps = np.stack([blocks] * len(EXPLANATIONS), -1)  # image, row, column, explanation
    maps[rng.permutation(np.flatnonzero(there))[: there.sum() // 2], ..., 1] = 0
    for k, times in ((2, 1), (3, 3)):
        more = others[: times * there.sum()]
        maps[more, ..., k] = false[more]
    strength = np.stack([rng.lognormal(0, 1, images) if heavy else np.ones(images) for _, heavy in UNITS.values()], -1)
    noise = np.array([scale for scale, _ in UNITS.values()])
    acts = blocks[..., None] * strength[:, None, None] + noise * rng.normal(size=(*blocks.shape, len(UNITS)))
    sums = []
    for fold in range(FOLDS):
        one = UnitSums.empty(len(UNITS), len(EXPLANATIONS))
        a, c = (torch.from_numpy(x[fold::FOLDS].reshape(-1, x.shape[-1])).float() for x in (acts, maps))
        one.add(a, c.T)
        one.add_concepts(len(c), c.sum(0), (c * c).sum(0))
        sums.append(one.tensors())
    folds, allowed = FoldSums.of(sums, len(UNITS), len(EXPLANATIONS)), torch.ones(len(EXPLANATIONS), dtype=torch.bool)
    r = folds.over(range(FOLDS)).r()[0]
    halves = [best(folds.over(range(half, FOLDS, 2)).r()[0], allowed) == 0 for half in (0, 1)]
    return {"r": r.tolist(), "chosen": (best(r, allowed) == 0).tolist(), "both": (halves[0] & halves[1]).tolist()}


def patches(images: int, rng: np.random.Generator) -> np.ndarray:
    """Shares of a concept in the patches of images that all have it: a block of 1 x 1 to 3 x 3 of 6 x 6."""
    first, size = rng.integers(0, 4, (2, images, 1, 1)), rng.integers(1, 4, (2, images, 1, 1))
    at = np.arange(6).reshape(6, 1), np.arange(6).reshape(1, 6)
    inside = [(a >= f) & (a < f + s) for a, f, s in zip(at, first, size, strict=True)]
    return (inside[0] & inside[1]) * rng.uniform(0.3, 1, (images, 6, 6))


def coverage(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """How often the 95 % interval of the chosen concept's r holds its r over scenes that no draw has."""
    truth = scanned(model, out / f"coverage-truth-{args.truth}", args.truth, 1000)
    r, tables = whole_r(truth), []
    for scenes, draws in DRAWS.items():
        for draw in range(draws):
            run = scanned(model, out / f"coverage-{scenes}-{draw}", scenes, 2000 + 100 * draw + scenes)
            tables.append(run.concepts().assign(scenes=scenes, draw=draw))
    every = pd.concat(tables).merge(r, on=["hook", "side", "index", "concept"], how="left")
    told = every[every["halves_agree"]].assign(  # else r is of two concepts
        held=lambda x: (x["r_low"] <= x["true"]) & (x["true"] <= x["r_high"])
    )
    told = told.assign(half=(told["r_high"] - told["r_low"]) / 2, off=told["r"] - told["true"])
    rows = []
    for (scenes, side), part in told.groupby(["scenes", "side"]):
        exact = 2 * student.cdf(student.ppf(0.975, FOLDS - 1) / (1 + scenes / args.truth) ** 0.5, FOLDS - 1) - 1
        by_draw = 100 * part.groupby("draw")["held"].mean()
        strong = part[part["true"] > part["true"].median()]
        rows.append([f"{scenes:,}", side, len(by_draw), f"{len(part):,}", f"{100 * part['held'].mean():.1f}",
                     f"{by_draw.min():.1f} - {by_draw.max():.1f}", f"{100 * strong['held'].mean():.1f}",
                     f"{100 * exact:.1f}", f"{part['half'].median():.3f}", f"{part['off'].mean():+.4f}"])  # fmt: skip
    names = ["scenes", "side", "draws", "intervals", "hold the truth, %", "by draw", "of the half with larger r",
             "of an exact one, %", "median half-width", "mean of r less truth"]  # fmt: skip
    return markdown(pd.DataFrame(rows, columns=names))


def scanned(model: vn.HookedVLM, path: Path, scenes: int, seed: int) -> vn.Run:
    """A scan of gates with what is true of scenes, pixels and words; without random units."""
    return vn.scan(model, vn.scenes(scenes, seed=seed), batch_size=32, concepts=banks()["truth"], folds=FOLDS, null_directions=0,
                   out=path)  # fmt: skip


def whole_r(run: vn.Run) -> pd.DataFrame:
    """r of every neuron with every concept over all data, from the sums on disk, by their definition."""
    folds, found = [load_file(file) for file in sorted(run.path.glob("concepts/fold*.safetensors"))], []
    for column in run.info["columns"]:
        for side in SIDES:
            n, a, aa, c, cc, ac = (
                sum(fold[f"{column['hook']}/{side}/{name}"].double() for fold in folds)
                for name in ("n", "a", "aa", "c", "cc", "ac")
            )
            spread = ((aa - a**2 / n).clamp(min=1e-12)[:, None] * (cc - c**2 / n).clamp(min=1e-12)).sqrt()
            r = (ac - a[:, None] * c / n) / spread
            names = [f"{kind}:{value}" for kind, value, *_ in run.info["concepts"][side]]
            wide = pd.DataFrame(r.numpy(), columns=names).rename_axis("index").reset_index()
            found.append(
                wide.melt("index", var_name="concept", value_name="true").assign(hook=column["hook"], side=side)
            )
    return pd.concat(found)


def say_cost(model: vn.HookedVLM, out: Path, args: Any) -> None:
    """What is still to be scanned, and how long that takes, from a small scan."""
    scenes: dict[Path, int] = {}
    if "coverage" in args.only:
        scenes |= {out / f"coverage-{n}-{draw}": n for n, draws in DRAWS.items() for draw in range(draws)}
        scenes[out / f"coverage-truth-{args.truth}"] = args.truth
    if "trained" in args.only:
        scenes |= dict.fromkeys(scans(out), SCENES)
    left = sum(n for path, n in scenes.items() if not (path / "scan.safetensors").is_file())
    if not left:
        return
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        vn.scan(
            model,
            vn.scenes(64, seed=1),
            batch_size=32,
            concepts=next(iter(banks().values())),
            out=folder,
            progress=False,
        )
        seconds = (time.monotonic() - began) / 64
    print(f"{left:,} scenes to scan, at about {seconds:.2g} s each: {left * seconds / 60:.0f} min at most", flush=True)


def main() -> None:
    """Run the parts and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-llava-scenes")
    parser.add_argument("--draws", type=int, default=100, help="of the part broad")
    parser.add_argument("--truth", type=int, default=TRUTH, help="scenes that give the truth, of the part coverage")
    parts: dict[str, Callable[..., str]] = {
        "broad": broad, "coverage": coverage, "trained": trained, "operands": operands,
    }  # fmt: skip
    parser.add_argument("--only", nargs="*", default=list(parts), choices=list(parts))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    model = vn.HookedVLM.from_pretrained(args.model)
    say_cost(model, args.out, args)
    for name in args.only:
        text = parts[name](model, args.out, args)
        (args.out / f"{name}.md").write_text(text, encoding="utf-8")
        print(f"## {name}\n{text}")


if __name__ == "__main__":
    main()

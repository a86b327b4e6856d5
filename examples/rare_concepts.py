"""Which scores see that an explanation is too broad or too narrow, however rare its concept is? (`trust.py rare`)

Test of missing and extra labels (Oikarinen, Yan, Weng 2025, arXiv 2506.05774): a neuron of two things, of which every
sample shows at most one; its true explanation names both, half of it one of them, one that is twice (four times) too
broad one (three) more that are as frequent and leave it cold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import vlm_neurons as vn
from vlm_neurons import stats

SHARES = {0.2: 1000, 0.05: 1500, 0.02: 2500, 0.01: 4000, 0.005: 8000}  # of samples with the concept -> samples
THINGS = {"texts": ("dog", "horse", "cat", "cow", "sheep"), "pictures": ("red", "blue", "green", "yellow", "purple")}
COLORS = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 160, 20), "yellow": (230, 230, 20),
          "purple": (140, 20, 180)}  # fmt: skip
FALSE = ("half", "twice", "four times", "near miss", "wrong")
SCORES = ("r", "r_top_random", "r_between", "r_within", "r_sample", "spearman", "auroc", "iou", "detection")
NOTHING = {"auroc": 0.5, "detection": 0.5}  # of an explanation without a score; others: 0
GRID, PATCH, SIDE = 4, 8, {"texts": "text", "pictures": "visual"}


def explanations(world: str) -> dict[str, str]:
    """The true explanation and the false ones."""
    said = [f"the word '{t}'" if world == "texts" else f"{t} regions" for t in THINGS[world]]
    named = {"true": (0, 1), "half": (0,), "twice": (0, 1, 2), "four times": (0, 1, 2, 3, 4), "near miss": (0, 2),
             "wrong": (2, 3)}  # fmt: skip
    return {kind: "; ".join(said[i] for i in which) for kind, which in named.items()}


def neuron(world: str, share: float, n: int, rng: np.random.Generator) -> vn.Evidence:
    """Active where the first two things are; together they are in a share of the samples, as each of the others is."""
    first, second, *others = THINGS[world]
    chances = [share / 2, share / 2, *[share] * len(others)]
    shown = rng.choice([first, second, *others, ""], p=[*chances, 1 - sum(chances)], size=n)
    strengths = rng.lognormal(0, 0.3, n) * np.isin(shown, (first, second))
    seed = int(rng.integers(1000))
    if world == "texts":
        texts = [[" a", " small", f" {thing or 'table'}", " sits", " near", " the", " window", "."] for thing in shown]
        acts = rng.normal(0, 0.05, (n, 8))
        acts[:, 2] += strengths
        return vn.Evidence.from_arrays("rare", tokens=texts, token_acts=list(acts), label="text", seed=seed)
    patches, images = rng.normal(0, 0.05, (n, GRID, GRID)), []
    for i, (thing, place) in enumerate(zip(shown, rng.integers(GRID, size=(n, 2)), strict=True)):
        pixels = np.full((GRID, GRID, 3), 128, np.uint8)
        pixels[tuple(place)] = COLORS.get(thing, (128, 128, 128))
        images.append(Image.fromarray(pixels.repeat(PATCH, 0).repeat(PATCH, 1)))
        images[-1].putpixel((0, 0), (100 + i % 50, 100 + i // 50 % 50, 100 + i // 2500))  # no two are one picture
        patches[i][tuple(place)] += strengths[i]
    return vn.Evidence.from_arrays("rare", images=images, patch_acts=list(patches), label="visual", seed=seed)


def scored(evidence: vn.Evidence, world: str) -> dict[str, dict[str, float]]:
    """Kind of explanation -> name of a score -> what it gives."""
    found = {}
    for kind, text in explanations(world).items():
        table = vn.score({"rare": text}, {"rare": evidence}, n_null=0, n_permutations=999, progress=False, full=True)
        row = table.iloc[0]
        found[kind] = {s: float(np.nan_to_num(row[s], nan=NOTHING.get(s, 0.0))) for s in SCORES}
    return found


def judge(draws: int, seed: int, shares: Sequence[float] = tuple(SHARES), pool: int | None = None) -> None:
    """Print, for each world and score, the AUROC of the true explanation against the false ones, and how often what is
    false scores less in one draw.

    Args:
        draws: neurons of each world and share.
        seed: of the draws.
        shares: of the samples that have the concept.
        pool: keep so many random samples beside the exemplars, as `vn.gather_evidence` does; None: all.
    """
    for world in THINGS:
        table = Table(
            "share", "score", *FALSE, title=f"{world}: AUROC against the true one / lower in % of {draws} draws"
        )
        for share in shares:
            found = []
            for i in tqdm(range(draws), desc=f"{world} {share}"):
                one = neuron(world, share, SHARES[share], np.random.default_rng([seed, i]))
                found.append(scored(one if pool is None else replace(one, pool=one.pool[:pool]), world))
            for score in SCORES:
                true = np.array([f["true"][score] for f in found])
                cells = []
                for kind in FALSE:
                    false = np.array([f[kind][score] for f in found])
                    area = stats.auroc(np.concatenate([true, false]), np.arange(2 * draws) < draws)
                    cells.append(f"{area:.2f} / {100 * np.mean(false < true - 1e-9):.0f}")
                table.add_row(f"{share}", score, *cells)
        Console(width=120).print(table)

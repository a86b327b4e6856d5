"""The part `nulls` of trust.py: how often is p below .05 where a simulation knows nothing of the neuron?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from vlm_neurons.autointerp.scorers import Piece, permutations
from vlm_neurons.stats import wilson

EXEMPLARS = 24
KINDS: dict[str, tuple[Callable[[Sequence[Piece], int, int], float], tuple[str, ...]]] = {
    "p, pictures": (permutations.p_images, ("picture",)),
    "p, texts": (permutations.p_images, ("text",)),
    "p, samples with picture and text": (permutations.p_images, ("picture", "text")),
    "p_within, pictures": (permutations.p_places, ("picture",)),
    "p_within, texts": (permutations.p_places, ("text",)),
}


def smooth(rng: np.random.Generator) -> np.ndarray:
    """A map in which neighbours are alike, the same kind of thing wherever it lies (on a torus)."""
    spot = np.zeros((8, 8))
    spot[:3, :4] = rng.uniform(2, 9)
    return np.roll(spot, rng.integers(8, size=2), (0, 1)) + rng.uniform(0, 1, (8, 8))


def drawn(sides: Sequence[str], rng: np.random.Generator) -> list[Piece]:
    """Pieces of some exemplars whose simulations have nothing to do with the activations; of one exemplar all are
    strong, or weak, together."""
    found = []
    for i in range(EXEMPLARS):
        gains, size = rng.choice([1.0, 3.0], 2), int(rng.integers(6, 20))
        for side in sides:
            real, said = (
                gain * (smooth(rng) if side == "picture" else rng.lognormal(0, 1, size)) for gain in gains.tolist()
            )
            found.append(Piece(i, i % 2 == 0, side, real, said, np.ones(real.shape, bool)))  # type: ignore[arg-type]
    return found


def judge(n: int, seed: int) -> None:
    """Print shares of p below .05 and .01, with Wilson's intervals."""
    table = Table("", "nulls", "p at most .05, %", "p at most .01, %")
    for name, (p, sides) in KINDS.items():
        rng = np.random.default_rng([seed, len(name)])
        found = np.array([p(drawn(sides, rng), 9999, seed) for _ in tqdm(range(n), desc=name)])
        said = []
        for level in (0.05, 0.01):
            count = int((found <= level).sum())
            low, high = wilson(count, n)
            said.append(f"{100 * count / n:.2f} ({100 * low:.2f} - {100 * high:.2f})")
        table.add_row(name, f"{n:,}", *said)
    Console(width=110).print(table)

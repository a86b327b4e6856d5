"""Do the error rates of `modality_test` hold? Simulated neurons with known preferences.

    python examples/simulate_modality_test.py            # the tables of classification/README.md, some minutes
    python examples/simulate_modality_test.py --small    # seconds

Activations are simulated token by token. Tokens of one image and modality share an effect of the image, so that they are
correlated within images; the truth is set through the means.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from vlm_neurons.classification.interval import t_values
from vlm_neurons.classification.modality import compare_modalities
from vlm_neurons.scanning.moments import sums_of
from vlm_neurons.stats import false_discovery

Draw = Callable[[int, int, torch.Generator], torch.Tensor]
DELTA = 0.2
KAPPA = (1 + DELTA) / (1 - DELTA)


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    neurons: int = 40_000
    images: int = 200
    visual: int = 128
    text: int = 32
    chunk: int = 100


@dataclass(frozen=True)
class Simulated:
    """Sums over images, as a scan keeps them, and p-values of a permutation test that pools tokens."""

    sums: np.ndarray
    pooled: np.ndarray
    n: int


def gaussian(correlation: float) -> Draw:
    """max(z, 0), z standard normal with a correlation within images and modality."""

    def draw(rows: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
        z = torch.randn(rows, tokens, generator=generator)
        if correlation:
            z = z.mul_((1 - correlation) ** 0.5) + correlation**0.5 * torch.randn(rows, 1, generator=generator)
        return z.clamp_(min=0)

    return draw


def skewed(rows: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """The size of an image's activations is lognormal: a few images make most of the sum."""
    size = torch.randn(rows, 1, generator=generator).mul(1.5).exp()
    return torch.randn(rows, tokens, generator=generator).clamp_(min=0) * size


def sparse(rows: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Active in one image of ten."""
    on = torch.rand(rows, 1, generator=generator) < 0.1
    return torch.randn(rows, tokens, generator=generator).clamp_(min=0) * on


def rare(rows: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Active in one image of eight, and lognormal there; its mean is that of `gaussian`."""
    on = torch.rand(rows, 1, generator=generator) < 1 / 8
    return skewed(rows, tokens, generator) * on * 8 / np.exp(1.5**2 / 2)


def simulate(draw: Draw | tuple[Draw, Draw], preference: float, size: Size, seed: int = 0) -> Simulated:
    """Neurons whose modality index is `preference`: visual activations are scaled up, the rest is the same, unless
    there is a law for each modality (of equal means)."""
    of_visual, of_text = draw if isinstance(draw, tuple) else (draw, draw)
    generator = torch.Generator().manual_seed(seed)
    scale = (1 + preference) / (1 - preference)
    sums, pooled = [], []
    for start in range(0, size.neurons, size.chunk):
        d = min(size.chunk, size.neurons - start)
        visual = of_visual(d * size.images, size.visual, generator) * scale
        text = of_text(d * size.images, size.text, generator)
        v, t = (a.double().mean(1).view(d, size.images) for a in (visual, text))
        sums.append(torch.stack(sums_of(v.T, t.T), 1))
        pooled.append(_pooled(visual.view(d, -1), text.view(d, -1)))
    return Simulated(torch.cat(sums).numpy(), torch.cat(pooled).numpy(), size.images)


def _pooled(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Two-sided p of a permutation of all tokens, by its normal limit."""
    n, m = visual.shape[1], text.shape[1]
    total = (visual.sum(1) + text.sum(1)) / (n + m)
    spread = (visual.square().sum(1) + text.square().sum(1)) / (n + m) - total**2
    z = (visual.mean(1) - text.mean(1)) / (spread * (1 / n + 1 / m)).sqrt()
    return torch.from_numpy(2 * stats.norm.sf(z.abs().numpy()))


def plain(sums: np.ndarray, n: int) -> np.ndarray:
    """p of the same three tests without the correction for skewness."""
    (visual, _), (text, _) = (t_values(sums.T / n, n, a, b) for a, b in ((1, -KAPPA), (-KAPPA, 1)))
    larger = np.maximum(visual, text)
    return np.minimum(1, 2 * np.minimum(stats.t.sf(larger, n - 1), stats.t.cdf(larger, n - 1)))


def upper(count: int, n: int, level: float = 0.99) -> float:
    """One-sided exact upper bound of a rate (Clopper, Pearson)."""
    return float(stats.beta.ppf(level, count + 1, n - count)) if count < n else 1.0


def null_rates(
    draw: Draw | tuple[Draw, Draw], size: Size, alphas: Sequence[float]
) -> dict[float, dict[str, tuple[float, float]]]:
    """Rates of wrong claims and their 99 % bounds: no preference tested without a
    margin, and an edge of the margin; of an edge also for the plain t-test."""
    level = simulate(draw, 0.0, size, seed=1)
    edge = simulate(draw, DELTA, size, seed=2)
    p = {
        "no preference": compare_modalities(level.sums, level.n, 1e-9).p_classes[:, :2].min(1) * 2,
        "edge of the margin": compare_modalities(edge.sums, edge.n, DELTA).p,
        "edge, plain t-test": plain(edge.sums, edge.n),
        "no preference, pooled tokens": level.pooled,
    }
    counts = {alpha: {name: int((values <= alpha).sum()) for name, values in p.items()} for alpha in alphas}
    return {
        alpha: {name: (hits / size.neurons, upper(hits, size.neurons)) for name, hits in found.items()}
        for alpha, found in counts.items()
    }


def power(draw: Draw, preference: float, size: Size, alpha: float = 0.001) -> float:
    """Share of neurons that get their true class."""
    found = simulate(draw, preference, size, seed=3)
    tested = compare_modalities(found.sums, found.n, DELTA)
    true = 0 if preference > DELTA else 2
    return float(((tested.p <= alpha) & (tested.p_classes.argmin(1) == true)).mean())


def false_discoveries(correction: str, layers: int, size: Size, alpha: float = 0.05) -> tuple[float, float, float]:
    """Layers whose neurons share what images do to them: mean and 95 % quantile of the share of wrong labels among the
    labels, and the share of neurons that are labelled.

    A third of the neurons is on an edge of the margin (any label is wrong), the others are spread over -0.8 ... 0.8.
    """
    rng = np.random.default_rng(4)
    shares, labelled = [], []
    for _ in range(layers):
        d, n = size.chunk, size.images
        truth = np.where(np.arange(d) % 3 == 0, DELTA * rng.choice([-1, 1], d), rng.uniform(-0.8, 0.8, d))
        common_v, common_t = (np.exp(0.7 * rng.standard_normal((4, n))) for _ in range(2))  # topics of images
        weights = rng.dirichlet(np.ones(4), d)
        noise = np.exp(0.5 * rng.standard_normal((2, d, n)))
        v, t = (
            weights @ common_v * noise[0] * (1 + truth)[:, None],
            weights @ common_t * noise[1] * (1 - truth)[:, None],
        )
        sums = torch.stack(sums_of(torch.from_numpy(v.T), torch.from_numpy(t.T)), 1).numpy()
        tested = compare_modalities(sums, n, DELTA)
        called = false_discovery(tested.p, correction) <= alpha  # type: ignore[arg-type]
        label = tested.p_classes.argmin(1)
        right = np.select([truth > DELTA, truth < -DELTA, np.abs(truth) < DELTA], [label == 0, label == 1, label == 2])
        shares.append((called & (right == 0)).sum() / max(called.sum(), 1))
        labelled.append(called.mean())
    return float(np.mean(shares)), float(np.quantile(shares, 0.95)), float(np.mean(labelled))


def main() -> None:
    """Print the tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true")
    small = parser.parse_args().small
    size = Size(2_000, 100, 32, 8) if small else Size()
    draws: dict[str, Draw | tuple[Draw, Draw]] = {
        f"within-image correlation {r:g}": gaussian(r) for r in (0.0, 0.02, 0.1)
    }
    draws |= {"skewed (not promised)": skewed, "sparse (not promised)": sparse}
    draws["visual rare and skewed, text dense (not promised)"] = (rare, gaussian(0.0))
    draws["text rare and skewed, visual dense (not promised)"] = (gaussian(0.0), rare)
    print(f"{size.neurons:,} neurons, {size.images} images of {size.visual} + {size.text} tokens. Rate of wrong claims")
    print("(upper 99 % bound of it):\n")
    print(
        "| neurons | alpha | no preference | edge of the margin | edge, plain t-test | no preference, pooled tokens |"
    )
    print("|---|---|---|---|---|---|")
    many = "text rare and skewed, visual dense, 3,200 images, 4,000 neurons (not promised)"
    cases = [(name, draw, size) for name, draw in draws.items()]
    cases += [] if small else [(many, (gaussian(0.0), rare), Size(4_000, 3_200, 128, 32, 25))]
    for name, draw, of in cases:
        for alpha, rates in null_rates(draw, of, (0.05, 0.01)).items():
            print(f"| {name} | {alpha} | " + " | ".join(f"{r:.4f} ({u:.4f})" for r, u in rates.values()) + " |")
    print("\nShare of neurons that get their true class at p <= 0.001, correlation 0.1:\n")
    images = (100, 400) if small else (100, 400, 1600)
    print("| true M | " + " | ".join(f"{n} images" for n in images) + " |\n|---|" + "---|" * len(images))
    for preference in (0.0, 0.1, 0.25, 0.3, 0.4, 0.6):
        found = [power(gaussian(0.1), preference, Size(400, n, size.visual, size.text, 50)) for n in images]
        print(f"| {preference} | " + " | ".join(f"{p:.3f}" for p in found) + " |")
    print("\nWrong labels among labels at a false-discovery rate of 0.05, layers with correlated neurons:\n")
    print("| correction | mean | 95 % quantile over layers | labelled |\n|---|---|---|---|")
    for correction in ("bh", "by"):
        found = false_discoveries(correction, 20 if small else 400, Size(chunk=300, images=500))
        print(f"| {correction} | " + " | ".join(f"{x:.4f}" for x in found) + " |")


if __name__ == "__main__":
    main()

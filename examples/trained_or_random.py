"""The part `trained` of one_pass_validity.py: what tells neurons of a trained model from those of random gates?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from causes import markdown

import vlm_neurons as vn
from vlm_neurons import stats
from vlm_neurons.autointerp.protocols import SIDES_OF  # of both the lowest counts

SCENES, SEED, DRAWS = 1000, 107, 3  # of each scan, of the scenes; draws of random gates
STATISTICS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "focus": lambda t: t["focus"],
    "r": lambda t: t["r"],
    "r_specific": lambda t: t["r_specific"],
    "r_specific - r_generic": lambda t: t["r_specific"] - t["r_generic"],
    "share_one": lambda t: t["share_one"],
    "share_three": lambda t: t["share_three"],
    "r - r_runner_up": lambda t: t["r"] - t["r_runner_up"],
    "folds_agree": lambda t: t["folds_agree"],
    "p_random, small": lambda t: -t["p_random"],
}


def banks() -> dict[str, Any]:
    """With the truth of the scenes, and without."""
    seen, said = vn.concepts.Pixels(), vn.concepts.Words()
    return {"truth": seen + vn.concepts.Truth() + said, "pixels": seen + said}


def scans(out: Path) -> list[Path]:
    """All that the part scans."""
    return [out / f"trained-{bank}-{who}" for bank in banks() for who in ("own", *range(DRAWS))]


def trained(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """AUROC of every statistic, the model's own gates against random ones of the same norms, by class; and how many
    neurons are above 95 % of the random directions of their layer."""
    text = []
    for bank, concepts in banks().items():
        own, random = table(model, concepts, out / f"trained-{bank}-own"), []
        for draw in range(DRAWS):
            with vn.interventions.random_gates(model, draw):
                random.append(table(model, concepts, out / f"trained-{bank}-{draw}"))
        rows = [
            [
                name,
                *(told(by_class(own, of, label), [by_class(one, of, label) for one in random]) for label in SIDES_OF),
            ]
            for name, of in STATISTICS.items()
        ]
        rows.append(["p_random < .05, % of neurons", *(beyond(own, label) for label in SIDES_OF)])
        rows.append(["the same of random gates", *(beyond(pd.concat(random), label) for label in SIDES_OF)])
        counts = {x: (count(own, x), sum(count(one, x) for one in random)) for x in SIDES_OF}
        names = [f"{label}, {n:,} against {m:,}" for label, (n, m) in counts.items()]
        text.append(f"Bank {concepts.name}:\n\n" + markdown(pd.DataFrame(rows, columns=["", *names])))
    return "\n".join(text)


def table(model: vn.HookedVLM, bank: Any, path: Path) -> pd.DataFrame:
    """What a scan's neurons answer to, with their classes."""
    run = vn.scan(model, vn.scenes(SCENES, seed=SEED), batch_size=32, concepts=bank, out=path)
    return run.concepts().merge(vn.classify(run)[["neuron", "label"]], on="neuron")


def by_class(own: pd.DataFrame, of: Callable[[pd.DataFrame], pd.Series], label: str) -> np.ndarray:
    """A statistic of the neurons of a class, the lowest of the sides that the class answers to."""
    kept = own.assign(value=of(own))[(own["label"] == label) & own["side"].isin(SIDES_OF[label])]
    return kept.groupby("neuron")["value"].min().dropna().to_numpy()


def told(own: np.ndarray, random: list[np.ndarray]) -> str:
    """AUROC against all draws, and the range of those against one."""

    def auroc(other: np.ndarray) -> float:
        return stats.auroc(np.concatenate([own, other]), np.arange(len(own) + len(other)) < len(own))

    each = [auroc(one) for one in random]
    return f"{auroc(np.concatenate(random)):.2f} ({min(each):.2f} - {max(each):.2f})"


def beyond(own: pd.DataFrame, label: str) -> str:
    """Share of neurons of a class that are, on all of its sides, above 95 % of random directions."""
    return f"{100 * (by_class(own, lambda t: -t['p_random'], label) > -0.05).mean():.0f}"


def count(own: pd.DataFrame, label: str) -> int:
    """Neurons of a class."""
    return own.loc[own["label"] == label, "neuron"].nunique()

"""The neurons that a report shows are the clearest, and varied."""

from __future__ import annotations

from math import ceil

import numpy as np
import pandas as pd
import seeds

from vlm_neurons.classification import clearest
from vlm_neurons.tokens import MODALITIES


def random_table(rng: np.random.Generator) -> pd.DataFrame:
    n = 400
    p = rng.dirichlet([0.3] * 4, n).round(1)
    p /= p.sum(1, keepdims=True)
    table = pd.DataFrame(p, columns=[f"p_{label}" for label in MODALITIES])
    return table.assign(
        neuron=[f"L{i % 5}N{i}" for i in range(n)], site="gate", pole="+", layer=np.arange(n) % 5, index=np.arange(n),
        label=np.array(MODALITIES)[p.argmax(1)], tie=(p == p.max(1, keepdims=True)).sum(1) > 1,
        confident=p.max(1) > 0.8, peak=rng.normal(1, 1, n), n_samples=rng.integers(1, 4, n),
    )  # fmt: skip


def test_no_neuron_left_out_is_clearer_except_for_its_layer_being_full() -> None:
    rng = seeds.rng()
    for _ in range(20):
        table, n = random_table(rng), int(rng.integers(1, 12))
        table = table[rng.random(len(table)) < rng.choice([0.03, 1.0])]
        for label in MODALITIES:
            chosen = clearest(table, label, n)
            able = table[(table["label"] == label) & (table["peak"] > 0)]
            assert set(chosen.index) <= set(able.index) and len(chosen) == min(n, len(able))
            if able.empty:
                continue
            per_layer = ceil(n / able["layer"].nunique()) + 1
            full = {layer for layer, count in chosen["layer"].value_counts().items() if count >= per_layer}
            out = able[~able.index.isin(chosen.index) & ~able["layer"].isin(full)]
            worst = min((not t, p) for t, p in zip(chosen["tie"], chosen[f"p_{label}"], strict=True))
            assert all((not t, p) <= worst for t, p in zip(out["tie"], out[f"p_{label}"], strict=True))


def test_one_layer_does_not_take_every_place() -> None:
    table = random_table(seeds.rng())
    table["label"], table["tie"], table["peak"] = "visual", False, 1.0
    table["p_visual"] = np.where(table["layer"] == 3, 1.0, 0.9)
    chosen = clearest(table, "visual", 5)
    assert chosen["layer"].tolist().count(3) == 2 and (chosen["layer"] == 3).iloc[0]


def test_neurons_without_class_come_by_their_peak() -> None:
    table = random_table(seeds.rng())
    for label in MODALITIES:
        table[f"p_{label}"] = np.nan
    table["label"], table["layer"] = "not_applicable", 0
    assert clearest(table, "not_applicable", 4)["peak"].tolist() == sorted(table["peak"])[::-1][:4]

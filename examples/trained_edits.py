"""The part `trained` of edits.py: do edits tell neurons of a trained model from those of random gates?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from causes import markdown
from trained_or_random import DRAWS, banks, table, told

import vlm_neurons as vn
from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.lexical import words_for
from vlm_neurons.interventions.edits import rendered, texts
from vlm_neurons.interventions.edits.running import peaks
from vlm_neurons.interventions.edits.trials import Inputs

TRIALS, SEED = 40, 211  # samples of every edit, of the scenes that are edited; others than those that are scanned
EDITS = {"picture": ("repaint", "reshape", "resize", "move"), "text": ("replace",)}
CLASSES = {"picture": ("visual", "multimodal"), "text": ("text", "multimodal")}
MEASURES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "r of the scan, no edit": lambda t: t["r_specific"],
    "SD / mean activation, no edit": lambda t: t["sparse"],
    "change": lambda t: t["change"],
    "specificity": lambda t: t["specificity"],
    "change - control": lambda t: t["change"] - t["control"],
    "over_background": lambda t: t["over_background"],
    "necessity": lambda t: t["necessity"],
    "sufficiency": lambda t: t["sufficiency"],
}


def trained(model: vn.HookedVLM, out: Path) -> str:
    """AUROC of every measure, a model's own gates against random ones of the same norms, by class."""
    data, every = vn.scenes(TRIALS, seed=SEED), []
    for who in ("own", *range(DRAWS)):
        with nullcontext() if who == "own" else vn.interventions.random_gates(model, int(who)):
            known = table(model, banks()["truth"], out / f"trained-truth-{who}")
            every.append(followed(model, data, known).assign(who=str(who)))
    found = pd.concat(every)
    parts = []
    for side, labels in CLASSES.items():
        rows = [[name] + [cell(found, side, label, of) for label in labels] for name, of in MEASURES.items()]
        names = [f"{label}, {count(found, side, label)}" for label in labels]
        kept = pd.DataFrame(rows, columns=[f"{side}s edited", *names])
        parts.append(markdown(kept[(kept.iloc[:, 1:] != "").all(axis=1)]))
    return "\n".join(parts)


def followed(model: vn.HookedVLM, data: Any, known: pd.DataFrame) -> pd.DataFrame:
    """Rows of `vn.input_effects` for the best specific concept of every neuron that has a class."""
    sides = known[known["label"].isin(["visual", "text", "multimodal"])]
    parts: dict[str, list[str]] = {}
    for neuron, side, name in zip(sides["neuron"], sides["side"], sides["specific"], strict=True):
        if name:
            concept = Concept(*name.split(":", 1))
            parts.setdefault(neuron, []).append(phrase([concept]) if side == "picture" else words_for(concept))
    edits = [edit for one in EDITS.values() for edit in one]
    told_of = {neuron: "; ".join(texts) for neuron, texts in parts.items()}
    found = vn.input_effects(model, data, told_of, edits=edits, n=TRIALS)
    found = found.merge(sides[["neuron", "side", "label", "r_specific"]], on=["neuron", "side"])
    return found.merge(sparseness(model, data, list(told_of)), on=["neuron", "side"])


def sparseness(model: vn.HookedVLM, data: Any, neurons: list[str]) -> pd.DataFrame:
    """SD over mean of the largest activations of the scenes as they are: what needs neither words nor edits."""
    parts = []
    for side in ("picture", "text"):
        inputs, each = Inputs(), range(len(data))
        if side == "picture":
            rendered.natural(data, each, inputs)
        else:
            texts.natural(data, each, inputs, texts.Vocabulary({}, {}))
        acts = peaks(model, inputs.made, [vn.Neuron.parse(n) for n in neurons], side, 32, lambda done: None)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append(pd.DataFrame({"neuron": neurons, "side": side, "sparse": acts.std(0) / acts.mean(0)}))
    return pd.concat(parts)


def of(found: pd.DataFrame, side: str, label: str) -> pd.DataFrame:
    """Rows of a class, edited on one side."""
    return found[(found["side"] == side) & (found["label"] == label)]


def cell(found: pd.DataFrame, side: str, label: str, measure: Callable[[pd.DataFrame], pd.Series]) -> str:
    """AUROC, and its range over draws; empty where the side has no such measure."""
    rows = of(found, side, label)
    values = rows.assign(value=measure(rows)).dropna(subset="value")
    own, *random = (values.loc[values["who"] == who, "value"].to_numpy() for who in ("own", *map(str, range(DRAWS))))
    return told(own, random) if len(own) and all(map(len, random)) else ""


def count(found: pd.DataFrame, side: str, label: str) -> str:
    """Neurons that can be edited for, of the model and of all draws."""
    rows = of(found, side, label)
    own = rows["who"] == "own"
    return f"{rows[own]['neuron'].nunique():,} against {(~own).sum():,}"

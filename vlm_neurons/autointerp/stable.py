"""Would other images have given the same explanation?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vlm_neurons._checks import whole
from vlm_neurons.autointerp.explanation import Explanation, says_nothing
from vlm_neurons.autointerp.jobs import Explanations, check_explanations, text_of
from vlm_neurons.autointerp.protocols import Explainer
from vlm_neurons.autointerp.registry import explainer_of
from vlm_neurons.concepts.naming import named
from vlm_neurons.stats import wilson

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence


def stability(
    explanations: Explanations,
    evidence: Mapping[str, Evidence],
    explainer: str | Explainer = "dissection",
    n: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How often a neuron gets the same explanation when it is explained again from resampled samples.

    The samples of the split `"explain"` are drawn anew with replacement, n times, and the explainer is asked each time.
    Explanations are the same where they name the same concepts of the banks, or else by their words: a model that
    words freely seldom says the same twice, so that its stability is a lower bound. Explainers of what a gate neuron
    does (`VocabularyExplainer`, `SteeringExplainer`) run the samples that were drawn; where evidence cannot be run
    again, such as pictures in tiles, they fail (`n_failed`).

    Args:
        explanations: neuron -> explanation, or plain strings.
        evidence: of the same neurons.
        explainer: who explains again; as in `explain`. One that costs money is asked n times a neuron: with `progress`
            the price is said first, and its `max_cost` holds.
        n: times that each neuron is explained again.
        seed: of the draws, which neurons with as many samples share.
        progress: show a bar.

    Returns:
        One row a neuron: `neuron, explanation, stability` (share of the new explanations that say the same) with its
        95 % interval `low, high` (Wilson), `n` (new explanations that came), `n_failed`, and the explanation that comes
        most often beside it with its share: `other, other_share`. NaN where none came; of an explanation that failed
        itself nothing is asked.

    Raises:
        ValueError: parameters of wrong types or out of range, or an unknown explainer.
        KeyError: an explanation without evidence.

    >>> found = vn.autointerp.stability(explanations, evidence, n=5, progress=False).set_index("neuron")
    >>> found.explanation["L2N304"], float(found.stability["L2N304"])
    ('pink regions', 1.0)
    """
    import pandas as pd

    whole(1, n=n)
    whole(0, seed=seed)
    check_explanations(explanations, evidence)
    chosen = explainer_of(explainer)
    todo = again(explanations, evidence, n, seed)
    if progress and todo and (price := chosen.plan(todo)) is not None:
        tqdm.write(f"{chosen.name}: {price}")
    said: dict[str, list[str]] = {key: [] for key in explanations}
    for key, one in tqdm(chosen.explain(todo), total=len(todo), desc="explained again", disable=not progress):
        if not one.failed:
            said[key.rpartition(" ")[0]].append(one.text)
    return pd.DataFrame(
        [_row(key, text_of(key, one), said[key], 0 if _lost(one) else n) for key, one in explanations.items()]
    )


def again(
    explanations: Explanations, evidence: Mapping[str, Evidence], n: int, seed: int
) -> dict[str, Evidence]:  # fmt: skip
    """What the explainer is shown anew, under ids of neurons with a number after a blank."""
    return {
        f"{key} {i}": one
        for key, made in explanations.items()
        if not _lost(made)
        for i, one in enumerate(_resampled(evidence[key], n, seed))
    }


def _lost(explanation: Explanation | str) -> bool:
    """Whether there is nothing that could be said again."""
    return isinstance(explanation, Explanation) and explanation.failed


def _resampled(evidence: Evidence, n: int, seed: int) -> list[Evidence]:
    """The evidence with other draws of the samples that explanations are made from. What was `written` is of the
    samples as they were: it is left out, so that explainers by it run those that were drawn."""
    shown = evidence.split("explain")
    others = tuple(e for e in evidence.exemplars if e.split != "explain")
    rng = np.random.default_rng([seed, len(shown)])
    drawn = [sorted(rng.choice(len(shown), len(shown)).tolist()) if shown else [] for _ in range(n)]
    return [replace(evidence, exemplars=(*(shown[i] for i in places), *others), written=None) for places in drawn]


def _row(neuron: str, text: str, said: list[str], n: int) -> dict[str, Any]:
    own, names = _meaning(text), dict[Any, str]()
    counts: Counter[Any] = Counter()
    for one in said:
        meaning = _meaning(one)
        names.setdefault(meaning, one)
        counts[meaning] += 1
    nan = float("nan")
    low, high = wilson(counts[own], len(said))
    other = max((m for m in counts if m != own), key=lambda m: counts[m], default=None)
    return {
        "neuron": neuron, "explanation": text, "stability": counts[own] / len(said) if said else nan, "low": low,
        "high": high, "n": len(said), "n_failed": n - len(said), "other": "" if other is None else names[other],
        "other_share": nan if not said else 0.0 if other is None else counts[other] / len(said),
    }  # fmt: skip


def _meaning(text: str) -> Any:
    """What an explanation names, whatever the order and the wording; its words where the banks do not know them."""
    if says_nothing(text):
        return ""
    what = named(text)
    if what.unknown:
        return " ".join(text.lower().split()).rstrip(".")
    sides = ({(frozenset(a.concepts), a.negated) for a in side} for side in (what.visual, what.text))
    return (*map(frozenset, sides), what.together)

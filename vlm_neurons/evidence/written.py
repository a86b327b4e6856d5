"""What is written where a gate neuron is strong: read with its evidence, in the same forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlm_neurons.sites import at
from vlm_neurons.sites.mlp import MLPS, OfExpert
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOOKED = 8  # strongest samples that count
STRONG = 0.5  # share of the largest activation there from which on a place counts


@dataclass(frozen=True)
class Written:
    """What the unit that acts behind a gate neuron does where the gate is strong.

    Attributes:
        gate: mean of the neuron there; 0 if it is never active.
        post: mean of the unit there.
        size: mean of the unit's absolute value there.
        state: of the model, see `vlm_neurons.models.state.state_of`; weights edited since make it another one.
    """

    gate: float
    post: float
    size: float
    state: str = ""


def behind(neuron: Neuron) -> Neuron:
    """The same unit where it is multiplied by its output weights. Of an expert that is its own `post`: the router's
    weight, which comes after, is positive, and nothing can be clamped there.

    >>> behind(vn.Neuron.parse("L2N304")).id, behind(vn.Neuron.parse("L1E3N7-")).id, behind(vn.Neuron.parse("P0N5")).id
    ('post:L2N304', 'post:L1E3N7', 'P0N5')
    """
    site, layer = at(neuron.hook)
    if isinstance(site, OfExpert):
        return Neuron(MLPS[1].of_expert(site.expert).place(layer), neuron.index)
    return Neuron(site.written(layer), neuron.index)


def shown(rows: Iterable[tuple[str, str]]) -> list[int]:
    """Of rows with a group and a split those of the strongest samples that an explainer may see.

    >>> shown([("top", "explain"), ("top", "test"), ("quantile", "explain"), ("top", "explain")])
    [0, 3]
    """
    return list(islice((k for k, row in enumerate(rows) if row == ("top", "explain")), LOOKED))


def flat(maps: Sequence[np.ndarray], tokens: np.ndarray) -> Float[np.ndarray, "place"]:
    """Activations at patches and tokens in one row."""
    return np.concatenate([*(m.ravel() for m in maps), tokens]).astype(float)


def written(gates: Float[np.ndarray, "place"], posts: Float[np.ndarray, "place"], state: str = "") -> Written:
    """Of both units at all places of some samples.

    >>> written(np.array([0.0, 2.0, np.nan, 4.0]), np.array([9.0, -3.0, np.nan, 1.0]))
    Written(gate=3.0, post=-1.0, size=2.0, state='')
    """
    most = np.fmax.reduce(gates, initial=0)  # NaN is none
    if not most > 0:
        return Written(0.0, 0.0, 0.0, state)
    strong = gates >= STRONG * most
    return Written(float(gates[strong].mean()), float(posts[strong].mean()), float(np.abs(posts[strong]).mean()), state)

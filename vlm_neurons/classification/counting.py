"""How many top samples of every neuron are of which class, under one rule of thresholds or many.

Samples lie in the first dimension and neurons in the second: sums over samples then run along the memory. And it is
numpy that counts, on one thread: the arrays of a layer are so small that threads cost more than they give.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_neurons.classification.thresholds import SCALE, Thresholds
from vlm_neurons.tokens import MODALITIES

if TYPE_CHECKING:
    from torch import Tensor

    from vlm_neurons.scanning import TopSamples

Seen = Bool[np.ndarray, "top_n d"]
Counts = Int[np.ndarray, "d"]


@dataclass(eq=False)
class Counter:
    """Counts classes of the top samples of one tensor; what several rules have in common is done once.

    Attributes:
        state: the samples.
        peak: the activation that is mapped to 10; by default the largest at visual and text tokens.

    >>> from vlm_neurons.classification.counting import Counter
    >>> Counter(run.top("blocks.2.mlp.hook_act")).counts(vn.classification.Thresholds())[:, 304].tolist()
    [9, 0, 0, 1]
    """

    state: TopSamples
    peak: Tensor | None = None
    _values: dict[tuple[str, int], Float[np.ndarray, "top_n d"]] = field(default_factory=dict)
    _scaled: dict[tuple[str, int], Float[np.ndarray, "top_n d"]] = field(default_factory=dict)
    _passed: dict[tuple[str, int, float], tuple[Seen, Counts]] = field(default_factory=dict)

    def by(self, peak: Tensor) -> Counter:
        """The same samples on the scale of another peak."""
        other = Counter(self.state, peak, self._values)
        other.there, other.n_samples = self.there, self.n_samples
        return other

    def counts(self, rule: Thresholds) -> Int[np.ndarray, "4 d"]:
        """How many are of each class, in the order of `Modality`."""
        sees, n_sees = self._exceeding("visual", rule.n_visual, rule.t_visual)
        reads, n_reads = self._exceeding("text", rule.n_text, rule.t_text)
        both = _sum(sees & reads)
        return np.stack([n_sees - both, n_reads - both, both, self.n_samples - n_sees - n_reads + both])

    @cached_property
    def there(self) -> Seen:
        """Where there are samples."""
        return np.ascontiguousarray(self.state.sample_ids.numpy().T >= 0)

    @cached_property
    def n_samples(self) -> Counts:
        """How many there are."""
        return _sum(self.there)

    @cached_property
    def _peaks(self) -> Float[np.ndarray, "d"]:
        peak = (self.state.peak if self.peak is None else self.peak).float().numpy()
        return np.where(peak > 0, peak, np.float32(np.inf))

    def _exceeding(self, kind: str, n: int, threshold: float) -> tuple[Seen, Counts]:
        """In which samples the n-th largest value exceeds a threshold, by the arithmetic of `normalise`; and how many
        these are."""
        if (kind, n) not in self._values:
            values = np.array(getattr(self.state, kind)[..., n - 1].float().numpy().T, order="C")
            self._values[kind, n] = np.maximum(values, np.float32(0), out=values)
        if (kind, n) not in self._scaled:
            scaled = self._values[kind, n] / self._peaks
            scaled *= np.float32(SCALE)
            self._scaled[kind, n] = scaled
        if (kind, n, threshold) not in self._passed:
            found = self._scaled[kind, n] > np.float32(threshold)
            found &= self.there
            self._passed[kind, n, threshold] = found, _sum(found)
        return self._passed[kind, n, threshold]


def most_common(counts: Int[np.ndarray, "4 d"]) -> Int[np.ndarray, "d"]:
    """Number of the class that most samples are, the first of equals; unknown for a neuron without samples.

    >>> most_common(np.array([[1, 0], [2, 0], [2, 0], [0, 0]])).tolist()
    [1, 3]
    """
    n = len(MODALITIES)
    place = np.arange(n - 1, -1, -1, dtype=counts.dtype)[:, None]  # of equals the first has to win
    best = (counts * n + place).max(0)
    return np.where(best >= n, n - 1 - best % n, MODALITIES.index("unknown"))


def _sum(found: Seen) -> Counts:
    """Over samples. Narrow numbers take an eighth of the time; differences of counts need a sign."""
    few = len(found) < 256
    sums = np.add.reduce(found.view(np.uint8), axis=0, dtype=np.uint8 if few else np.int64)
    return sums.astype(np.int16) if few else sums

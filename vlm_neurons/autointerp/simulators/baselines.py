"""What a simulator has to beat, and the oracle that none can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons.autointerp.explanation import Failure
from vlm_neurons.autointerp.protocols import Job, Prediction, Simulator, constant, text_values

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Seen
    from vlm_neurons.planted import Planted


@dataclass(frozen=True, eq=False)
class Baseline(Simulator):
    """A simulator that does not read the explanation. `for_neuron` tells it which neuron it is about."""

    name: str = "baseline"
    evidence: Evidence | None = None

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return f"{self.name}-1"

    def for_neuron(self, evidence: Evidence) -> Baseline:
        """The same baseline for one neuron; it looks at the split `"explain"` unless it says otherwise."""
        return type(self)(evidence=evidence)

    @property
    def of(self) -> Evidence:
        """The evidence of the neuron.

        Raises:
            ValueError: no neuron was named.
        """
        if self.evidence is None:
            raise ValueError(f"{self.name}: call for_neuron(evidence) first, or pass the simulator by its name")
        return self.evidence


@dataclass(frozen=True, eq=False)
class Constant(Baseline):
    """5 everywhere. It has no correlation."""

    name: str = "constant"

    def predict(self, job: Job) -> Prediction:
        """One prediction."""
        return constant(job, 5.0)


@dataclass(frozen=True, eq=False)
class PositionPrior(Baseline):
    """The neuron's mean map over the exemplars of the split `"explain"` with the same grid; of a text, its mean by
    quantile of the position in the response, in ten parts. A grid that none of them has is a failure."""

    name: str = "position-prior"

    def predict(self, job: Job) -> Prediction:
        """One prediction."""
        if job.side == "picture":
            maps = [self._mean_map(p.shape) for p in job.exemplar.patch_acts]
            patches = tuple(m for m in maps if m is not None)
            if len(patches) == len(maps):
                return Prediction(patches)
            grids = ", ".join(f"{p.shape[0]} x {p.shape[1]}" for p in job.exemplar.patch_acts)
            detail = f"no exemplar to take a mean of has a grid like this one's ({grids})"
            return Prediction(failure=Failure("capability", detail))
        sums, counts = np.zeros(10), np.zeros(10)
        for e in self.of.split("explain"):
            values = self.of.scale(e.token_acts[e.seen.is_text])
            bins = _tenths(len(values))
            sums += np.bincount(bins, np.nan_to_num(values), 10)
            counts += np.bincount(bins, minlength=10)
        by_bin = sums / np.maximum(counts, 1)
        return Prediction(token_acts=text_values(job, by_bin[_tenths(int(job.exemplar.seen.is_text.sum()))]))

    def _mean_map(self, shape: tuple[int, ...]) -> np.ndarray | None:
        maps = [p for e in self.of.split("explain") for p in e.patch_acts if p.shape == shape]
        if not maps:
            return None
        scaled = np.stack([self.of.scale(p) for p in maps])
        counts = (~np.isnan(scaled)).sum(0)  # 0 where none of them has a patch: no prediction
        return np.where(counts, np.nansum(scaled, 0) / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True, eq=False)
class ImageOnly(Baseline):
    """Knows how active the neuron is in every image and text, and not where. It looks at the truth: what it scores is
    what knowing the images alone is worth."""

    name: str = "image-only"

    def predict(self, job: Job) -> Prediction:
        """One prediction."""
        e = job.exemplar
        if job.side == "picture":
            there = [self.of.scale(p)[~np.isnan(p)] for p in e.patch_acts]
            means = [float(v.mean()) if v.size else 0.0 for v in there]
            return Prediction(tuple(np.full(p.shape, m) for p, m in zip(e.patch_acts, means, strict=True)))
        values = self.of.scale(e.token_acts[e.scored_tokens()])
        return Prediction(token_acts=text_values(job, float(values.mean()) if values.size else 0.0))


@dataclass(frozen=True, eq=False)
class TokenFrequency(Baseline):
    """Rare tokens are active: -log frequency among the responses of the split `"explain"`, scaled to 10. Pictures have
    no such thing: it predicts text only."""

    name: str = "token-frequency"

    sides = frozenset({"text"})

    def predict(self, job: Job) -> Prediction:
        """One prediction."""
        counts: Counter[str] = Counter()
        for e in self.of.split("explain"):
            counts.update(_response(e.seen))
        total = sum(counts.values()) + 1
        rare = np.log(total) or 1.0
        return Prediction(token_acts=text_values(job, (10 * np.log(total / (counts[t] + 1)) / rare
                                                   for t in _response(job.exemplar.seen))))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Oracle(Baseline):
    """The rule of planted neurons itself, without strengths and noise: what the best simulator could reach."""

    name: str = "oracle"
    planted: dict[str, Planted] = field(default_factory=dict)

    @classmethod
    def of_planted(cls, planted: Iterable[Planted]) -> Oracle:
        """An oracle of some planted neurons."""
        return cls(planted={p.evidence.neuron: p for p in planted})

    def for_neuron(self, evidence: Evidence) -> Baseline:
        """The same for one neuron."""
        return type(self)(evidence=evidence, planted=self.planted)

    def predict(self, job: Job) -> Prediction:
        """One prediction."""
        from vlm_neurons.planted import oracle

        known = self.planted.get(self.of.neuron)
        if known is None:
            raise ValueError(f"oracle: {self.of.neuron} is none of its planted neurons; Oracle.of_planted(planted)")
        patches, tokens = oracle(known, job.exemplar)
        if job.side == "text":
            return Prediction(token_acts=text_values(job, tokens[job.exemplar.seen.is_text]))
        return Prediction(tuple(np.clip(10 - 2 * p, 0, 10) if known.rule.sign < 0 else p for p in patches))


BASELINES: dict[str, type[Baseline]] = {
    c.name: c for c in (Constant, PositionPrior, ImageOnly, TokenFrequency)
}  # the oracle needs to be told of which planted neurons


def _tenths(n: int) -> np.ndarray:
    return (np.arange(n) * 10 // max(n, 1)).astype(int)


def _response(seen: Seen) -> list[str]:
    return [t for t, is_text in zip(seen.tokens, seen.is_text, strict=True) if is_text]

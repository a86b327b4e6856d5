"""References that store everything and follow the paper's rule token by token, in plain Python.

Nothing here shares code with the package: activations come in as lists of floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VISUAL, TEXT, TEMPLATE, PAD = 2, 3, 1, 0


@dataclass
class Recording:
    """Everything that one neuron did on one sample: a value and a kind per token."""

    id: int
    values: list[float]
    kinds: list[int]

    def of(self, *kinds: int) -> list[float]:
        return [v for v, k in zip(self.values, self.kinds, strict=True) if k in kinds]


def top(recordings: list[Recording], n: int) -> list[Recording]:
    """The n samples with the largest maximum over visual and text tokens; ties to the lower id."""
    present = [r for r in recordings if r.of(VISUAL, TEXT)]
    return sorted(present, key=lambda r: (-max(r.of(VISUAL, TEXT)), r.id))[:n]


def kept(recording: Recording, kind: int, n: int) -> list[float]:
    """The n largest values at tokens of a kind, -inf where there are fewer."""
    values = sorted(recording.of(kind), reverse=True)[:n]
    return values + [-float("inf")] * (n - len(values))


def peak(recordings: list[Recording], *kinds: int) -> float:
    return max(v for r in recordings for v in r.of(*kinds))


def classify(
    recordings: list[Recording], top_n: int, t_visual: float, n_visual: int, t_text: float, n_text: int,
    scaled_by: tuple[int, ...] = (VISUAL, TEXT),
) -> dict[str, float]:  # fmt: skip
    """Shares of the four classes among the top samples: first pass the maxima, second pass every token."""
    maximum = np.float32(peak(recordings, *scaled_by))

    def normalised(value: float) -> np.float32:
        return np.float32(np.float32(max(np.float32(value), np.float32(0))) / maximum) * np.float32(10)

    chosen = top(recordings, top_n)
    counts = {"visual": 0, "text": 0, "multimodal": 0, "unknown": 0}
    for recording in chosen:
        if maximum <= 0:
            counts["unknown"] += 1
            continue
        sees = sum(bool(normalised(v) > np.float32(t_visual)) for v in recording.of(VISUAL)) >= n_visual
        reads = sum(bool(normalised(v) > np.float32(t_text)) for v in recording.of(TEXT)) >= n_text
        counts["multimodal" if sees and reads else "visual" if sees else "text" if reads else "unknown"] += 1
    return {name: count / len(chosen) for name, count in counts.items()}

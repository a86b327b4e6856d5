"""The paper's rule of thresholds (Xu, Lan, Lu 2025, section 3.2), on the activations of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons._checks import is_whole

if TYPE_CHECKING:
    from vlm_neurons.scanning import Run, TopSamples

SCALE = 10.0  # the largest activation of a neuron is mapped to this


@dataclass(frozen=True)
class Thresholds:
    """When a sample counts as seen or as read by a neuron; the defaults are the paper's.

    Attributes:
        t_visual: what activations at visual tokens have to exceed (>), on 0 ... 10.
        n_visual: how many visual tokens have to exceed it, at least (>=).
        t_text: the same as `t_visual` for text tokens.
        n_text: the same as `n_visual` for text tokens.

    >>> from vlm_neurons.classification import Thresholds
    >>> Thresholds(t_visual=8.0).check(run)
    Thresholds(t_visual=8.0, n_visual=4, t_text=3.0, n_text=2)
    """

    t_visual: float = 2.0
    n_visual: int = 4
    t_text: float = 3.0
    n_text: int = 2

    def check(self, run: Run) -> Thresholds:
        """The same, as Python's own numbers.

        Raises:
            ValueError: a threshold outside 0 ... 10, or a count beyond what the scan kept.
        """
        for name in ("t_visual", "t_text"):
            value: float = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= value < SCALE:
                raise ValueError(f"{name}={value!r}: activations are normalised to 0 ... 10; choose 0 <= {name} < 10")
        for name in ("n_visual", "n_text"):
            count, kept = getattr(self, name), run.info["parameters"][name]
            if not is_whole(count) or not 1 <= count <= kept:
                raise ValueError(
                    f"{name}={count!r}: the scan kept {kept} values a sample, so 1 to {kept} can be asked for; "
                    f"scan with a larger {name}= for more"
                )
        return Thresholds(float(self.t_visual), int(self.n_visual), float(self.t_text), int(self.n_text))


def normalise(values: Float[Tensor, "d *n"], peak: Float[Tensor, "d"], scale: float = SCALE) -> Float[Tensor, "d *n"]:
    """Activations on 0 ... 10: `clip(a, 0) / peak * 10`, in float32 and in this order; 0 where the peak is
    not positive.

    Every step is monotone, rounding included: the n-th largest of normalised activations is the n-th largest activation
    normalised. Thresholds are compared as float32 too.

    >>> normalise(torch.tensor([[-1.0, 1.0, 4.0]]), torch.tensor([4.0])).tolist()
    [[0.0, 2.5, 10.0]]
    """
    peak = peak.float().reshape(-1, *[1] * (values.dim() - 1))
    return values.float().clamp(min=0) / torch.where(peak > 0, peak, torch.inf) * scale


def sample_classes(
    state: TopSamples, rule: Thresholds, peak: Float[Tensor, "d"] | None = None
) -> Bool[Tensor, "d top_n 4"]:
    """Which of the four classes, in the order of `Modality`, every top sample is; all False where there is no sample.

    `peak` is the activation that is mapped to 10; by default the largest at visual and text tokens.
    """
    peak = state.peak if peak is None else peak
    sees = normalise(state.visual[..., rule.n_visual - 1], peak) > rule.t_visual
    reads = normalise(state.text[..., rule.n_text - 1], peak) > rule.t_text
    classes = torch.stack([sees & ~reads, reads & ~sees, sees & reads, ~sees & ~reads], -1)
    return classes & (state.sample_ids >= 0)[..., None]

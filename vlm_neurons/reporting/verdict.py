"""What the rule of thresholds makes of one sample, with the counts that it rests on."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from vlm_neurons.classification.thresholds import Thresholds, normalise
from vlm_neurons.evidence import Exemplar
from vlm_neurons.viz.layers import NAMES

_KINDS = {(True, False): "visual", (False, True): "text", (True, True): "multimodal", (False, False): "unknown"}


def verdict(exemplar: Exemplar, peak: float, rule: Thresholds) -> str:
    """The class of a sample in words.

    Args:
        exemplar: a neuron on the sample.
        peak: the activation that is mapped to 10.
        rule: the thresholds.
    """
    sees = sum(_over(p, peak, rule.t_visual) for p in exemplar.patch_acts)
    reads = _over(exemplar.token_acts[exemplar.scored_tokens(sinks=True)], peak, rule.t_text)
    label = _KINDS[sees >= rule.n_visual, reads >= rule.n_text]
    patches, tokens = "patch" if sees == 1 else "patches", "token" if reads == 1 else "tokens"
    return f"{NAMES[label]} sample: {sees} {patches}, {reads} {tokens} above threshold"


def _over(values: Float[np.ndarray, "*n"], peak: float, threshold: float) -> int:
    """How many activations exceed a threshold, by the arithmetic of `classify`."""
    scaled = normalise(torch.from_numpy(values.astype(np.float32)).reshape(1, -1), torch.tensor([peak]))
    return int((scaled > threshold).sum())

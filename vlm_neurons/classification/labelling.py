"""Visual, text, multi-modal or unknown: what a scan says about every neuron (Xu, Lan, Lu 2025, section 3.2)."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from vlm_neurons.classification.counting import Counter, each_state, most_common
from vlm_neurons.classification.tables import labels_in_words, neuron_table, no_classes
from vlm_neurons.classification.thresholds import Thresholds
from vlm_neurons.scanning import Run, TopSamples
from vlm_neurons.scanning.always_on import with_controls
from vlm_neurons.scanning.dictionary_fits import with_poor
from vlm_neurons.tokens import MODALITIES

if TYPE_CHECKING:
    import pandas as pd

CONFIDENT = 0.8  # the paper's high confidence: the largest share exceeds this
_PAPER = Thresholds()
Peak = Literal["tokens", "all"]


def classify(
    run: Run | str | Path,
    t_visual: float = _PAPER.t_visual,
    n_visual: int = _PAPER.n_visual,
    t_text: float = _PAPER.t_text,
    n_text: int = _PAPER.n_text,
    peak: Peak = "tokens",
) -> pd.DataFrame:
    """Label every neuron of a scan by the paper's rule of thresholds; needs neither model nor data, and writes nothing.

    A top sample is visual-activated if at least `n_visual` of its visual tokens exceed `t_visual`, text-activated if at
    least `n_text` of its text tokens exceed `t_text`, on activations normalised per neuron to 0 ... 10. It is a visual
    sample if only the first holds, a text sample if only the second does, multi-modal if both do, unknown if none does.
    The label is the class with the largest share of the top samples. Activations have to exceed their threshold (>),
    counts to reach theirs (>=); the paper says neither.

    `vn.modality_test` labels by a test over all images instead. `run.save(table)` makes the labels those of the run:
    evidence, scores and report read the saved table.

    Args:
        run: a finished scan, or its directory.
        t_visual: threshold of visual tokens, on 0 ... 10.
        n_visual: visual tokens that have to exceed it; at most the number that the scan kept.
        t_text: threshold of text tokens.
        n_text: text tokens that have to exceed it; at most the number that the scan kept.
        peak: what is mapped to 10, which the paper leaves open: a neuron's largest activation at visual and text
            tokens (`"tokens"`), or at all tokens, the template's (roles, prompt, BOS) too (`"all"`): for labels equal
            to those of code that scales by the maximum over a whole sequence.

    Returns:
        One row per neuron and pole, in the order of the scan: `neuron` (id), `site`, `hook`, `layer`, `index`, `pole`,
        `p_visual`, `p_text`, `p_multimodal`, `p_unknown` (shares of the top samples; they sum to 1), `label`,
        `confident` (the largest share exceeds 0.8, and is one of `top_n` samples, not of fewer), `tie` (two classes
        share the largest share; the label is then the first in the order visual, text, multimodal, unknown), `peak`
        (largest activation at visual and text tokens), `peak_all_tokens` (template tokens too; of both the one that
        `peak=` says is mapped to 10), `n_samples` (top samples; fewer than top_n in a small data set); where
        dictionaries were scanned, `poor` (share of a latent's mass at positions that its dictionary explains badly, see
        `vn.scanning.poorly_explained`; NaN for other units). `.attrs["parameters"]` holds the thresholds.
        A neuron whose peak is not positive is unknown. Projector and vision neurons never see
        text: their shares are NaN and their label is `"not_applicable"`.

    Warns:
        UserWarning: no neuron can have a class.

    Raises:
        ValueError: a threshold outside 0 ... 10, or a count beyond what the scan kept.

    >>> table = vn.classify(run).set_index("neuron")
    >>> table.loc[["L2N304", "L0N357", "L3N3"], "label"].tolist()
    ['visual', 'text', 'multimodal']
    >>> stricter = vn.classify(run, t_visual=8.0)  # no new pass
    >>> bool((stricter.label == "visual").sum() < (table.label == "visual").sum())
    True
    """
    run = Run.load(run)
    rule = Thresholds(t_visual, n_visual, t_text, n_text).check(run)
    if peak not in get_args(Peak):
        raise ValueError(f"peak={peak!r}: choose from {', '.join(map(repr, get_args(Peak)))}")
    top_n = int(run.info["parameters"].get("top_n", 0))
    columns = run.info["columns"]
    found = [_found(column, state, rows, rule, top_n, peak) for column, state, rows in each_state(run, columns)]
    table = with_poor(run, with_controls(run, neuron_table(columns, found)))
    table.attrs["parameters"] = {"method": "thresholds", **asdict(rule), "peak": peak}
    if why := no_classes(table):
        warnings.warn(why, stacklevel=2)
    return table


def _found(
    column: dict[str, Any], state: TopSamples, rows: np.ndarray | slice, rule: Thresholds, top_n: int, peak: Peak
) -> dict[str, Any]:
    """What the table says of one hook and pole; a class that rests on fewer than `top_n` samples is not confident."""
    d = len(state.sample_ids)
    counter = Counter(state, state.peak_all.float().numpy() if peak == "all" else None)
    n_samples = counter.n_samples
    shares, labels = np.full((4, d), np.nan), np.full(d, len(MODALITIES))
    confident, tie = np.zeros(d, dtype=bool), np.zeros(d, dtype=bool)
    if column["indexed_by"] == "row":
        counts = counter.counts(rule)
        shares = counts / np.where(n_samples > 0, n_samples, np.nan)
        labels = most_common(counts)
        confident = (shares.max(0) > CONFIDENT) & (n_samples >= top_n)
        tie = ((counts == counts.max(0)).sum(0) > 1) & (n_samples > 0)
    found = {
        **{f"p_{name}": share for name, share in zip(MODALITIES, shares, strict=True)},
        "label": labels,
        "confident": confident,
        "tie": tie,
        "peak": state.peak.float().numpy(),
        "peak_all_tokens": state.peak_all.float().numpy(),
        "n_samples": n_samples.astype(np.int64),
    }
    # copies: what is kept of a tensor of the file would keep all of the file in memory
    every = {name: values[rows].copy() for name, values in found.items()}
    return every | {"label": labels_in_words(every["label"])}

"""The modality test: labels from a test over images, with error rates.

Thresholds on the top samples give a label to everything. Here a neuron is visual if, over all images of the data, its
mean activation at visual tokens exceeds that at text tokens by more than a margin, beyond what chance would do.

Per image i, V_i and T_i are the means of max(a, 0) over its visual and its text tokens (see
`vlm_neurons.scanning.moments`). The modality index M = (E V - E T) / (E V + E T) is 1 for a neuron that answers to
pictures alone, -1 for text alone. With a margin delta and kappa = (1 + delta) / (1 - delta):

- visual, M > delta: E[V - kappa T] > 0
- text, M < -delta: E[T - kappa V] > 0
- multi-modal, |M| < delta: both means are < 0 (an equivalence test: "did not differ" would be no evidence)

Each is tested one-sided over images, twice: by Student's t, and by t corrected for skewness (Hall 1992, "On the
removal of skewness by transformation", J. R. Statist. Soc. B 54); the larger p counts. Activations of one modality are
often rare and now and then very strong: its mean is underestimated most of the time then, and t alone calls the other
modality far too often. The correction alone calls too much where both modalities are that skewed. The three regions
exclude each other: at any true M at most two of the three claims can be wrong and have a chance to be made (on an edge
the margin rules out the third), hence p = min(1, 2 min(p_v, p_t, p_m)). Tokens of one image are correlated; that does
no harm, as no token is ever a unit. The page of this room has the rates of wrong claims that come out in simulations.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from vlm_neurons.classification.interval import interval, t_values
from vlm_neurons.classification.tables import labels_in_words, neuron_table, no_classes
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.always_on import with_controls
from vlm_neurons.scanning.dictionary_fits import with_poor
from vlm_neurons.stats import false_discovery
from vlm_neurons.tokens import MODALITIES

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from vlm_neurons.scanning.moments import Moments

Array = np.ndarray
CLASSES = MODALITIES[:3]  # what can be shown; the fourth is unknown
MIN_ACTIVE = 100  # images in which some modality has to be active
MIN_BOTH = 20  # ... and each of them for "multimodal"
CONFIDENT_Q = 0.001
AT_ONCE = 2**15  # neurons: with fewer the steps cost more than what they do, with more memory does
REASONS = ("", "undecided", "inactive")


@dataclass(frozen=True)
class Tested:
    """Results of the tests, one entry per neuron.

    Attributes:
        index: M estimated; NaN where the neuron is never active.
        low: lower end of the interval of M.
        high: upper end.
        p_classes: p-values of the three classes, in the order of `CLASSES`.
        p: of the best of them, corrected for the choice.
    """

    index: Float[Array, "d"]
    low: Float[Array, "d"]
    high: Float[Array, "d"]
    p_classes: Float[Array, "d 3"]
    p: Float[Array, "d"]


def compare_modalities(
    sums: Float[Array, "d 9"], n: int | Int[Array, "d"], delta: float = 0.2, level: float = 0.95
) -> Tested:
    """The tests, from sums over n images, as `vlm_neurons.scanning.moments.Moments` keeps them.

    >>> import torch
    >>> from vlm_neurons.scanning.moments import sums_of
    >>> v, t = torch.rand(30, 1, dtype=torch.float64) + 1, torch.rand(30, 1, dtype=torch.float64) / 5
    >>> found = compare_modalities(torch.stack(sums_of(v, t), 1).numpy(), n=30)
    >>> bool(found.index[0] > 0.7), CLASSES[found.p_classes[0].argmin()]
    (True, 'visual')
    """
    from scipy.special import stdtr, stdtrit  # of scipy.stats, whose import takes longer than the tests of a large run

    kappa = (1 + delta) / (1 - delta)
    few = np.broadcast_to(np.asarray(n) < 2, len(sums))
    means = np.ascontiguousarray(sums.T) / np.maximum(n, 1)
    with np.errstate(invalid="ignore"):
        index = (means[0] - means[1]) / (means[0] + means[1])
    n = np.maximum(n, 2)
    visual, text = t_values(means, n, 1.0, -kappa), t_values(means, n, -kappa, 1.0)
    above = [stdtr(n - 1, -np.minimum(*t)) for t in (visual, text)]
    p_classes = np.stack([*above, stdtr(n - 1, np.maximum(np.maximum(*visual), np.maximum(*text)))], 1)
    sizes, which = np.unique(n, return_inverse=True)  # few: looking a quantile up for every neuron takes longer
    low, high = interval(means, n, index, stdtrit(sizes - 1, 0.5 + level / 2)[which.reshape(np.shape(n))])
    low, high, p_classes = np.where(few, -1.0, low), np.where(few, 1.0, high), np.where(few[:, None], 1.0, p_classes)
    return Tested(index, low, high, p_classes, np.minimum(1, 2 * p_classes.min(1)))


def labels_of(moments: Moments, tested: Tested, q: Float[Array, "d"], fdr: float) -> tuple[Array, Array]:
    """Numbers of the label in `MODALITIES` and, for the unknown, of the reason in `REASONS`."""
    active = moments.active.numpy()
    best = tested.p_classes.argmin(1)
    decided = (q <= fdr) & ((best != 2) | (active.min(1) >= MIN_BOTH))
    label = np.where(decided, best, MODALITIES.index("unknown"))
    reason = np.where(decided, 0, np.where(eligible(moments), 1, 2))
    return label, reason


def eligible(moments: Moments) -> Array:
    """Bool[d]: active in at least 100 images in some modality."""
    return moments.active.numpy().max(1, initial=0) >= MIN_ACTIVE


def modality_test(
    run: Run | str | Path, fdr: float = 0.05, delta: float = 0.2, correction: Literal["bh", "by"] = "bh"
) -> pd.DataFrame:
    """Label every neuron of a scan by a test over all its images, with a controlled rate of false labels.

    Needs neither model nor data, and writes nothing; `vlm_neurons.classification.modality` explains the test.

    Args:
        run: a finished scan, or its directory.
        fdr: false-discovery rate among the neurons that get a label.
        delta: margin of the modality index: beyond it a neuron is visual or text, within it multi-modal.
        correction: `"bh"` (Benjamini-Hochberg) or `"by"` (Benjamini-Yekutieli: safe under any dependence).

    Returns:
        One row per neuron and pole, in the order of the scan, which begins as that of `classify`: `neuron`, `site`,
        `hook`, `layer`, `index`, `pole`; then `modality_index` (M, -1 text ... 1 visual) with its 95 % interval
        `index_low`, `index_high` (Fieller), `p`, `q` (false-discovery rate; NaN for neurons that were not tested),
        `pvalue_visual`, `pvalue_text`, `pvalue_multimodal`, `label`, `reason` of the unknown (`"inactive"`: active in
        fewer than 100 images in both modalities; `"undecided"`), `confident` (q <= 0.001), `tie` (always False),
        `active_visual`, `active_text` (images) and `n_images`. `.attrs["parameters"]` holds the settings.

    Warns:
        UserWarning: no neuron can have a class.

    Raises:
        ValueError: a rate or margin outside 0 ... 1, or an unknown correction.

    >>> tested = vn.modality_test(run).set_index("neuron")
    >>> tested.loc[["L0N357", "L2N304"], ["label", "reason"]].to_numpy().tolist()  # a test may abstain
    [['text', ''], ['unknown', 'undecided']]
    """
    run = Run.load(run)
    for name, value in (("delta", delta), ("fdr", fdr)):
        if not isinstance(value, Real) or not 0 < value < 1:
            raise ValueError(f"{name}={value!r}: choose a number between 0 and 1")
    if correction not in ("bh", "by"):
        raise ValueError(f"correction={correction!r}: choose 'bh' or 'by'")
    columns = run.info["columns"]
    moments = [run.moments(c["hook"], c["pole"]) if c["indexed_by"] == "row" else None for c in columns]
    tested = _tested(moments, delta)
    pairs = [(m, t) for m, t in zip(moments, tested, strict=True) if m is not None and t is not None]
    # one family of tests: all eligible neurons of the run
    q = false_discovery(np.concatenate([np.zeros(0), *(t.p[eligible(m)] for m, t in pairs)]), correction)
    parts, used = [], 0
    for column, m, t in zip(columns, moments, tested, strict=True):
        q_here = np.full(column["d"], np.nan)
        if m is not None:
            here = eligible(m)
            q_here[here] = q[used : used + here.sum()]
            used += int(here.sum())
        parts.append(_found(column["d"], m, t, q_here, fdr))
    table = with_poor(run, with_controls(run, neuron_table(columns, parts)))
    settings = {"fdr": float(fdr), "delta": float(delta), "correction": correction}
    table.attrs["parameters"] = {"method": "modality-test", **settings}
    if why := no_classes(table):
        warnings.warn(why, stacklevel=2)
    return table


def _tested(moments: Sequence[Moments | None], delta: float) -> list[Tested | None]:
    """The tests of every hook, of some hooks at a time: a step for the last few neurons costs as much as one for
    thousands. None of a hook whose tokens are not of both kinds."""
    found: list[Tested | None] = [None] * len(moments)
    there = [i for i, m in enumerate(moments) if m is not None]
    ends = np.cumsum([len(moments[i].n_images) for i in there])  # type: ignore[union-attr]
    for _, group in groupby(zip(there, ends, strict=True), lambda one: one[1] // AT_ONCE):
        some = [(i, m) for i, _ in group if (m := moments[i]) is not None]
        sums, n = (np.concatenate([getattr(m, name).numpy() for _, m in some]) for name in ("sums", "n_images"))
        every = compare_modalities(sums, n, delta)
        start = 0
        for i, m in some:
            own = slice(start, start := start + len(m.n_images))
            found[i] = Tested(*(getattr(every, field.name)[own] for field in fields(Tested)))
    return found


def _found(d: int, moments: Moments | None, tested: Tested | None, q: Array, fdr: float) -> dict[str, Any]:
    """What the table says of one hook and pole."""
    import pandas as pd

    if moments is None or tested is None:
        nan = np.full(d, np.nan)
        p_classes, found = np.full((d, 3), np.nan), [nan, nan, nan, nan]
        label, reason = np.full(d, len(MODALITIES)), np.zeros(d, dtype=int)
        active, n_images = np.zeros((d, 2), dtype=int), np.zeros(d, dtype=int)
    else:
        p_classes, found = tested.p_classes, [tested.index, tested.low, tested.high, tested.p]
        label, reason = labels_of(moments, tested, q, fdr)
        active, n_images = moments.active.numpy().copy(), moments.n_images.numpy().copy()
    return {
        **dict(zip(("modality_index", "index_low", "index_high", "p"), found, strict=True)),
        "q": q,
        **{f"pvalue_{name}": p_classes[:, i] for i, name in enumerate(CLASSES)},
        "label": labels_in_words(label),
        "reason": pd.Series(REASONS).take(reason).array,
        "confident": (label < len(CLASSES)) & (q <= CONFIDENT_Q),
        "tie": np.zeros(d, dtype=bool),
        "active_visual": active[:, 0],
        "active_text": active[:, 1],
        "n_images": n_images,
    }

"""Visual, text, multi-modal or unknown: what a scan says about every neuron (Xu, Lan, Lu 2025, section 3.2)."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons._checks import is_whole
from vlm_neurons._files import write_atomic
from vlm_neurons.classification.layers import LABELS as LABELS
from vlm_neurons.classification.layers import NOT_APPLICABLE as NOT_APPLICABLE
from vlm_neurons.classification.layers import statistics as statistics
from vlm_neurons.classification.modality import table_of
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.state import TopSamples
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

CONFIDENT = 0.8  # the paper's high confidence: the largest share exceeds this
SCALE = 10.0  # the largest activation of a neuron is mapped to this
METHODS = ("thresholds", "image-test")
PAPER = (2.0, 4, 3.0, 2)  # t_visual, n_visual, t_text, n_text of the paper: the defaults everywhere


def classify(
    run: Run | str | Path,
    method: Literal["thresholds", "image-test"] = "thresholds",
    t_visual: float = PAPER[0],
    n_visual: int = PAPER[1],
    t_text: float = PAPER[2],
    n_text: int = PAPER[3],
    write: bool = True,
    *,
    delta: float = 0.2,
    alpha: float = 0.05,
    correction: Literal["bh", "by"] = "bh",
) -> pd.DataFrame:
    """Label every neuron of a scan; needs neither model nor data.

    Two methods: `"thresholds"`, the paper's rule on the top samples, and `"image-test"`, a test over all images with a
    controlled false-discovery rate (`vlm_neurons.classification.modality` explains it).

    The paper's rule: a top sample is visual-activated if at least `n_visual` of its visual tokens exceed `t_visual`,
    text-activated if at least `n_text` of its text tokens exceed `t_text`, on activations normalised per neuron to
    0 ... 10. It is a visual sample if only the first holds, a text sample if only the second does, multi-modal if both
    do, unknown if none does.
    The label is the class with the largest share of the top samples. Activations have to exceed their threshold (>),
    counts to reach theirs (>=); the paper says neither.

    Args:
        run: a finished scan, or its directory.
        method: `"thresholds"` or `"image-test"`; the former reads the four numbers below, the latter the last three.
        t_visual: threshold of visual tokens, on 0 ... 10.
        n_visual: visual tokens that have to exceed it; at most the number that the scan kept.
        t_text: threshold of text tokens.
        n_text: text tokens that have to exceed it; at most the number that the scan kept.
        write: also write `neurons.parquet` (thresholds) or `labels-image-test.parquet` to the run directory.
        delta: margin of the modality index: beyond it a neuron is visual or text, within it multi-modal.
        alpha: false-discovery rate among the neurons that get a label.
        correction: `"bh"` (Benjamini-Hochberg) or `"by"` (Benjamini-Yekutieli: safe under any dependence).

    Returns:
        One row per neuron and pole, in the order of the scan: `neuron` (id), `site`, `hook`, `layer`, `index`, `pole`,
        `p_visual`, `p_text`, `p_multimodal`, `p_unknown` (shares of the top samples; they sum to 1), `label`,
        `confident` (the largest share exceeds 0.8), `tie` (two classes share the largest share; the label is then the
        first in the order visual, text, multimodal, unknown), `peak` (largest activation at visual and text tokens, the
        one that is mapped to 10), `peak_all_tokens` (template tokens too), `n_samples` (top samples; fewer than top_n
        in a small data set). `.attrs["parameters"]` holds the thresholds.
        A neuron whose peak is not positive is unknown. Projector and vision neurons never see
        text: their shares are NaN and their label is `"not_applicable"`.
        The image test has in place of the shares and peaks: `modality_index` (M, -1 text ... 1 visual) with its 95 %
        interval `index_low`, `index_high` (Fieller), `p`, `q` (false-discovery rate; NaN for neurons that were not
        tested), `pvalue_visual`, `pvalue_text`, `pvalue_multimodal`, `reason` of the unknown (`"inactive"`: active in
        fewer than 100 images in both modalities; `"undecided"`), `confident` (q <= 0.001), `active_visual`,
        `active_text` (images) and `n_images`.

    Raises:
        ValueError: an unknown method, a threshold outside 0 ... 10, a count beyond what the scan kept, or an option of
            the other method.

    >>> table = vn.classify(run, write=False).set_index("neuron")
    >>> table.loc[["L2N304", "L0N357", "L3N3"], "label"].tolist()
    ['visual', 'text', 'multimodal']
    >>> stricter = vn.classify(run, t_visual=8.0, write=False)  # no new pass
    >>> bool((stricter.label == "visual").sum() < (table.label == "visual").sum())
    True
    """
    import pandas as pd

    run = run if isinstance(run, Run) else Run.load(run)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose from {list(METHODS)}")
    if method == "thresholds" and (delta, alpha, correction) != (0.2, 0.05, "bh"):
        raise ValueError("delta, alpha and correction are of the image test: add method='image-test'")
    if method == "image-test" and (t_visual, n_visual, t_text, n_text) != PAPER:
        raise ValueError("t_visual, n_visual, t_text and n_text are of the thresholds: the image test has delta, alpha")
    if method == "image-test":
        return _written(run, table_of(run, delta, alpha, correction), "labels-image-test.parquet", write)
    t_visual, n_visual, t_text, n_text = check_thresholds(run, t_visual, n_visual, t_text, n_text)
    parts = []
    for column in run.info["columns"]:
        state = run.top(column["hook"], column["pole"])
        classes = None
        if column["indexed_by"] == "row":
            classes = sample_classes(state, t_visual, n_visual, t_text, n_text)
        parts.append(_rows(column, state, classes))
    table = pd.concat(parts, ignore_index=True)
    table.attrs["parameters"] = {"t_visual": t_visual, "n_visual": n_visual, "t_text": t_text, "n_text": n_text}
    return _written(run, table, "neurons.parquet", write)


def _written(run: Run, table: pd.DataFrame, name: str, write: bool) -> pd.DataFrame:
    if write:
        write_atomic(run.path / name, lambda temporary: table.to_parquet(temporary, index=False))
    return table


def check_thresholds(
    run: Run, t_visual: float, n_visual: int, t_text: float, n_text: int
) -> tuple[float, int, float, int]:
    """The four as Python's own numbers.

    Raises:
        ValueError: a threshold outside 0 ... 10, or a count beyond what the scan kept.
    """
    for name, threshold in (("t_visual", t_visual), ("t_text", t_text)):
        if not isinstance(threshold, Real) or not 0 <= threshold < SCALE:
            raise ValueError(f"{name}={threshold!r}: activations are normalised to 0 ... 10; choose 0 <= {name} < 10")
    for name, count in (("n_visual", n_visual), ("n_text", n_text)):
        kept = run.info["parameters"][name]
        if not is_whole(count) or not 1 <= count <= kept:
            raise ValueError(
                f"{name}={count!r}: the scan kept {kept} values a sample, so 1 to {kept} can be asked for; "
                f"scan with a larger {name}= for more"
            )
    return float(t_visual), int(n_visual), float(t_text), int(n_text)


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
    state: TopSamples,
    t_visual: float,
    n_visual: int,
    t_text: float,
    n_text: int,
    peak: Float[Tensor, "d"] | None = None,
) -> Bool[Tensor, "d top_n 4"]:
    """Which of the four classes, in the order of `LABELS`, every top sample is; all False where there is no sample.

    `peak` is the activation that is mapped to 10; by default the largest at visual and text tokens.
    """
    peak = state.peak if peak is None else peak
    sees = normalise(state.visual[..., n_visual - 1], peak) > t_visual
    reads = normalise(state.text[..., n_text - 1], peak) > t_text
    classes = torch.stack([sees & ~reads, reads & ~sees, sees & reads, ~sees & ~reads], -1)
    return classes & (state.sample_ids >= 0)[..., None]


def _rows(column: dict[str, Any], state: TopSamples, classes: Tensor | None) -> pd.DataFrame:
    """Rows of the table for one hook and pole."""
    import pandas as pd

    d = column["d"]
    n_samples = (state.sample_ids >= 0).sum(1).numpy()
    # The index is the last number of an id: a frame around it saves building hundreds of thousands of Neurons.
    before, after = Neuron(column["hook"], 0, column["pole"]).id.rsplit("0", 1)
    shares, labels = np.full((d, 4), np.nan), np.full(d, NOT_APPLICABLE, dtype=object)
    confident, tie = np.zeros(d, dtype=bool), np.zeros(d, dtype=bool)
    if classes is not None:
        counts = classes.sum(1).numpy()
        shares = counts / n_samples[:, None]
        labels = np.array(LABELS, dtype=object)[counts.argmax(1)]
        confident = shares.max(1) > CONFIDENT
        tie = (counts == counts.max(1, keepdims=True)).sum(1) > 1
    table: dict[str, Any] = {
        "neuron": [f"{before}{i}{after}" for i in range(d)],
        "site": column["site"],
        "hook": column["hook"],
        "layer": column["layer"],
        "index": np.arange(d),
        "pole": column["pole"],
        **{f"p_{name}": shares[:, i] for i, name in enumerate(LABELS)},
        "label": labels,
        "confident": confident,
        "tie": tie,
        "peak": state.peak.float().numpy(),
        "peak_all_tokens": state.peak_all.float().numpy(),
        "n_samples": n_samples,
    }
    return pd.DataFrame(table)

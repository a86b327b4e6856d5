"""Visual, text, multi-modal or unknown: what a scan says about every neuron (Xu, Lan, Lu 2025, section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.neurons import Neuron
from vlm_neurons.scanning.blocks import write_atomic
from vlm_neurons.scanning.run import Run
from vlm_neurons.scanning.state import TopSamples

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("visual", "text", "multimodal", "unknown")
NOT_APPLICABLE = "not_applicable"
CONFIDENT = 0.8  # the paper's high confidence: the largest share exceeds this
SCALE = 10.0  # the largest activation of a neuron is mapped to this
METHODS = ("thresholds",)


def classify(
    run: Run | str | Path,
    method: Literal["thresholds"] = "thresholds",
    t_visual: float = 2.0,
    n_visual: int = 4,
    t_text: float = 3.0,
    n_text: int = 2,
    write: bool = True,
) -> pd.DataFrame:
    """Label every neuron of a scan; needs neither model nor data.

    A top sample is visual-activated if at least `n_visual` of its visual tokens exceed `t_visual`, text-activated if at
    least `n_text` of its text tokens exceed `t_text`, on activations normalised per neuron to 0 ... 10. It is a visual
    sample if only the first holds, a text sample if only the second does, multi-modal if both do, unknown if none does.
    The label is the class with the largest share of the top samples. Activations have to exceed their threshold (>),
    counts to reach theirs (>=); the paper says neither.

    Args:
        run: a finished scan, or its directory.
        method: `"thresholds"`, the paper's rule.
        t_visual: threshold of visual tokens, on 0 ... 10.
        n_visual: visual tokens that have to exceed it; at most the number that the scan kept.
        t_text: threshold of text tokens.
        n_text: text tokens that have to exceed it; at most the number that the scan kept.
        write: also write `neurons.parquet` to the run directory.

    Returns:
        One row per neuron and pole, in the order of the scan: `neuron` (id), `site`, `hook`, `layer`, `index`, `pole`,
        `p_visual`, `p_text`, `p_multimodal`, `p_unknown` (shares of the top samples; they sum to 1), `label`,
        `confident` (the largest share exceeds 0.8), `tie` (two classes share the largest share; the label is then the
        first in the order visual, text, multimodal, unknown), `peak` (largest activation at visual and text tokens, the
        one that is mapped to 10), `peak_all_tokens` (template tokens too), `n_samples` (top samples; fewer than top_n
        in a small data set). `.attrs["parameters"]` holds the thresholds.
        A neuron whose peak is not positive is unknown. Projector and vision neurons never see
        text: their shares are NaN and their label is `"not_applicable"`.

    Raises:
        ValueError: an unknown method, a threshold outside 0 ... 10, or a count beyond what the scan kept.
    """
    import pandas as pd

    run = run if isinstance(run, Run) else Run.load(run)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose from {list(METHODS)}")
    for name, threshold in (("t_visual", t_visual), ("t_text", t_text)):
        if not 0 <= threshold < SCALE:
            raise ValueError(f"{name}={threshold!r}: activations are normalised to 0 ... 10; choose 0 <= {name} < 10")
    for name, count in (("n_visual", n_visual), ("n_text", n_text)):
        kept = run.info["parameters"][name]
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= kept:
            raise ValueError(
                f"{name}={count!r}: the scan kept {kept} values a sample, so 1 to {kept} can be asked for; "
                f"scan with a larger {name}= for more"
            )
    parts = []
    for column in run.info["columns"]:
        state = run.top(column["hook"], column["pole"])
        classes = None
        if column["indexed_by"] == "row":
            classes = sample_classes(state, t_visual, n_visual, t_text, n_text)
        parts.append(_rows(column, state, classes))
    table = pd.concat(parts, ignore_index=True)
    table.attrs["parameters"] = {"t_visual": t_visual, "n_visual": n_visual, "t_text": t_text, "n_text": n_text}
    if write:
        file = run.path / ("neurons.parquet" if method == "thresholds" else f"labels-{method}.parquet")
        write_atomic(file, lambda temporary: table.to_parquet(temporary, index=False))
    return table


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
    state: TopSamples, t_visual: float, n_visual: int, t_text: float, n_text: int
) -> Bool[Tensor, "d top_n 4"]:
    """Which of the four classes, in the order of `LABELS`, every top sample is; all False where there is no sample."""
    sees = normalise(state.visual[..., n_visual - 1], state.peak) > t_visual
    reads = normalise(state.text[..., n_text - 1], state.peak) > t_text
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


def statistics(table: pd.DataFrame) -> pd.DataFrame:
    """How many neurons of every class there are, by layer and over all layers.

    Args:
        table: what `classify` returns.

    Returns:
        One row per site, pole, layer and label, in the order of the table: `site`, `pole`, `layer` (the number, or
        `"all"`), `label`, `count`, `share` (of the neurons of this site, pole and layer that have a class; NaN for
        `not_applicable`), `confident` (neurons of the class whose largest share exceeds 0.8) and `confident_share` (of
        the class; NaN where it has no neuron). Every class has its row, also where its count is 0.
    """
    import pandas as pd

    rows = []
    for (site, pole), part in table.groupby(["site", "pole"], sort=False):
        layers = [(int(layer), here) for layer, here in part.groupby("layer")]  # type: ignore[call-overload]
        for layer, here in [*layers, ("all", part)]:
            classified = here["label"] != NOT_APPLICABLE
            for label in LABELS if classified.any() else (NOT_APPLICABLE,):
                of_class = here["label"] == label
                count, confident = int(of_class.sum()), int((of_class & here["confident"]).sum())
                rows.append(
                    {
                        "site": site,
                        "pole": pole,
                        "layer": layer,
                        "label": label,
                        "count": count,
                        "share": np.nan if label == NOT_APPLICABLE else count / int(classified.sum()),
                        "confident": confident,
                        "confident_share": confident / count if count and label != NOT_APPLICABLE else np.nan,
                    }
                )
    return pd.DataFrame(rows)

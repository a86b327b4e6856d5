"""Evidence of scanned neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlm_neurons._checks import check_columns, whole
from vlm_neurons.evidence.assembling import Wanted
from vlm_neurons.evidence.exemplars import draw
from vlm_neurons.evidence.gathered import Gathered
from vlm_neurons.evidence.looking import Call
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.batching import halve
from vlm_neurons.scanning.writing import check_length
from vlm_neurons.units import Neuron, parse_neurons

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM


def gather_evidence(
    model: HookedVLM,
    data: ImageTextData,
    run: Run | str | Path,
    neurons: str | Neuron | Iterable[str | Neuron] | pd.DataFrame | pd.Series,
    n_top: int = 50,
    n_spare: int = 50,
    n_pool: int = 500,
    seed: int = 0,
    out: str | Path | Run | None = None,
    progress: bool = True,
) -> Gathered:
    """What chosen neurons did, token by token, on their top samples, at lower quantiles and on random samples.

    Every sample goes through the model once, however many neurons need it. With `out` memory does not grow with the
    neurons, and the same call goes on after a kill: what was looked at is kept in pieces of some samples (in a hidden
    folder beside the evidence, as large as the evidence will be, which is removed at the end). Several processes that
    make the same call (torchrun) share its pieces, and each returns all. A call for some of what is stored, in any
    order, needs no model; nor does one after neurons got other labels. What stays of a call that was killed and is not
    made again are its pieces, in `evidence/.looked-*`: remove them when no call is under way.

    Where memory is too small for the batch size of the scan, it is halved as in a scan, for the run's later calls too.

    Args:
        model: the model that was scanned.
        data: the data that was scanned; prompts and responses are taken from the run.
        run: a finished run, or its directory.
        neurons: neurons of hooks that were scanned, at any site; or rows of a classification table, whose labels the
            evidence takes. Other labels are those of the table that is saved in the run, if there is one.
        n_top: samples from the top of each neuron, at most as many as the scan kept and as half of the data; and as
            many random ones.
        n_spare: random samples more, from which those at lower quantiles are taken.
        n_pool: random samples more, at most, for `score` to draw from those that an explanation speaks of: the rarer
            the concept, the more. All neurons share them.
        seed: of the random draw, which all neurons share.
        out: a run, or a directory: saved into `evidence/` there; neurons that are there already are replaced, others
            stay. None writes no evidence.
        progress: show a bar.

    Returns:
        id -> evidence, as a dict; with `out` it is read from there when it is asked for. A neuron without a positive
        activation has its evidence too; everything is 0 on its scale.

    Raises:
        ValueError: the model gives other activations than the scan stored: it or the data is not what was scanned.
            Or the data has another number of samples.
        KeyError: a hook that was not scanned, or an index that it does not have.
        OSError: an image cannot be read any more; or `out` cannot be written to.
        torch.OutOfMemoryError: memory is too small for one sample.

    Warns:
        UserWarning: the batch size is halved.

    >>> found = vn.gather_evidence(model, data, run, "L2N304", n_top=4, n_spare=4, progress=False)
    >>> strongest = found["L2N304"].exemplars[0].seen
    >>> data[strongest.sample].response.split(" and ")[0]
    'a large pink cross'
    """
    import pandas as pd

    run = Run.load(run)
    check_length(run, data)
    whole(1, n_top=n_top)
    whole(0, n_spare=n_spare, n_pool=n_pool, seed=seed)
    neurons = _rows(neurons)
    chosen = list(dict.fromkeys(parse_neurons(neurons)))
    names = [neuron.id for neuron in chosen]
    labels = labels_of(run, names) | {row["neuron"]: row["label"] for row in neurons if isinstance(row, dict)}
    labels = {name: None if pd.isna(label) else label for name, label in labels.items()}
    folder = None if out is None else ((out.path if isinstance(out, Run) else Path(out)) / "evidence").absolute()

    def gather() -> Gathered:
        call = Call(model, data, run, chosen, labels, seed, progress)
        wanted, stored, peaks = _chosen_samples(run, call.chosen, n_top, n_spare, n_pool, seed)
        call.expect(wanted, stored, peaks)
        if folder is None:
            found = call.in_memory()
            return Gathered({name: found[name] for name in names})
        return Gathered.of(call.on_disk(folder), names)

    while True:
        try:
            return gather()
        except torch.OutOfMemoryError as error:
            small = error.with_traceback(None)  # which holds the tensors
        halve(run, small)


def _rows(neurons: Any) -> Any:
    """Rows of a table, however pandas gave them, as dicts; other things as they are, in a list.

    Raises:
        ValueError: a table without labels.
    """
    import pandas as pd

    if isinstance(neurons, pd.DataFrame):
        check_columns("neurons", neurons, "neuron", "label")
        return neurons[["neuron", "label"]].astype(object).to_dict("records")
    if isinstance(neurons, Mapping) and "label" in neurons:
        return [{"neuron": neurons.get("neuron"), "label": neurons["label"]}]
    if isinstance(getattr(neurons, "neuron", None), str) and hasattr(neurons, "label"):
        return [{"neuron": neurons.neuron, "label": neurons.label}]
    if isinstance(neurons, str | Neuron | Mapping) or not isinstance(neurons, Iterable):
        return [neurons]
    return [row for one in neurons for row in _rows(one)]


def _chosen_samples(
    run: Run, chosen: Sequence[Neuron], n_top: int, n_spare: int, n_pool: int, seed: int
) -> tuple[Wanted, list[list[float]], list[float]]:
    """What neurons are looked at on; of each what the scan stored of its top samples, and its peak."""
    ids = run.samples["id"].tolist()
    n_top = min(n_top, max(1, len(ids) // 2))  # as many random ones have to be left
    drawn = [ids[k] for k in draw(len(ids), 2 * n_top + n_spare + n_pool, seed)]
    tops: list[list[int]] = []
    stored: list[list[float]] = []
    peaks: list[float] = []
    for _, some in groupby(chosen, lambda n: (n.hook, n.pole)):
        for kept, values, peak in _top(run, list(some), n_top):
            tops.append(kept)
            stored.append(values)
            peaks.append(peak)
    # n_top to be random exemplars, n_spare for the quantiles
    return Wanted(chosen, tops, drawn, 2 * n_top + n_spare, n_top + n_spare), stored, peaks


def _top(run: Run, neurons: Sequence[Neuron], n: int) -> list[tuple[list[int], list[float], float]]:
    """Of neurons of one hook and pole, ids and scores of their top samples, and the peak."""
    one = neurons[0]
    if (one.hook, one.pole) not in run.columns:
        raise KeyError(f"{one.id}: not scanned; this run has {run.scanned}")
    best, rows = run.states(one.hook, one.pole)
    row_of = np.arange(len(best.sample_ids))[rows]
    for neuron in neurons:
        if not 0 <= neuron.index < len(row_of):
            raise KeyError(f"{neuron.id}: {neuron.hook} has {len(row_of)} neurons, numbered from 0")
    own = torch.from_numpy(row_of[[neuron.index for neuron in neurons]])
    values = torch.maximum(best.visual[own, :, 0], best.text[own, :, 0]).float().tolist()
    found = []
    for ids, scores in zip(best.sample_ids[own].tolist(), values, strict=True):
        kept = [(i, s) for i, s in zip(ids[:n], scores[:n], strict=True) if i >= 0]
        found.append(([i for i, _ in kept], [s for _, s in kept], scores[0]))
    return found


def labels_of(run: Run, neurons: Sequence[str] | None = None) -> dict[str, Any]:
    """id -> class of some neurons of a run, or of every neuron; empty if it is not classified."""
    import pandas as pd

    file = run.path / "neurons.parquet"
    if not file.is_file() or (neurons is not None and not len(neurons)):
        return {}
    only = None if neurons is None else [("neuron", "in", list(neurons))]
    table = pd.read_parquet(file, columns=["neuron", "label"], filters=only)
    return dict(zip(table["neuron"], np.asarray(table["label"], dtype=object), strict=True))

"""Evidence of scanned neurons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlm_neurons._checks import check_columns, whole
from vlm_neurons.evidence.activations import Activations, Look, look
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar, Seen, assign, draw, rest_of
from vlm_neurons.evidence.written import Written, behind, flat, shown, written
from vlm_neurons.models import on_day
from vlm_neurons.models.state import state_of
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.writing import check_length
from vlm_neurons.units import Neuron, parse_neurons

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from vlm_neurons.data import ImageTextData, Sample
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
) -> dict[str, Evidence]:
    """What chosen neurons did, token by token, on their top samples, at lower quantiles and on random samples.

    Every sample goes through the model once and alone, however many neurons need it.

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
            stay. None writes nothing.
        progress: show a bar.

    Returns:
        id -> evidence. A neuron without a positive activation has its evidence too; everything is 0 on its scale.

    Raises:
        ValueError: the model gives other activations than the scan stored: it or the data is not what was scanned.
            Or the data has another number of samples.
        KeyError: a hook that was not scanned, or an index that it does not have.
        OSError: an image cannot be read any more.

    >>> found = vn.gather_evidence(model, data, run, "L2N304", n_top=4, n_spare=4, progress=False)
    >>> strongest = found["L2N304"].exemplars[0].seen
    >>> data[strongest.sample].response.split(" and ")[0]
    'a large pink cross'
    """
    from vlm_neurons.evidence.storing import save

    run = Run.load(run)
    check_length(run, data)
    whole(1, n_top=n_top)
    whole(0, n_spare=n_spare, n_pool=n_pool, seed=seed)
    neurons = _rows(neurons)
    chosen = list(dict.fromkeys(parse_neurons(neurons)))
    labels = labels_of(run, [neuron.id for neuron in chosen]) | {
        row["neuron"]: row["label"] for row in neurons if isinstance(row, dict)
    }
    tops, others, pools = _chosen_samples(run, chosen, n_top, n_spare, n_pool, seed)
    wanted: dict[int, list[Neuron]] = {}
    for neuron in chosen:
        for sample in (*tops[neuron.id][0], *others[neuron.id], *pools[neuron.id]):
            wanted.setdefault(sample, []).append(neuron)
        for sample in tops[neuron.id][0] if behind(neuron).hook != neuron.hook else ():
            wanted[sample].append(behind(neuron))
    looked = _look_at(model, data, run, wanted, progress)
    found, state = {}, state_of(model)
    for neuron in chosen:
        top, stored, peak = tops[neuron.id]
        strong = [_exemplar(looked[s], neuron) for s in top]
        for exemplar, value in zip(strong, stored, strict=True):
            _check(exemplar, neuron, value, run)
        rest, more = (
            [_exemplar(looked[s], neuron) for s in part[neuron.id] if neuron.id in looked[s][1]]
            for part in (others, pools)
        )
        exemplars = assign(strong, rest)
        source = {"hook": neuron.hook, "index": neuron.index, "pole": neuron.pole, "data": run.info["data"]["source"],
                  "model": run.info["model"]["name"], "run": run.identity, "day": run.info["day"]}  # fmt: skip
        label = labels.get(neuron.id)
        found[neuron.id] = Evidence(
            neuron.id, peak, exemplars, label, seed, source, rest_of(exemplars, more), len(run.samples),
            _written(looked, exemplars, neuron, state),
        )  # fmt: skip
    if out is not None:
        save(found, (out.path if isinstance(out, Run) else Path(out)) / "evidence")
    return found


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
) -> tuple[dict[str, tuple[list[int], list[float], float]], dict[str, list[int]], dict[str, list[int]]]:
    """Of every neuron its top samples, as `_top` gives them, the random ones that it is looked at on, and its pool."""
    ids = run.samples["id"].tolist()
    n_top = min(n_top, max(1, len(ids) // 2))  # as many random ones have to be left
    tops = {n.id: _top(run, n, n_top) for n in chosen}
    drawn = [ids[k] for k in draw(len(ids), 2 * n_top + n_spare + n_pool, seed)]
    first, others, pools = set(drawn[: 2 * n_top + n_spare]), {}, {}
    for neuron in chosen:
        # n_top to be random exemplars, n_spare for the quantiles; a neuron's own top samples are neither
        own = set(tops[neuron.id][0])
        others[neuron.id] = [i for i in drawn if i in first and i not in own][: n_top + n_spare]
        pools[neuron.id] = [i for i in drawn if i not in own and i not in set(others[neuron.id])]
    return tops, others, pools


def _top(run: Run, neuron: Neuron, n: int) -> tuple[list[int], list[float], float]:
    """Ids and scores of the top samples, and the peak."""
    if (neuron.hook, neuron.pole) not in run.columns:
        raise KeyError(f"{neuron.id}: not scanned; this run has {run.scanned}")
    best, rows = run.states(neuron.hook, neuron.pole)
    row_of = np.arange(len(best.sample_ids))[rows]
    if not 0 <= neuron.index < len(row_of):
        raise KeyError(f"{neuron.id}: {neuron.hook} has {len(row_of)} neurons, numbered from 0")
    row = int(row_of[neuron.index])
    # of this neuron alone: the scores of a whole layer for each of a thousand neurons take seconds
    values = torch.maximum(best.visual[row, :, 0], best.text[row, :, 0]).float().tolist()
    kept = [(i, s) for i, s in zip(best.sample_ids[row, :n].tolist(), values[:n], strict=True) if i >= 0]
    return [i for i, _ in kept], [s for _, s in kept], values[0]


def _look_at(
    model: HookedVLM, data: ImageTextData, run: Run, wanted: dict[int, list[Neuron]], progress: bool
) -> dict[int, tuple[Seen, dict[str, Activations]]]:
    """Each sample once, in batches of the scan's size."""
    from tqdm import tqdm

    rows, size = run.samples.set_index("id"), int(run.info["parameters"]["batch_size"])
    looked: dict[int, tuple[Seen, dict[str, Activations]]] = {}
    ids = sorted(wanted)
    bar = tqdm(total=len(ids), desc="evidence", unit="sample", disable=not progress)
    with bar, on_day(model, run.info["day"]):
        for chunk in (ids[i : i + size] for i in range(0, len(ids), size)):
            samples = [
                Look(i, str(row["name"]), _pictures(one, run), row["prompt"], row["response"], wanted[i], one.truth)
                for i, one, row in ((i, data[i], rows.loc[i]) for i in chunk)
            ]
            looked.update(zip(chunk, look(model, samples, run.info["data"]["source"]), strict=True))
            bar.update(len(chunk))
    return looked


def _pictures(sample: Sample, run: Run) -> list[Image]:
    try:
        return sample.load_images()
    except OSError as error:
        raise OSError(
            f"{error}. It could be read when {run.path} was scanned: if the data was moved, say where it is now, with "
            "data= or on the command line --data"
        ) from error


def _exemplar(looked: tuple[Seen, dict[str, Activations]], neuron: Neuron) -> Exemplar:
    seen, activations = looked
    patches, values = activations[neuron.id]
    return Exemplar(seen, "top", "explain", 0, patches, values)


def _written(
    looked: Mapping[int, tuple[Seen, dict[str, Activations]]], exemplars: Sequence[Exemplar], neuron: Neuron, state: str
) -> Written | None:
    """What the unit that acts behind a gate neuron did in the samples that show it."""
    unit, strong = behind(neuron), shown(exemplars)
    if unit.hook == neuron.hook or not strong:
        return None
    gates, posts = (np.concatenate([flat(*looked[e.seen.sample][1][n.id]) for e in strong]) for n in (neuron, unit))
    return written(gates, posts, state)


def _check(exemplar: Exemplar, neuron: Neuron, stored: float, run: Run) -> None:
    """The largest activation has to be what the scan stored, but for what another batch may change."""
    tolerance = 1e-3 if run.info["model"]["dtype"] == "float32" else 0.1
    if not abs(exemplar.peak - stored) <= tolerance * max(1.0, abs(stored)):
        raise ValueError(
            f"{neuron.id} reaches {exemplar.peak:.4g} on sample {exemplar.seen.sample} ({exemplar.seen.name}), the "
            f"scan stored {stored:.4g}: this is another model or other data than {run.path} was made with; pass the "
            "model= and data= of the scan"
        )


def labels_of(run: Run, neurons: Sequence[str] | None = None) -> dict[str, Any]:
    """id -> class of some neurons of a run, or of every neuron; empty if it is not classified."""
    import pandas as pd

    file = run.path / "neurons.parquet"
    if not file.is_file() or (neurons is not None and not len(neurons)):
        return {}
    only = None if neurons is None else [("neuron", "in", list(neurons))]
    table = pd.read_parquet(file, columns=["neuron", "label"], filters=only)
    return dict(zip(table["neuron"], np.asarray(table["label"], dtype=object), strict=True))

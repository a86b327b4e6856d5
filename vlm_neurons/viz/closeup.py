"""What a few neurons did on their top samples, patch by patch and token by token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlm_neurons.evidence.exemplars import Exemplar
from vlm_neurons.evidence.looking import Look, look
from vlm_neurons.units import Neuron, parse_neurons

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

BATCH = 8  # samples of one forward pass


def close_ups(
    model: HookedVLM, data: ImageTextData, run: Run, neurons: str | Iterable[str | Neuron], top: int = 3
) -> dict[str, list[Exemplar]]:
    """Look at the top samples of some neurons once more.

    Every sample goes through the model once, however many neurons want it. (The scan may have run it in another batch,
    so that last digits can differ.)

    Args:
        model: the model that was scanned.
        data: the data that was scanned; prompts and responses are taken from the run.
        run: a finished run.
        neurons: neurons of hooks that were scanned.
        top: samples per neuron; fewer where the neuron has fewer.

    Returns:
        id of the neuron -> its samples, the strongest first, as exemplars of the group `"top"`.

    Raises:
        ValueError: the model gives other activations than the scan stored: it or the data is not what was scanned.
        OSError: an image cannot be read any more.
    """
    chosen = parse_neurons(neurons)
    wanted: dict[int, list[Neuron]] = {}
    stored: dict[tuple[str, int], float] = {}
    ranks: dict[tuple[str, int], int] = {}
    tops = {key: run.top(*key) for key in {(n.hook, n.pole) for n in chosen}}
    for neuron in chosen:
        best = tops[neuron.hook, neuron.pole]
        for rank, sample in enumerate(best.sample_ids[neuron.index, :top].tolist()):
            if sample >= 0:
                wanted.setdefault(sample, []).append(neuron)
                first = (best.visual[neuron.index, rank, 0], best.text[neuron.index, rank, 0])
                stored[neuron.id, sample] = max(float(v) for v in first)
                ranks[neuron.id, sample] = rank
    rows = run.samples.set_index("id")
    looks = [
        Look(s, str(row["name"]), data[s].load_images(), row["prompt"], row["response"], there)
        for s, there in wanted.items()
        for row in [rows.loc[s]]
    ]
    found: dict[tuple[str, int], Exemplar] = {}
    for start in range(0, len(looks), BATCH):
        for seen, values in look(model, looks[start : start + BATCH], run.info["data"]["source"]):
            for name, (patches, tokens) in values.items():
                exemplar = Exemplar(seen, "top", "explain", ranks[name, seen.sample], patches, tokens)
                found[name, seen.sample] = exemplar
                _check(exemplar, name, stored[name, seen.sample], run)
    return {n.id: [found[key] for key in stored if key[0] == n.id] for n in chosen}


def _check(exemplar: Exemplar, neuron: str, stored: float, run: Run) -> None:
    """The largest activation has to be what the scan stored, but for what another batch may change."""
    here, seen = exemplar.peak, exemplar.seen
    tolerance = 1e-3 if run.info["model"]["dtype"] == "float32" else 0.1
    if not abs(here - stored) <= tolerance * max(1.0, abs(stored)):
        raise ValueError(
            f"{neuron} reaches {here:.4g} on sample {seen.sample} ({seen.name}), the scan stored {stored:.4g}: "
            f"this is another model or other data than {run.path} was made with; pass the model= and data= of the scan"
        )

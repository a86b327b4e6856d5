"""What a few neurons did on their top samples, patch by patch and token by token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_neurons.evidence.looking import Look, look
from vlm_neurons.neurons import Neuron, parse_neurons

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData, Sample
    from vlm_neurons.model import HookedVLM
    from vlm_neurons.scanning import Run


@dataclass(frozen=True, eq=False)
class CloseUp:
    """One neuron on one sample.

    Attributes:
        sample: id of the sample.
        name: its name.
        response: the text that counts as TEXT.
        images: what the model saw: resized and cropped.
        patches: for each image, the activation at every patch; the negative pole's are negated.
        tokens: the TEXT tokens as they read; none for a neuron that sees images only.
        values: activation at each of them.
    """

    sample: int
    name: str
    response: str
    images: tuple[Image.Image, ...]
    patches: tuple[Float[np.ndarray, "rows columns"], ...]
    tokens: tuple[str, ...]
    values: Float[np.ndarray, "token"]


def close_ups(
    model: HookedVLM, data: ImageTextData, run: Run, neurons: str | Iterable[str | Neuron], top: int = 3
) -> dict[str, list[CloseUp]]:
    """Look at the top samples of some neurons once more.

    Every sample goes through the model once and alone, however many neurons want it. (The scan may have run it in a
    larger batch, so that last digits can differ.)

    Args:
        model: the model that was scanned.
        data: the data that was scanned; prompts and responses are taken from the run.
        run: a finished run.
        neurons: neurons of hooks that were scanned.
        top: samples per neuron; fewer where the neuron has fewer.

    Returns:
        id of the neuron -> its samples, the strongest first.

    Raises:
        ValueError: the model gives other activations than the scan stored: it or the data is not what was scanned.
        OSError: an image cannot be read any more.
    """
    chosen = parse_neurons(neurons)
    wanted: dict[int, list[Neuron]] = {}
    stored: dict[tuple[str, int], float] = {}
    tops = {key: run.top(*key) for key in {(n.hook, n.pole) for n in chosen}}
    for neuron in chosen:
        best = tops[neuron.hook, neuron.pole]
        for rank, sample in enumerate(best.sample_ids[neuron.index, :top].tolist()):
            if sample >= 0:
                wanted.setdefault(sample, []).append(neuron)
                first = (best.visual[neuron.index, rank, 0], best.text[neuron.index, rank, 0])
                stored[neuron.id, sample] = max(float(v) for v in first)
    rows = run.samples.set_index("id")
    seen: dict[tuple[str, int], CloseUp] = {}
    for sample, there in wanted.items():
        for name, close in _look(model, data[sample], rows.loc[sample], there).items():
            seen[name, sample] = close
            _check(close, name, stored[name, sample], run)
    return {n.id: [seen[key] for key in stored if key[0] == n.id] for n in chosen}


def _look(model: HookedVLM, sample: Sample, row: Any, neurons: list[Neuron]) -> dict[str, CloseUp]:
    """One forward pass of one sample."""
    wanted = Look(sample.id, str(row["name"]), sample.load_images(), row["prompt"], row["response"], neurons)
    ((seen, found),) = look(model, [wanted])
    close = {}
    for neuron, (patches, values) in found.items():
        text = seen.is_text & ~np.isnan(values)
        tokens = tuple(t for t, is_text in zip(seen.tokens, text, strict=True) if is_text)
        close[neuron] = CloseUp(sample.id, seen.name, str(row["response"]), seen.images, patches, tokens, values[text])
    return close


def _check(close: CloseUp, neuron: str, stored: float, run: Run) -> None:
    """The largest activation has to be what the scan stored, but for what another batch may change."""
    here = max(float(v.max()) for v in (*close.patches, close.values) if v.size)
    tolerance = 1e-3 if run.info["model"]["dtype"] == "float32" else 0.1
    if not abs(here - stored) <= tolerance * max(1.0, abs(stored)):
        raise ValueError(
            f"{neuron} reaches {here:.4g} on sample {close.sample} ({close.name}), the scan stored {stored:.4g}: "
            f"this is another model or other data than {run.path} was made with; pass the model= and data= of the scan"
        )

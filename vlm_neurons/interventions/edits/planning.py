"""All inputs that the edits of some neurons need, and their activations."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from tqdm import tqdm

from vlm_neurons._checks import short
from vlm_neurons.data import ImageTextData
from vlm_neurons.interventions.edits import photographs, rendered, texts
from vlm_neurons.interventions.edits.keeping import Kept
from vlm_neurons.interventions.edits.photographs import Boxes
from vlm_neurons.interventions.edits.pixels import Box
from vlm_neurons.interventions.edits.running import peaks
from vlm_neurons.interventions.edits.trials import Inputs, Sheet, Trial, Wanted
from vlm_neurons.protocols import Side
from vlm_neurons.synthetic.dataset import Scenes
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

PART = 10  # batches that are kept together
TIMED = 2  # batches that the printed time is told from
UNDRAWN = "pictures are not edited: those in this data cannot be drawn anew, and this neuron has no boxes"
LEAST = 10  # samples; of fewer a 95th percentile is their largest


@dataclass
class Plan:
    """All that will be run on one side of the data.

    Attributes:
        inputs: each once.
        natural: numbers of the samples as they are.
        sheets: trials of every edit that was asked for, and can be made.
        lacking: why others cannot.
    """

    inputs: Inputs = field(default_factory=Inputs)
    natural: list[int] = field(default_factory=list)
    sheets: dict[Wanted, Sheet] = field(default_factory=dict)
    lacking: str = ""


def checked_boxes(data: ImageTextData, boxes: Any, neurons: Mapping[str, Neuron]) -> dict[str, Boxes]:
    """Boxes by neuron id, in whole pixels of the picture.

    Raises:
        ValueError: they are no boxes, without a pixel of the picture, of a neuron without explanation, or of a sample
            without an image.
    """
    if not isinstance(boxes, Mapping):
        raise ValueError(f"boxes={short(boxes)}: give {{neuron: {{sample id: [(left, top, right, bottom)]}}}}")
    found: dict[str, Boxes] = {}
    for key, samples in boxes.items():
        neuron = Neuron.parse(key).id
        if neuron not in neurons:
            raise ValueError(f"boxes of {key}, which has no explanation: give both for the same neurons")
        if not isinstance(samples, Mapping):
            raise ValueError(f"boxes[{key!r}]={short(samples)}: give {{sample id: [(left, top, right, bottom)]}}")
        for sample, each in samples.items():
            if sample not in range(len(data)) or not data.facts[sample].digests:
                raise ValueError(
                    f"boxes[{key!r}]: sample {sample!r} is none of the data's {len(data)}, or has no image"
                )
            if not all(_is_box(box) for box in each):
                raise ValueError(
                    f"boxes[{key!r}][{sample}]: each is (left, top, right, bottom), left < right, top < bottom"
                )
        found[neuron] = {int(sample): _inside(data, key, int(sample), each) for sample, each in samples.items()}
    return found


def _inside(data: ImageTextData, key: str, sample: int, boxes: Sequence[Box]) -> list[Box]:
    """Boxes in whole pixels, without what is outside the picture."""
    found: list[Box] = []
    width, height = data[sample].load_images()[0].size if len(boxes) else (0, 0)
    for box in boxes:
        (left, right), (top, bottom) = (
            [min(max(round(float(v)), 0), side) for v in ends]
            for ends, side in ((box[::2], width), (box[1::2], height))
        )
        if left >= right or top >= bottom:
            told = ", ".join(f"{float(v):g}" for v in box)
            raise ValueError(
                f"boxes[{key!r}][{sample}]: ({told}) has no pixel of the picture, {width} x {height} (width x height): "
                "give (left, top, right, bottom) in its pixels"
            )
        found.append((left, top, right, bottom))
    return found


def _is_box(box: Any) -> bool:
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError):
        return False
    return all(map(math.isfinite, (left, top, right, bottom))) and left < right and top < bottom


def plan(
    model: HookedVLM, data: ImageTextData, side: Side, wanted: Mapping[str, list[Wanted]],
    boxes: Mapping[str, Boxes], n: int, seed: int,
) -> Plan:  # fmt: skip
    """The inputs of all edits of one side; none where nobody asks, or the data cannot be edited."""
    every = list(dict.fromkeys(w for mine in wanted.values() for w in mine if w.side == side))
    if not every:
        return Plan()
    usable = [i for i, one in enumerate(data.facts) if (one.digests if side == "picture" else one.response)]
    if not usable:
        return Plan(lacking=f"{side}s are not edited: no sample in this data has one")
    if side == "picture" and not (isinstance(data, Scenes) and data.asked[0] != "text"):
        every = [w for w in every if w.edit in photographs.EDITS]
    if not every:
        return Plan(lacking=UNDRAWN)
    if len(usable) < LEAST:
        raise ValueError(f"{len(usable)} samples have a {side} that can be edited: give at least {LEAST}")
    order = np.random.default_rng([seed, 1]).permutation(usable).tolist()
    return (_of_pictures(data, every, boxes, order, n, seed) if side == "picture"
            else _of_texts(model, data, every, sorted(order[:n]), seed))  # fmt: skip


def _of_pictures(
    data: ImageTextData, every: list[Wanted], boxes: Mapping[str, Boxes], order: list[int], n: int, seed: int
) -> Plan:
    """Levels are those of the first n samples of a random order, whether they have boxes or not."""
    made, samples = Plan(lacking=UNDRAWN), sorted(order[:n])
    if isinstance(data, Scenes):
        made.natural = rendered.natural(data, samples, made.inputs)
    else:
        made.natural = photographs.natural(data, samples, made.inputs)
    for w in every:
        if w.edit in photographs.EDITS:
            mine = boxes[dict(w.named[0])["region"]]
            having, lacking = ([i for i in order if bool(mine.get(i)) == yes][:n] for yes in (True, False))
            found: list[Trial] = photographs.trials(data, sorted(having), sorted(lacking), w, mine, made.inputs, seed)
            made.sheets[w] = Sheet.of(found, len(lacking if w.edit == "paste" else having))
        elif isinstance(data, Scenes):
            made.sheets[w] = Sheet.of(rendered.trials(data, samples, w, made.inputs, seed), len(samples))
    return made


def _of_texts(model: HookedVLM, data: ImageTextData, every: list[Wanted], samples: list[int], seed: int) -> Plan:
    made = Plan()
    more = {word for w in every for one in w.named for pair in one for word in texts.surface(*pair)}
    said = [data[i].response or "" for i in samples]
    words = texts.Vocabulary.of(said, more, model.tokenizer, isinstance(data, Scenes))
    made.natural = texts.natural(data, samples, made.inputs, words)
    for w in every:
        made.sheets[w] = Sheet.of(texts.trials(data, samples, w, made.inputs, seed, words), len(samples))
    return made


def run(
    model: HookedVLM, plans: Mapping[Side, Plan], neurons: list[Neuron], batch_size: int, console: Console, bar: bool,
    kept: Kept | None,
) -> dict[Side, np.ndarray]:  # fmt: skip
    """[input, neuron] of both sides, after saying what it will cost; what was kept is not run again."""
    for side, one in plans.items():
        if bar and (first := one.inputs.made[: TIMED * batch_size]):
            began = time.perf_counter()
            peaks(model, first, neurons, side, batch_size, lambda done: None)
            seconds = (time.perf_counter() - began) / len(first)
            console.print(
                f"{len(one.sheets)} edits of {side}s on {len(one.natural)} samples for {len(neurons):,} neurons: "
                f"{len(one.inputs.made):,} inputs, each once, about {seconds * len(one.inputs.made) / 60:.1f} min."
            )
    found: dict[Side, np.ndarray] = {}
    with tqdm(total=sum(len(p.inputs.made) for p in plans.values()), desc="edits", disable=not bar) as shown:
        for side, one in plans.items():
            parts = [np.zeros((0, len(neurons)), np.float32)]
            for start in range(0, len(one.inputs.made), PART * batch_size):
                acts = None if kept is None else kept.part(side, start)
                if acts is not None:
                    shown.update(len(acts))
                else:
                    some = one.inputs.made[start : start + PART * batch_size]
                    acts = peaks(model, some, neurons, side, batch_size, shown.update)
                    if kept is not None:
                        kept.put(side, start, acts)
                parts.append(acts)
            found[side] = np.concatenate(parts)
    return found

"""All inputs that the edits of some neurons need, and their activations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from tqdm import tqdm

from vlm_neurons.data import ImageTextData
from vlm_neurons.interventions.edits import generated, photographs, rendered, texts
from vlm_neurons.interventions.edits.generated import Generate
from vlm_neurons.interventions.edits.keeping import Kept
from vlm_neurons.interventions.edits.regions import Regions
from vlm_neurons.interventions.edits.running import peaks
from vlm_neurons.interventions.edits.trials import Inputs, Row, Sheet, Trial, Wanted, digest_of
from vlm_neurons.protocols import Side
from vlm_neurons.synthetic.dataset import Scenes
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from vlm_neurons.models import HookedVLM

PART = 10  # batches that are kept together
TIMED = 2  # batches that the printed time is told from
UNDRAWN = "pictures are not edited: those in this data cannot be drawn anew, and this neuron has no boxes or regions"
AS_IT_IS = 5  # times the samples that are edited say what a neuron does: a rare concept is in few, and one run is cheap
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


def order_of(data: ImageTextData, side: Side, seed: int) -> list[int]:
    """The samples that have a picture, or a text, in the random order in which they are taken."""
    usable = [i for i, one in enumerate(data.facts) if (one.digests if side == "picture" else one.response)]
    return [int(i) for i in np.random.default_rng([seed, 1]).permutation(usable)]


def plan(
    model: HookedVLM, data: ImageTextData, side: Side, wanted: Mapping[str, list[Wanted]],
    regions: Mapping[str, Regions], n: int, seed: int, generate: Generate | None = None,
) -> Plan:  # fmt: skip
    """The inputs of all edits of one side; none where nobody asks, or the data cannot be edited."""
    every = list(dict.fromkeys(w for mine in wanted.values() for w in mine if w.side == side))
    if not every:
        return Plan()
    order = order_of(data, side, seed)
    if not order:
        return Plan(lacking=f"{side}s are not edited: no sample in this data has one")
    if side == "picture" and not (isinstance(data, Scenes) and data.asked[0] != "text"):
        every = [w for w in every if w.edit in (*photographs.REGIONAL, generated.EDIT)]
    if not every:
        return Plan(lacking=UNDRAWN)
    if len(order) < LEAST:
        raise ValueError(f"{len(order)} samples have a {side} that can be edited: give at least {LEAST}")
    return (_of_pictures(data, every, regions, order, n, seed, generate) if side == "picture"
            else _of_texts(model, data, every, order, n, seed))  # fmt: skip


def _of_pictures(
    data: ImageTextData, every: list[Wanted], regions: Mapping[str, Regions], order: list[int], n: int, seed: int,
    generate: Generate | None,
) -> Plan:  # fmt: skip
    """Levels are of samples in a random order, whether they have boxes or not."""
    made, samples, levels = Plan(lacking=UNDRAWN), sorted(order[:n]), sorted(order[: AS_IT_IS * n])
    if isinstance(data, Scenes):
        made.natural = rendered.natural(data, levels, made.inputs)
    else:
        made.natural = photographs.natural(data, levels, made.inputs)
    for w in every:
        if w.edit in photographs.REGIONAL:
            mine = regions[dict(w.named[0])["region"]]
            having, lacking = ([i for i in order if i in mine and bool(mine[i]) == yes][:n] for yes in (True, False))
            found: list[Trial] = photographs.trials(data, sorted(having), sorted(lacking), w, mine, made.inputs, seed)
            made.sheets[w] = Sheet.of(found, len(lacking if w.edit == "paste" else having))
        elif w.edit == generated.EDIT:
            if generate is not None:
                pictures = generated.trials(generate, every, w, made.inputs, seed)
                made.sheets[w] = Sheet.of(pictures, len(pictures))
        elif isinstance(data, Scenes):
            made.sheets[w] = Sheet.of(rendered.trials(data, samples, w, made.inputs, seed), len(samples))
    return made


def _of_texts(model: HookedVLM, data: ImageTextData, every: list[Wanted], order: list[int], n: int, seed: int) -> Plan:
    made, samples, levels = Plan(), sorted(order[:n]), sorted(order[: AS_IT_IS * n])
    more = {word for w in every for one in w.named for pair in one for word in texts.surface(*pair)}
    said = [data[i].response or "" for i in samples]
    words = texts.Vocabulary.of(said, more, model.tokenizer, isinstance(data, Scenes))
    made.natural = texts.natural(data, levels, made.inputs, words)
    for w in every:
        made.sheets[w] = Sheet.of(texts.trials(data, samples, w, made.inputs, seed, words), len(samples))
    return made


def run(
    model: HookedVLM, plans: Mapping[Side, Plan], neurons: list[Neuron], batch_size: int, console: Console, bar: bool,
    kept: Kept | None,
) -> dict[Side, np.ndarray]:  # fmt: skip
    """[input, neuron] of both sides, after saying what it will cost; what was kept is not run again. Trials whose two
    inputs turn out to be the same are counted in their sheets, and are no trials any more."""
    for side, one in plans.items():
        if bar and (first := one.inputs.made[: TIMED * batch_size]):
            began = time.perf_counter()
            peaks(model, first, neurons, side, batch_size, lambda done: None)
            seconds = (time.perf_counter() - began) / len(first)
            console.print(
                f"{len(one.sheets)} edits of {side}s, beside {len(one.natural)} samples as they are, for "
                f"{len(neurons):,} neurons: {len(one.inputs.made):,} inputs, each once, "
                f"about {seconds * len(one.inputs.made) / 60:.1f} min."
            )
    found: dict[Side, np.ndarray] = {}
    with tqdm(total=sum(len(p.inputs.made) for p in plans.values()), desc="edits", disable=not bar) as shown:
        for side, one in plans.items():
            parts, digests = [np.zeros((0, len(neurons)), np.float32)], [np.zeros(0, np.int64)]
            for start in range(0, len(one.inputs.made), PART * batch_size):
                part = None if kept is None else kept.part(side, start)
                if part is not None:
                    shown.update(len(part[0]))
                else:
                    some: list[int] = []
                    made = [_noted(make, some) for make in one.inputs.made[start : start + PART * batch_size]]
                    part = peaks(model, made, neurons, side, batch_size, shown.update), np.array(some, np.int64)
                    if kept is not None:
                        kept.put(side, start, *part)
                parts.append(part[0])
                digests.append(part[1])
            found[side], same = np.concatenate(parts), np.concatenate(digests)
            one.sheets = {wanted: sheet.changed(same) for wanted, sheet in one.sheets.items()}
    return found


def _noted(make: Callable[[], Row], digests: list[int]) -> Callable[[], Row]:
    """The same input; what it is, is noted when it is made."""

    def noted() -> Row:
        row = make()
        digests.append(digest_of(row))
        return row

    return noted

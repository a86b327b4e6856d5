"""What a bank of concepts is told of the samples of a batch, and whether what it says of them can be used."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from vlm_neurons.protocols import SIDES, Concept, ConceptBank, Maps, Side, View
from vlm_neurons.tokens import Patches, TokenKind

if TYPE_CHECKING:
    from vlm_neurons.data import Sample
    from vlm_neurons.models import Batch

MOST = 20_000  # concepts of one side: a word list by mistake has more
Concepts = dict[Side, tuple[Concept, ...]]


def views_of(batch: Batch, samples: Sequence[Sample], digests: Sequence[tuple[str, ...]]) -> list[View]:
    """What the model is shown of every row of a batch.

    Args:
        batch: with its processors, as `HookedVLM.prepare` made it.
        samples: of every row.
        digests: of the images of every row.
    """
    patches = Patches.of(batch.patches)
    boxes, original, cells = patches.boxes, patches.original, patches.cells
    ends = np.cumsum([0, *batch.patch_counts])
    own = [slice(int(a), int(b)) for a, b in pairwise(ends)]
    is_text, home = batch.mask(TokenKind.TEXT).cpu().numpy(), batch.image_rows.tolist()
    views = []
    for row, sample in enumerate(samples):
        images = [i for i, of in enumerate(home) if of == row]
        views.append(
            View(
                sample.name,
                tuple(batch.seen_image(i) for i in images),
                tuple(boxes[own[i]] for i in images),
                tuple(cells[own[i]] for i in images),
                tuple(batch.grids[i] for i in images),
                tuple(batch.images[i] for i in images),
                tuple(original[own[i]] for i in images),
                tuple(sample.image_paths),
                tuple(digests[row]),
                tuple(t for t, text in zip(batch.tokens(row), is_text[row], strict=True) if text),
                None if sample.truth is None else sample.truth(),
            )
        )
    return views


def concepts_of(bank: ConceptBank) -> Concepts:
    """The concepts of a bank by side.

    Raises:
        ValueError: there are none, one is there twice, or there are so many that it must be a mistake.
    """
    found: Concepts = {side: tuple(bank.concepts(side)) for side in SIDES}
    for side, concepts in found.items():
        if len(concepts) > MOST:
            raise ValueError(
                f"concepts={bank.name!r} has {len(concepts):,} concepts of the {side}: at most {MOST:,} can be told "
                "apart; take the most frequent ones, or a shorter list"
            )
        if (
            twice := [c.name for c in {*concepts} if concepts.count(c) > 1][:1]
            if len({*concepts}) < len(concepts)
            else []
        ):
            raise ValueError(f"concepts={bank.name!r} has {twice[0]!r} twice: a bank gives every concept once")
    if not any(found.values()):
        raise ValueError(
            f"concepts={bank.name!r} has no concepts: its vocabulary or its file is empty, or the data has no responses"
        )
    return found


def maps_of(bank: ConceptBank, concepts: Concepts, views: Sequence[View], device: str | None = None) -> list[Maps]:
    """Maps of some samples in float32, checked; by the bank's model on a device where that is given.

    Raises:
        ValueError: a map has another shape or kind of number than it should, or is infinite.
    """
    found = [bank.maps(view) for view in views] if device is None else bank.maps_of_batch(views, device)
    if len(found) != len(views):
        raise ValueError(f"bank {bank.name!r} gave maps of {len(found)} samples when it was asked for {len(views)}")
    return [
        Maps(*(_checked(bank, concepts[s], v, s, getattr(m, s)) for s in SIDES))
        for m, v in zip(found, views, strict=True)
    ]


def _checked(bank: ConceptBank, concepts: Sequence[Concept], view: View, side: Side, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    places = view.n_patches if side == "picture" else len(view.tokens)
    of = f"bank {bank.name!r}, sample {view.name}, {side}"
    if values.shape != (places, len(concepts)):
        what = "patches" if side == "picture" else "tokens"
        raise ValueError(f"{of}: a map of {values.shape}; {places} {what} x {len(concepts)} concepts are needed")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{of}: a map of {values.dtype}; give real numbers, and NaN where a sample is not annotated")
    values = values.astype(np.float32)
    if np.isinf(values).any():
        name = concepts[int(np.isinf(values).any(0).argmax())].name
        raise ValueError(f"{of}: the map of {name!r} is infinite somewhere; give finite numbers")
    return values


def check_steady(bank: ConceptBank, concepts: Concepts, view: View, device: str | None = None) -> None:
    """Ask twice for the same sample.

    Raises:
        ValueError: the answers differ.
    """
    first, second = (maps_of(bank, concepts, [view], device)[0] for _ in range(2))
    if concepts_of(bank) != concepts:
        raise ValueError(f"bank {bank.name!r} has other concepts than at first: it must give the same at every call")
    for side in SIDES:
        if not np.array_equal(getattr(first, side), getattr(second, side), equal_nan=True):
            raise ValueError(
                f"bank {bank.name!r} gives other maps of sample {view.name} when it is asked again ({side}): maps must "
                "depend on the sample and on identity() alone"
            )

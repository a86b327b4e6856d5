"""One forward pass of some samples, for every neuron that wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from vlm_neurons.evidence.exemplars import Seen
from vlm_neurons.models.reading import of_tokens, readers
from vlm_neurons.sites.sparse import Sparse
from vlm_neurons.tokens import Patches, TokenKind
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vlm_neurons.data import Truth
    from vlm_neurons.models import Batch, HookedVLM

# A residual stream so many times longer than the row's median is a sink: real ones are hundreds of times larger
# (Sun et al. 2024, Massive Activations in Large Language Models), ordinary positions stay within a factor of a few.
SINK = 20.0
NO_NEGATIVE = 0.0  # added: of -0 it makes 0
Activations = tuple[tuple[np.ndarray, ...], np.ndarray]  # maps [rows, columns] of every image; values [token]
Take = Callable[[int, str, np.ndarray], None]


class Units(NamedTuple):
    """Units of a hook: their numbers, and the signs of their poles."""

    indices: Int[np.ndarray, "neuron"]
    signs: Float[np.ndarray, "neuron"]

    @classmethod
    def of(cls, neurons: Sequence[Neuron]) -> Units:
        """Of neurons of one hook."""
        signs = [-1 if n.pole == "-" else 1 for n in neurons]
        return cls(np.array([n.index for n in neurons], int), np.array(signs, np.float32))

    def some(self, numbers: Int[np.ndarray, "some"]) -> Units:
        """Some of them."""
        return Units(self.indices[numbers], self.signs[numbers])

    def then(self, others: Units) -> Units:
        """These, and then others."""
        return Units(*map(np.concatenate, zip(self, others, strict=True)))


@dataclass(frozen=True)
class Look:
    """A sample to look at.

    Attributes:
        sample: id in the data set.
        name: its name.
        images: all of its images.
        prompt: its prompt.
        response: its response, if it has one.
        truth: what the data set knows of it, see `Sample`.
    """

    sample: int
    name: str
    images: Sequence[Image.Image]
    prompt: str
    response: str | None
    truth: Callable[[], Truth] | None = None


def look(
    model: HookedVLM, samples: Sequence[Look], neurons: Sequence[Sequence[Neuron]], source: str = ""
) -> list[tuple[Seen, dict[str, Activations]]]:
    """Run some samples through the model, in one batch.

    Args:
        model: any.
        samples: a batch of them.
        neurons: of each sample those whose activations are kept.
        source: what the data calls itself.

    Returns:
        For each sample what the model saw; and of every neuron its activations at the patches of each image and at
        every token but the visual ones (NaN where the neuron is not defined, and where its site sees no text). The
        negative pole's are negated. Sites indexed by image are without CLS, and absent from a sample without images;
        where several rows of the vision tower are one patch, its value is the largest of theirs.
    """
    found: list[dict[Neuron, np.ndarray]] = [{} for _ in samples]
    by_hook: list[dict[str, list[Neuron]]] = [{} for _ in samples]
    for of_sample, own in zip(by_hook, neurons, strict=True):
        for neuron in own:
            of_sample.setdefault(neuron.hook, []).append(neuron)

    def take(row: int, hook: str, values: Float[np.ndarray, "neuron place"]) -> None:
        found[row].update(zip(by_hook[row][hook], values, strict=True))

    wanted = [{hook: Units.of(own) for hook, own in of_sample.items()} for of_sample in by_hook]
    seen = look_into(model, samples, wanted, take, source)
    return [
        (one, {n.id: parts_of(one, there[n]) for n in own if n in there})
        for one, own, there in zip(seen, neurons, found, strict=True)
    ]


def parts_of(seen: Seen, values: Float[np.ndarray, "place"]) -> Activations:
    """A neuron's values at all places of a sample (patches of every image, row by row, then tokens) as maps and
    values of tokens."""
    shapes = [b.shape[:2] for b in seen.boxes]
    ends = np.cumsum([rows * columns for rows, columns in shapes]).tolist()
    maps = np.split(values, ends)
    return tuple(one.reshape(shape).copy() for one, shape in zip(maps, shapes, strict=False)), maps[-1].copy()


def look_into(
    model: HookedVLM, samples: Sequence[Look], wanted: Sequence[Mapping[str, Units]], take: Take, source: str = ""
) -> list[Seen]:
    """`look`, which hands activations on as the layers come, so that no more than a layer's are in memory.

    Args:
        model: any.
        samples: a batch of them.
        wanted: of each sample the units that are kept, by hook.
        take: is given the place in `samples`, a hook, and values of the units there that the sample wants, at all
            places of the sample: patches of every image, row by row, then tokens.
        source: what the data calls itself.

    Returns:
        For each sample what the model saw.
    """
    batch = model.prepare([list(s.images) for s in samples], [s.prompt for s in samples], [s.response for s in samples])
    patches = Patches.of(batch.patches)
    rows = [_Row.of(batch, row, patches) for row in range(len(samples))]
    norms: list[Tensor] = []
    last = f"blocks.{model.n_layers - 1}.hook_in"

    def hand_on(place: str, acts: Tensor, patch: Tensor | None) -> None:
        values = acts.float().cpu().numpy()
        for row, (layout, of_sample) in enumerate(zip(rows, wanted, strict=True)):
            if place not in of_sample or (patch is not None and not layout.images):
                continue
            own, signs = of_sample[place]
            taken = values[row if patch is None else 0]
            if own is not columns[place] and not np.array_equal(own, columns[place]):
                taken = taken[:, np.searchsorted(columns[place], own)]
            placed = layout.by_token(taken, signs) if patch is None else layout.by_patch(patches, patch, taken, signs)
            take(row, place, placed)

    def keep(place: str, values: Tensor, defined: Tensor | None) -> None:
        if place == last:
            norms.append(values.float().norm(dim=-1).cpu())
        if place in every:
            acts, there, patch = of_tokens(model, batch, place, values, defined)
            some = _columns(acts, every[place])
            if there is not None:
                some = some.masked_fill(~_columns(there.expand(acts.shape), every[place]), torch.nan)
            hand_on(place, some, patch)

    def keep_listed(place: str, values: Sparse) -> None:
        hand_on(place, values.some(every[place]), None)

    hooks = dict.fromkeys(hook for of_sample in wanted for hook in of_sample)
    columns = {hook: _in_order([own[hook].indices for own in wanted if hook in own]) for hook in hooks}
    every = {hook: torch.from_numpy(own) for hook, own in columns.items()}
    model.observe(batch, readers([*every, last], keep, listed=keep_listed), fast=None)
    return [_seen(model, batch, row, rows[row], sample, norms[0][row], source) for row, sample in enumerate(samples)]


def _in_order(parts: Sequence[Int[np.ndarray, "_some"]]) -> Int[np.ndarray, "every"]:
    """All numbers, each once."""
    first, *others = parts
    if all(own is first for own in others) and (np.diff(first) > 0).all():
        return first
    return np.unique(np.concatenate(parts))


def _columns(values: Tensor, numbers: Tensor) -> Tensor:
    """Some units of a layer: a view, where they are all that are from the first to the last."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and last < values.shape[-1]:
        return values[..., first : last + 1]
    return values.index_select(-1, numbers.to(values.device))


@dataclass(frozen=True)
class _Row:
    """Where a sample's patches and words are in its row of a batch."""

    images: list[int]
    grids: list[tuple[int, int]]
    positions: np.ndarray  # of the patches
    patches: Patches
    words: np.ndarray

    @classmethod
    def of(cls, batch: Batch, row: int, patches: Patches) -> _Row:
        images = np.flatnonzero(batch.image_rows.cpu().numpy() == row).tolist()
        grids = [(int(batch.grids[i][0]), int(batch.grids[i][1])) for i in images]
        shown = batch.patch_index[row].cpu().numpy()
        positions = np.flatnonzero(shown >= 0)
        return cls(images, grids, positions, _some(patches, shown[positions]), _words(batch, row))

    @cached_property
    def starts(self) -> np.ndarray:
        """Of every image its first place among those of all maps, and where the last one ends."""
        return np.cumsum([0, *(rows * columns for rows, columns in self.grids)])

    @cached_property
    def size(self) -> int:
        """Places of all maps."""
        return int(self.starts[-1])

    def places_of(self, patches: Patches) -> np.ndarray:
        """Where patches of its images are among the places of all maps."""
        image = np.searchsorted(self.images, patches.image)
        rows, columns, _ = patches.cells.T
        return self.starts[image] + rows * np.array([grid[1] for grid in self.grids], int)[image] + columns

    @cached_property
    def places(self) -> np.ndarray:
        """Places of the patches of the row."""
        return self.places_of(self.patches)

    @cached_property
    def order(self) -> np.ndarray:
        """Of every place of the sample its position in the row; -1 where an image has no patch."""
        found = np.full(self.size + len(self.words), -1)
        found[self.places], found[self.size :] = self.positions, self.words
        return found

    @cached_property
    def has_gaps(self) -> bool:
        """Whether an image has a place without a patch."""
        return bool((self.order < 0).any())

    def by_token(
        self, values: Float[np.ndarray, "pos neuron"], signs: Float[np.ndarray, "neuron"]
    ) -> Float[np.ndarray, "neuron place"]:
        """Values at positions of the row, with signs, at all places of the sample."""
        found = values.take(self.order, axis=0, mode="clip")  # a copy; of gaps any row
        found *= signs
        found += NO_NEGATIVE
        if self.has_gaps:
            found[self.order < 0] = np.nan
        return np.ascontiguousarray(found.T)

    def by_patch(
        self, patches: Patches, shown: Tensor, values: Float[np.ndarray, "patch neuron"],
        signs: Float[np.ndarray, "neuron"],
    ) -> Float[np.ndarray, "neuron place"]:  # fmt: skip
        """Values at patches of the batch, at all places of the sample: the largest of those that share one."""
        found = np.full((values.shape[1], self.size + len(self.words)), np.nan, np.float32)
        numbers = shown.cpu().numpy()
        own = np.flatnonzero(np.isin(patches.image[numbers], self.images))
        np.fmax.at(found.T, self.places_of(_some(patches, numbers[own])), values[own] * signs)
        found += NO_NEGATIVE
        return found


def _some(patches: Patches, numbers: Int[np.ndarray, "some"]) -> Patches:
    return Patches(patches.image[numbers], patches.cells[numbers], patches.boxes[numbers], patches.original[numbers])


def _words(batch: Batch, row: int) -> np.ndarray:
    """Positions that are neither padding nor visual."""
    kinds = batch.kinds[row].cpu().numpy()
    return np.flatnonzero((kinds != int(TokenKind.PAD)) & (kinds != int(TokenKind.VISUAL)))


def _seen(model: HookedVLM, batch: Batch, row: int, layout: _Row, sample: Look, norms: Tensor, source: str) -> Seen:
    images, words, tokens = layout.images, layout.words, batch.tokens(row)
    real = (batch.kinds[row] != int(TokenKind.PAD)).cpu()
    sinks = norms > SINK * norms[real].median()
    if model.tokenizer.bos_token_id is not None:
        sinks |= (batch.input_ids[row] == model.tokenizer.bos_token_id).cpu()
    shown = [_shown(layout, i, grid, sinks.numpy()) for i, grid in zip(images, layout.grids, strict=True)]
    return Seen(
        sample.sample,
        sample.name,
        tuple(batch.seen_image(i) for i in images),
        tuple(one.boxes for one in shown),
        tuple(tokens[i] for i in words),
        batch.kinds[row].cpu().numpy()[words].astype(np.int64),
        tuple(int((words < one.first).sum()) for one in shown),
        sinks.numpy()[words],
        tuple(one.sinks for one in shown),
        source,
        None if sample.truth is None else sample.truth(),
        tuple(one.whole_rows for one in shown),
        sample.prompt,
        sample.response,
    )


class _Shown(NamedTuple):
    """An image as `Seen` has it; `first` is the position of its first patch."""

    boxes: np.ndarray
    sinks: np.ndarray
    whole_rows: int
    first: int


def _shown(layout: _Row, image: int, grid: tuple[int, int], sinks: np.ndarray) -> _Shown:
    own = np.flatnonzero(layout.patches.image == image)
    positions, (rows, columns, tiles) = layout.positions[own], layout.patches.cells[own].T
    boxes, at_sink = np.full((*grid, 4), np.nan, np.float32), np.zeros(grid, bool)
    boxes[rows, columns], at_sink[rows, columns] = layout.patches.boxes[own], sinks[positions]
    whole = int(rows[tiles < 0].max(initial=-1)) + 1 if (tiles >= 0).any() else 0
    return _Shown(boxes, at_sink, whole, int(positions[0]) if len(positions) else 0)

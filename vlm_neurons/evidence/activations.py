"""One forward pass of some samples, for every neuron that wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vlm_neurons.evidence.exemplars import Seen
from vlm_neurons.models.reading import hooks_of, of_tokens, readers
from vlm_neurons.sites import at
from vlm_neurons.sites.sparse import Sparse
from vlm_neurons.tokens import Patch, TokenKind
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vlm_neurons.data import Truth
    from vlm_neurons.models import Batch, HookedVLM

# A residual stream so many times longer than the row's median is a sink: real ones are hundreds of times larger
# (Sun et al. 2024, Massive Activations in Large Language Models), ordinary positions stay within a factor of a few.
SINK = 20.0
Activations = tuple[tuple[np.ndarray, ...], np.ndarray]  # maps [rows, columns] of every image; values [token]


@dataclass(frozen=True)
class Look:
    """A sample to look at.

    Attributes:
        sample: id in the data set.
        name: its name.
        images: all of its images.
        prompt: its prompt.
        response: its response, if it has one.
        neurons: whose activations are kept.
        truth: what the data set knows of it, see `Sample`.
    """

    sample: int
    name: str
    images: Sequence[Image.Image]
    prompt: str
    response: str | None
    neurons: Sequence[Neuron]
    truth: Callable[[], Truth] | None = None


def look(model: HookedVLM, samples: Sequence[Look], source: str = "") -> list[tuple[Seen, dict[str, Activations]]]:
    """Run some samples through the model, in one batch.

    Args:
        model: any.
        samples: a batch of them.
        source: what the data calls itself.

    Returns:
        For each sample what the model saw; and of every neuron its activations at the patches of each image and at
        every token but the visual ones (NaN where the neuron is not defined, and where its site sees no text). The
        negative pole's are negated. Sites indexed by image are without CLS, and absent from a sample without images;
        where several rows of the vision tower are one patch, its value is the largest of theirs.
    """
    batch = model.prepare([list(s.images) for s in samples], [s.prompt for s in samples], [s.response for s in samples])
    columns: dict[str, dict[Neuron, int]] = {}  # of each place: neuron -> which of those that are kept
    for neuron in dict.fromkeys(n for s in samples for n in s.neurons):
        columns.setdefault(neuron.hook, {})[neuron] = len(columns.get(neuron.hook, ()))
    kept: dict[str, Tensor] = {}
    patches_of: dict[str, np.ndarray] = {}  # of places indexed by image: [image, row, column]
    norms: list[Tensor] = []
    last = f"blocks.{model.n_layers - 1}.hook_in"

    def keep(place: str, values: Tensor, defined: Tensor | None) -> None:
        if place == last:
            norms.append(values.float().norm(dim=-1).cpu())
        if place in columns:
            acts, there, patch = of_tokens(model, batch, place, values, defined)
            acts = acts if there is None else acts.masked_fill(~there, torch.nan)
            kept[place] = acts[..., [n.index for n in columns[place]]].float().cpu()
            if patch is not None:
                shown = [batch.patches[number] for number in patch.tolist()]
                patches_of[place] = np.array([(one.image, one.row, one.column) for one in shown]).reshape(-1, 3).T

    def keep_listed(place: str, values: Sparse) -> None:
        units, which = torch.tensor([n.index for n in columns[place]]).unique(return_inverse=True)
        kept[place] = values.some(units)[..., which].float().cpu()

    read = [*columns, last]
    model.observe(batch, readers(read, keep, listed=keep_listed), fast=hooks_of(read) <= model.fast_hooks)
    found = []
    for row, sample in enumerate(samples):
        images = [i for i, home in enumerate(batch.image_rows.tolist()) if home == row]
        seen = _seen(model, batch, row, images, sample, norms[0][row], source)
        places, words = list(_patches(batch, row)), _words(batch, row)
        activations: dict[str, Activations] = {}
        for neuron in sample.neurons:
            by_image = at(neuron.hook)[0].indexed_by == "image"
            if neuron.hook not in kept or (by_image and not images):
                continue
            own = (
                kept[neuron.hook][..., columns[neuron.hook][neuron]].numpy() * (-1 if neuron.pole == "-" else 1) + 0.0
            )  # no -0.0
            if by_image:
                maps = _largest(batch, patches_of[neuron.hook], images, own[0])
                activations[neuron.id] = maps, np.full(len(words), np.nan, np.float32)
            else:
                activations[neuron.id] = _maps(batch, places, images, own[row]), own[row, words]
        found.append((seen, activations))
    return found


def _words(batch: Batch, row: int) -> np.ndarray:
    """Positions that are neither padding nor visual."""
    kinds = batch.kinds[row].cpu().numpy()
    return np.flatnonzero((kinds != int(TokenKind.PAD)) & (kinds != int(TokenKind.VISUAL)))


def _seen(
    model: HookedVLM, batch: Batch, row: int, images: list[int], sample: Look, norms: Tensor, source: str
) -> Seen:
    words, tokens = _words(batch, row), batch.tokens(row)
    real = (batch.kinds[row] != int(TokenKind.PAD)).cpu()
    sinks = norms > SINK * norms[real].median()
    if model.tokenizer.bos_token_id is not None:
        sinks |= (batch.input_ids[row] == model.tokenizer.bos_token_id).cpu()
    boxes = {i: np.full((*batch.grids[i], 4), np.nan, np.float32) for i in images}
    patch_sinks = {i: np.zeros(batch.grids[i], bool) for i in images}
    first, whole, tiled = dict.fromkeys(images, 0), dict.fromkeys(images, 0), dict.fromkeys(images, False)
    for position, patch in reversed(list(_patches(batch, row))):
        if patch.tile < 0:
            whole[patch.image] = max(whole[patch.image], patch.row + 1)
        tiled[patch.image] |= patch.tile >= 0
        boxes[patch.image][patch.row, patch.column] = patch.box
        patch_sinks[patch.image][patch.row, patch.column] = bool(sinks[position])
        first[patch.image] = position
    return Seen(
        sample.sample,
        sample.name,
        tuple(batch.seen_image(i) for i in images),
        tuple(boxes[i] for i in images),
        tuple(tokens[i] for i in words),
        batch.kinds[row].cpu().numpy()[words].astype(np.int64),
        tuple(int((words < first[i]).sum()) for i in images),
        sinks.numpy()[words],
        tuple(patch_sinks[i] for i in images),
        source,
        None if sample.truth is None else sample.truth(),
        tuple(whole[i] * tiled[i] for i in images),
        sample.prompt,
        sample.response,
    )


def _patches(batch: Batch, row: int) -> Iterator[tuple[int, Patch]]:
    """(position, patch) of every visual token of a row."""
    for position, index in enumerate(batch.patch_index[row].tolist()):
        if index >= 0:
            yield position, batch.patches[index]


def _largest(batch: Batch, places: np.ndarray, images: list[int], values: np.ndarray) -> tuple[np.ndarray, ...]:
    """At the patches of some images the largest of the values of each; `places` are [image, row, column]."""
    maps = {i: np.full(batch.grids[i], np.nan, np.float32) for i in images}
    for i, one in maps.items():
        own = places[0] == i
        np.fmax.at(one, (places[1, own], places[2, own]), values[own])
    return tuple(maps.values())


def _maps(
    batch: Batch, places: list[tuple[int, Patch]], images: list[int], values: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Values of a row at the patches of each of its images."""
    maps = {i: np.full(batch.grids[i], np.nan, np.float32) for i in images}
    for position, patch in places:
        maps[patch.image][patch.row, patch.column] = values[position]
    return tuple(maps.values())

"""One forward pass of one sample, for every neuron that wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from vlm_neurons.evidence.record import Seen
from vlm_neurons.model.guards import indexed_by_image
from vlm_neurons.neurons import Neuron, TokenKind

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from vlm_neurons.model import Batch, HookedVLM

# A residual stream so many times longer than the row's median is a sink: real ones are hundreds of times larger
# (Sun et al. 2024, Massive Activations in Large Language Models), ordinary positions stay within a factor of a few.
SINK = 20.0
Activations = tuple[tuple[np.ndarray, ...], np.ndarray]  # maps [rows, columns] of every image; values [token]


def look(
    model: HookedVLM,
    sample: int,
    name: str,
    images: Sequence[Image.Image],
    prompt: str,
    response: str | None,
    neurons: Sequence[Neuron],
) -> tuple[Seen, dict[str, Activations]]:
    """Run one sample alone.

    Returns:
        What the model saw; and of every neuron its activations at the patches of each image and at every token but
        the visual ones (NaN where the hook sees no text). The negative pole's are negated. Hooks indexed by image
        are without CLS, and absent from a sample without images.
    """
    batch = model.prepare([list(images)], [prompt], [response])
    kept: dict[str, Tensor] = {}
    norms: list[Tensor] = []

    def keeper(hook: str) -> Callable[[Tensor], None]:
        index = [n.index for n in neurons if n.hook == hook]

        def keep(activation: Tensor) -> None:
            kept[hook] = model.patch_activations(hook, activation)[..., index].float().cpu()

        return keep

    hooks: dict[str, Callable[[Tensor], None]] = {hook: keeper(hook) for hook in dict.fromkeys(n.hook for n in neurons)}
    last = f"blocks.{model.n_layers - 1}.hook_in"
    if last not in hooks:
        hooks[last] = lambda activation: norms.append(activation[0].float().norm(dim=-1).cpu())
    model.observe(batch, hooks)
    seen = _seen(model, batch, sample, name, norms[0] if norms else None)
    found = {}
    for hook, values in kept.items():
        for place, neuron in enumerate(n for n in neurons if n.hook == hook):
            own = values[..., place].numpy() * (-1 if neuron.pole == "-" else 1) + 0.0  # no -0.0
            found[neuron.id] = _split(batch, own, indexed_by_image(hook))
    return seen, found


def _words(batch: Batch) -> np.ndarray:
    """Positions that are neither padding nor visual."""
    kinds = batch.kinds[0].cpu().numpy()
    return np.flatnonzero((kinds != int(TokenKind.PAD)) & (kinds != int(TokenKind.VISUAL)))


def _seen(model: HookedVLM, batch: Batch, sample: int, name: str, norms: Tensor | None) -> Seen:
    words, tokens = _words(batch), batch.tokens(0)
    sinks = torch.zeros(batch.kinds.shape[1], dtype=torch.bool)
    if norms is not None:
        real = (batch.kinds[0] != int(TokenKind.PAD)).cpu()
        sinks = norms > SINK * norms[real].median()
    sinks |= (
        (batch.input_ids[0] == model.tokenizer.bos_token_id).cpu()
        if model.tokenizer.bos_token_id is not None
        else False
    )
    boxes = [np.full((*grid, 4), np.nan, np.float32) for grid in batch.grids]
    patch_sinks = [np.zeros(grid, bool) for grid in batch.grids]
    first = [0] * len(batch.grids)
    for position, index in reversed(list(enumerate(batch.patch_index[0].tolist()))):
        if index >= 0:
            patch = batch.patches[index]
            boxes[patch.image][patch.row, patch.column] = patch.box
            patch_sinks[patch.image][patch.row, patch.column] = bool(sinks[position])
            first[patch.image] = position
    return Seen(
        sample,
        name,
        tuple(batch.seen_image(i) for i in range(len(batch.images))),
        tuple(boxes),
        tuple(tokens[i] for i in words),
        batch.kinds[0].cpu().numpy()[words].astype(np.int64),
        tuple(int((words < p).sum()) for p in first),
        sinks.numpy()[words],
        tuple(patch_sinks),
    )


def _split(batch: Batch, values: np.ndarray, by_image: bool) -> Activations:
    """Activations of one neuron by patch and by token."""
    words = _words(batch)
    if by_image:
        maps = tuple(v.reshape(grid) for v, grid in zip(values, batch.grids, strict=True))
        return maps, np.full(len(words), np.nan, np.float32)
    patches = tuple(np.full(grid, np.nan, np.float32) for grid in batch.grids)
    for position, index in enumerate(batch.patch_index[0].tolist()):
        if index >= 0:
            patch = batch.patches[index]
            patches[patch.image][patch.row, patch.column] = values[0, position]
    return patches, values[0, words]

"""Which place of which image every element of the pixels shows, read from painted images; a tower without attention.

Knows nothing of any family: whatever a processor does (resize, crop, tiles, flattened patches, padding), an image whose
brightness is its x coordinate comes out with every element as bright as the x that it was taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from vlm_neurons.models.batch import Batch
from vlm_neurons.models.bound import Runnable

# Brightness, from which resizing can overshoot beside padding and is not cut off.
DARK, LIGHT = 20, 235
LEVELS = LIGHT - DARK

Paint = Callable[[int, tuple[int, int]], Image.Image]  # number of an image of the batch, its width and height


@dataclass(frozen=True)
class Painted:
    """The source of every element of one tensor of pixels.

    Attributes:
        image: number in the batch; -1 for padding, and for what is mixed with it.
        share: how far from the left edge of the original, and from its top: 0 to 1. It was read in `LEVELS` steps. Of
            no meaning where `image` is -1.
        sizes: width and height of every image, in pixels.
    """

    image: Int[Tensor, "*pixels"]
    share: Float[Tensor, "*pixels 2"]
    sizes: Float[Tensor, "_ 2"]

    @property
    def live(self) -> Bool[Tensor, "*pixels"]:
        """Elements that show a place."""
        return self.image >= 0


def flat(size: tuple[int, int], brightness: int) -> Image.Image:
    """An image of one grey."""
    return Image.new("RGB", size, (brightness,) * 3)


def ramp(size: tuple[int, int], axis: int) -> Image.Image:
    """An image that is dark at one edge and light at the other: left to right (axis 0), or downwards."""
    steps = DARK + (np.arange(size[axis]) + 0.5) * LEVELS / size[axis]
    values = np.broadcast_to(steps if axis == 0 else steps[:, None], (size[1], size[0]))
    return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")


def painted(model: Runnable, batch: Batch) -> dict[str, Painted]:
    """The source of every element that the model is given of the images of a batch, by the names of its inputs.

    Args:
        model: prepares painted images of the sizes of the batch's.
        batch: with images.
    """
    black = _processed(model, batch, lambda i, size: flat(size, DARK))
    along_x = _processed(model, batch, lambda i, size: ramp(size, 0))
    along_y = _processed(model, batch, lambda i, size: ramp(size, 1))
    whites = [
        _processed(model, batch, lambda i, size, n=n: flat(size, LIGHT if i == n else DARK))  # type: ignore[misc]
        for n in range(len(batch.images))
    ]
    sizes = torch.tensor([image.size for image in batch.images], dtype=torch.double)
    shown = [name for name, base in black.items() if any(bool((white[name] != base).any()) for white in whites)]
    return {
        name: _read(black[name], [white[name] for white in whites], along_x[name], along_y[name], sizes)
        for name in shown
    }


def _read(
    black: Tensor, whites: list[Tensor], along_x: Tensor, along_y: Tensor, sizes: Float[Tensor, "image 2"]
) -> Painted:
    spans = torch.stack([white.double() - black.double() for white in whites])
    strength, image = spans.abs().max(0)
    live = strength > 0.9 * strength.max()  # less is padding, or mixed with it; channels have factors of their own
    span = torch.where(live, spans.sum(0), 1.0)
    share = torch.stack([(one.double() - black.double()) / span for one in (along_x, along_y)], -1)
    return Painted(torch.where(live, image, -1), share, sizes)


def _processed(model: Runnable, batch: Batch, paint: Paint) -> dict[str, Tensor]:
    """What the model is given of painted images: all that is a number with a fraction."""
    rows: list[list[Image.Image]] = [[] for _ in range(len(batch))]
    for i, row in enumerate(batch.image_rows.tolist()):
        rows[row].append(paint(i, batch.images[i].size))
    made = model.prepare(rows, list(batch.prompts), list(batch.responses))
    return {name: value.cpu() for name, value in made.image_inputs.items() if value.is_floating_point()}


def _original(module: nn.Module) -> nn.Module:
    """What a component of a bridge stands for."""
    inner = getattr(module, "original_component", None)
    return inner if isinstance(inner, nn.Module) else module


def _attends(module: nn.Module) -> bool:
    name = type(_original(module)).__name__.lower()
    return "attention" in name or "attn" in name


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The innermost attention modules of numbered layers. A head that pools stands alone: it is no layer."""
    found = []
    for path, module in model.named_modules():
        if not _attends(module) or not any(part.isdigit() for part in path.split(".")):
            continue
        own = {id(module), id(_original(module))}  # Pixtral calls a whole layer `PixtralAttentionLayer`
        if not any(_attends(inner) for inner in module.modules() if id(inner) not in own):
            found.append(module)
    return found


@contextmanager
def without_attention(model: nn.Module) -> Iterator[None]:
    """Every layer's attention puts out zeros: no position sees another.

    Raises:
        ValueError: no attention was found, so that what a position sees could not be told from what its neighbours do.
    """

    def silent(value: Any) -> Any:
        return torch.zeros_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def zero(module: nn.Module, args: Any, output: Any) -> Any:
        return tuple(map(silent, output)) if isinstance(output, tuple) else silent(output)

    modules = attention_modules(model)
    if not modules:
        raise ValueError("no attention module was found in numbered layers: what a position sees cannot be measured")
    handles = [module.register_forward_hook(zero) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Images of a batch: read, processed, and their patches placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from PIL.Image import Image
from torch import Tensor

from vlm_neurons._images import read_image
from vlm_neurons.models.adapters import Adapter, Placed
from vlm_neurons.models.adapters.geometry import grid_of

Images: TypeAlias = Image | str | Path | Sequence[Image | str | Path] | None  # what one row may hold


def load_images(entry: Images) -> list[Image]:
    """The images of one row in RGB; files are turned upright by their EXIF orientation.

    Raises:
        OSError: a file is missing or broken; the message names it.
        TypeError: the entry is none of an image, a path, a list of those, or None.
    """
    if entry is None:
        return []
    if isinstance(entry, (list, tuple)):
        return [image for one in entry for image in load_images(one)]
    if isinstance(entry, (Image, str, Path)):
        return [read_image(entry)]
    raise TypeError(f"an image is a PIL image or a path, a list of those, or None; got {type(entry).__name__}")


@dataclass(frozen=True)
class Pixels:
    """The images of a batch, processed: pixels, what else the model is given with them, and where their tokens look."""

    images: tuple[Image, ...]
    rows: tuple[int, ...]
    values: Tensor | None
    more: dict[str, Tensor]
    placed: tuple[Placed, ...]

    def count(self, image: int) -> int:
        """Image tokens of an image."""
        return len(self.placed[image].patches)


def process_images(processor: Any, config: Any, adapter: Adapter, entries: Sequence[Images]) -> Pixels:
    """Run the image processor once over all images of the batch, and place their patches."""
    loaded = [load_images(entry) for entry in entries]
    images = tuple(image for row in loaded for image in row)
    rows = tuple(r for r, row in enumerate(loaded) for _ in row)
    if not images:
        return Pixels((), (), None, {}, ())
    output = processor.image_processor(list(images), return_tensors="pt")
    values = output["pixel_values"]
    placed = adapter.geometry(processor.image_processor, config, [(im.height, im.width) for im in images], values)
    for i, one in enumerate(placed):
        _check_count(processor, output, i, one, adapter.processor_settings(config))
    return Pixels(images, rows, values, {name: output[name] for name in adapter.inputs}, tuple(placed))


def _check_count(processor: Any, output: Any, i: int, placed: Placed, settings: dict[str, Any]) -> None:
    """The processor's own count of visual tokens has to agree with the patches."""
    if getattr(processor, "patch_size", None) is None or not hasattr(processor, "replace_image_token"):
        return  # processors saved before transformers 4.45 leave the expansion to the model
    count = processor.replace_image_token(output, i).count(processor.image_token)
    if count != len(placed.patches):
        rows, columns = placed.grid
        raise ValueError(
            f"the processor expands image {i} to {count} tokens, the model has {rows} x {columns} patches: set the "
            f"processor's {', '.join(f'{name}={value!r}' for name, value in settings.items())}"
        )


def by_patch(adapter: Adapter, config: Any, hook: str, tensor: Tensor) -> Tensor:
    """See `HookedVLM.patch_activations`."""
    size = config.vision_config.image_size
    grid = grid_of((size, size) if isinstance(size, int) else tuple(size), config.vision_config.patch_size)
    if tensor.dim() >= 3 and not hook.endswith(("hook_pattern", "hook_attn_scores")):
        for mlps in (adapter.projector, adapter.vision):
            order = list(mlps.rows(config, grid)) if mlps is not None and mlps.rows is not None else []
            if tensor.shape[1] == len(order):
                kept = sorted((row for row, patch in enumerate(order) if patch >= 0), key=order.__getitem__)
                plain = kept == list(range(kept[0], len(order)))  # a view will do
                return tensor[:, kept[0] :] if plain else tensor[:, kept]
    raise ValueError(
        f"{hook!r} {tuple(tensor.shape)} does not have one entry for each of {grid[0]} x {grid[1]} patches"
    )

"""Images of a batch: read, processed, and their patches placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vlm_neurons._images import read_image
from vlm_neurons.models.adapters.families import tower_of
from vlm_neurons.models.adapters.geometry import Layout, grid_of, layout, patches
from vlm_neurons.tokens import Patch

if TYPE_CHECKING:
    from PIL.Image import Image

Images = Any  # what one row may hold: an image, a path, a list of those, or None


def load_images(entry: Images) -> list[Image]:
    """The images of one row in RGB; files are turned upright by their EXIF orientation.

    Raises:
        OSError: a file is missing or broken; the message names it.
        TypeError: the entry is none of an image, a path, a list of those, or None.
    """
    from PIL import Image

    if entry is None:
        return []
    if isinstance(entry, (list, tuple)):
        return [image for one in entry for image in load_images(one)]
    if isinstance(entry, (Image.Image, str, Path)):
        return [read_image(entry)]
    raise TypeError(f"an image is a PIL image or a path, a list of those, or None; got {type(entry).__name__}")


@dataclass(frozen=True)
class Pixels:
    """The images of a batch, processed."""

    images: tuple[Image, ...]
    rows: tuple[int, ...]
    values: Tensor | None
    counts: tuple[int, ...]
    patches: tuple[Patch, ...]
    grids: tuple[tuple[int, int], ...]


def process_images(processor: Any, config: Any, entries: Sequence[Images]) -> Pixels:
    """Run the image processor once over all images of the batch, and place their patches."""
    loaded = [load_images(entry) for entry in entries]
    images = tuple(image for row in loaded for image in row)
    rows = tuple(r for r, row in enumerate(loaded) for _ in row)
    if not images:
        return Pixels((), (), None, (), (), ())
    output = processor.image_processor(list(images), return_tensors="pt")
    values = output["pixel_values"]
    patch_size = config.vision_config.patch_size
    placed: list[Layout] = [layout(processor.image_processor, (im.height, im.width)) for im in images]
    for i, one in enumerate(placed):
        if one.processed != tuple(values.shape[-2:]):
            raise ValueError(
                f"the image processor made image {i} {tuple(values.shape[-2:])}, its settings say {one.processed}: "
                f"{type(processor.image_processor).__name__} has a step that is not known here"
            )
    grids = tuple(grid_of(one.processed, patch_size) for one in placed)
    counts = tuple(_n_tokens(processor, output, i, config, grid) for i, grid in enumerate(grids))
    found = tuple(p for i, one in enumerate(placed) for p in patches(i, one, patch_size))
    return Pixels(images, rows, values, counts, found, grids)


def _n_tokens(processor: Any, output: Any, i: int, config: Any, grid: tuple[int, int]) -> int:
    """Visual tokens of image i by the processor's own count, which has to agree with the patch grid."""
    expected = grid[0] * grid[1]
    if getattr(processor, "patch_size", None) is None or not hasattr(processor, "replace_image_token"):
        return expected  # processors saved before transformers 4.45 leave the expansion to the model
    count = processor.replace_image_token(output, i).count(processor.image_token)
    if count != expected:
        raise ValueError(
            f"the processor expands image {i} to {count} tokens, the model has {grid[0]} x {grid[1]} patches: set the "
            f"processor's patch_size={config.vision_config.patch_size}, vision_feature_select_strategy="
            f"{config.vision_feature_select_strategy!r}, num_additional_image_tokens={tower_of(config).class_tokens}"
        )
    return count


def by_patch(config: Any, hook: str, tensor: Tensor) -> Tensor:
    """See `HookedVLM.patch_activations`."""
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    rows, columns = grid_of((size, size) if isinstance(size, int) else tuple(size), patch)
    extra = tower_of(config).class_tokens
    pattern = hook.endswith(("hook_pattern", "hook_attn_scores"))
    if not pattern and tensor.dim() >= 3 and tensor.shape[1] == rows * columns:
        return tensor
    if not pattern and extra and tensor.dim() >= 3 and tensor.shape[1] == rows * columns + extra:
        return tensor[:, extra:]
    raise ValueError(f"{hook!r} {tuple(tensor.shape)} does not have one entry for each of {rows} x {columns} patches")

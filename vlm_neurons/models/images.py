"""Images of a batch: read, processed, and their patches placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from mimetypes import guess_type
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL.Image import Image, new
from torch import Tensor

from vlm_neurons._images import Encoded, read_image
from vlm_neurons.models.adapters import Adapter, Placed
from vlm_neurons.models.adapters.adapter import Given, Split
from vlm_neurons.models.batch import RowError, SettingsError

One: TypeAlias = Image | str | Path | bytes | Encoded
# Of a picture's sides; Qwen's processors refuse the same. LLaVA-1.5's makes 12,000 x 1 pixels 4,032,000 x 336, 12.6 GB.
LONGEST = 200
PLAIN = (256, 256)  # a picture that every processor takes
Images: TypeAlias = One | Sequence[One] | None  # what one row may hold


def load_images(entry: Images) -> list[Image]:
    """The images of one row in RGB, upright by their EXIF orientation.

    Raises:
        OSError: a file is missing or broken; the message names it.
        ValueError: a file is a video.
        TypeError: the entry is none of an image, a path, a list of those, or None.
    """
    if entry is None:
        return []
    if isinstance(entry, (list, tuple)):
        return [image for one in entry for image in load_images(one)]
    if isinstance(entry, (str, Path)) and (guess_type(str(entry))[0] or "").startswith("video/"):
        raise ValueError(f"{str(entry)!r} is a video, and videos are not read: give some of its frames, as a list")
    if isinstance(entry, (Image, str, Path, bytes, Encoded)):
        return [read_image(entry)]
    raise TypeError(
        "an image is a PIL image, a path or the bytes of a file, a list of those, or None; got "
        f"{type(entry).__name__} (videos are not read: give some of their frames, as a list)"
    )


@dataclass(frozen=True)
class Pixels:
    """The images of a batch, processed.

    Attributes:
        images: all of them.
        rows: batch row of every image.
        inputs: what the model is given of them.
        placed: where their tokens look.
        texts: what stands in a row's text for each image.
        splits: see `Batch`.
        site_rows: see `Batch`.
    """

    images: tuple[Image, ...] = ()
    rows: tuple[int, ...] = ()
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    placed: tuple[Placed, ...] = ()
    texts: tuple[str, ...] = ()
    splits: Mapping[str, Split] = field(default_factory=dict)
    site_rows: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def count(self, image: int) -> int:
        """Image tokens of an image."""
        return len(self.placed[image])


def process_images(processor: Any, config: Any, adapter: Adapter, entries: Sequence[Images]) -> Pixels:
    """Run the image processor once over all images of the batch, and place their patches.

    Raises:
        RowError: it cannot take an image.
        SettingsError: it can take none.
    """
    loaded = [load_images(entry) for entry in entries]
    try:
        return _processed(processor, config, adapter, loaded)
    except RowError:
        raise
    except Exception as error:
        try:
            _processed(processor, config, adapter, [[new("RGB", PLAIN)]])
        except Exception as any_other:
            raise SettingsError(f"the image processor's settings are not the model's: {any_other}") from any_other
        for row, pictures in enumerate(loaded):
            try:
                _processed(processor, config, adapter, [pictures])
            except Exception as alone:
                raise RowError(row, f"the image processor cannot take it: {alone}") from alone
        raise error  # only together


def _processed(processor: Any, config: Any, adapter: Adapter, loaded: Sequence[Sequence[Image]]) -> Pixels:
    images = tuple(image for row in loaded for image in row)
    rows = tuple(r for r, row in enumerate(loaded) for _ in row)
    if not images:
        return Pixels()
    for row, image in zip(rows, images, strict=True):
        if max(image.size) > LONGEST * min(image.size):
            raise RowError(row, f"a picture of {image.width} x {image.height} pixels is more than {LONGEST} times as "
                                "long as it is wide: processors blow its short side up; cut it first")  # fmt: skip
    settings = {"return_tensors": "pt", **adapter.image_settings(processor)}
    nested = [list(row) for row in loaded if row] if adapter.nested else [list(images)]
    output = processor.image_processor(nested, **settings)
    given = Given(processor, config, [(im.height, im.width) for im in images], rows, output)
    placed = tuple(adapter.geometry(given))
    texts = tuple(adapter.replace(given, i, one) for i, one in enumerate(placed))
    image_token = processor.tokenizer.convert_ids_to_tokens(config.image_token_id)
    for i, (one, text) in enumerate(zip(placed, texts, strict=True)):
        _check_count(text.count(image_token), i, one, adapter.processor_settings(config))
    taken = taken_by(adapter.architecture)
    return Pixels(
        images,
        rows,
        {name: value for name, value in output.items() if name in taken and isinstance(value, Tensor)},
        placed,
        texts,
        adapter.splits(given, placed),
        {
            site: tuple(torch.as_tensor(mlps.rows(given, one), dtype=torch.long) for one in placed)
            for site, (mlps, _, _) in adapter.sites.items()
            if mlps.rows is not None
        },
    )


@cache
def taken_by(architecture: str) -> frozenset[str]:
    """The inputs that a Hugging Face model has names for."""
    import transformers

    return frozenset(signature(getattr(transformers, architecture).forward).parameters)


def _check_count(count: int, i: int, placed: Placed, settings: dict[str, Any]) -> None:
    """The processor's own count of visual tokens has to agree with the patches."""
    if count != len(placed):
        told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise ValueError(
            f"the processor expands image {i} to {count} tokens, the model has {len(placed)} places for it "
            f"(a grid of {placed.grid[0]} x {placed.grid[1]}): set the processor's "
            f"{told or 'settings to those of the checkpoint'}"
        )

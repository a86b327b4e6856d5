"""What a model is run on: token ids, pixels, and what every position is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.models.adapters.adapter import one_view
from vlm_neurons.tokens import Patch, TokenKind

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts, images and responses, ready for the model. Made by `HookedVLM.prepare`.

    Attributes:
        input_ids: token ids, every image expanded to its visual tokens.
        attention_mask: 1 at tokens, 0 at padding.
        kinds: `TokenKind` numbers.
        pixel_values: images as the processor made them, in the layout of the family; None if no row has one.
        image_rows: batch row of every image. Vision and projector hooks are indexed by image: their tensor's entry i
            belongs to row `image_rows[i]`.
        patch_index: index into `patches` at visual positions, -1 elsewhere.
        patches: all patches, images one after the other, in the order of the visual tokens.
        images: the images as given, in RGB.
        grids: rows and columns of patches, one pair per image.
        prompts: as given.
        responses: as given; None where there is none.
        texts: what was tokenised, with one image token per image.
        spans: characters of `texts[row]` that a token covers, start and end; (0, 0) for tokens without characters,
            such as a BOS that the tokenizer adds.
        more: what else the model is given with the pixels, one entry per image.

    >>> batch = model.prepare([data[0].load_images(), None], "What is it?", ["a large cross", "a size"])
    >>> len(batch), batch.image_rows.tolist(), batch.grids
    (2, [0], ((8, 8),))
    >>> batch.mask("visual").sum(1).tolist(), batch.mask("text").sum(1).tolist()
    ([64, 0], [3, 2])
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    kinds: Int[Tensor, "batch pos"]
    pixel_values: Float[Tensor, "*pixels"] | None
    image_rows: Int[Tensor, "image"]
    patch_index: Int[Tensor, "batch pos"]
    patches: tuple[Patch, ...]
    images: tuple[Image.Image, ...]
    grids: tuple[tuple[int, int], ...]
    prompts: tuple[str, ...]
    responses: tuple[str | None, ...]
    texts: tuple[str, ...]
    spans: Int[Tensor, "batch pos 2"]
    more: Mapping[str, Tensor] = field(default_factory=dict)
    _tokenizer: Any = field(repr=False, default=None)
    _image_processor: Any = field(repr=False, default=None)
    _seen: Callable[[Any, Mapping[str, Tensor], int], Tensor] = field(repr=False, default=one_view)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def mask(self, kind: TokenKind | str) -> Bool[Tensor, "batch pos"]:
        """True at the positions of one kind; a name such as `"visual"` will do.

        >>> {kind: int(batch.mask(kind).sum()) for kind in ("visual", "text", "template", "pad")}
        {'visual': 64, 'text': 35, 'template': 15, 'pad': 0}
        """
        if isinstance(kind, str):
            try:
                kind = TokenKind[kind.upper()]
            except KeyError:
                raise ValueError(f"token kind {kind!r}: choose from {[k.name.lower() for k in TokenKind]}") from None
        return self.kinds == int(kind)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.device != torch.device(device)
        }
        if any(value.device != torch.device(device) for value in self.more.values()):
            moved["more"] = {name: value.to(device) for name, value in self.more.items()}
        return replace(self, **moved) if moved else self

    @property
    def image_inputs(self) -> dict[str, Tensor]:
        """What the model is given of the images, by the names of its forward pass.

        >>> list(batch.image_inputs)
        ['pixel_values']
        """
        return {} if self.pixel_values is None else {"pixel_values": self.pixel_values, **self.more}

    def tokens(self, row: int) -> list[str]:
        """The tokens of a row as they read, blanks included; padding too.

        Where several tokens make up one character, the first has it and the others are empty.

        >>> batch.tokens(0)[-6:]
        [' is', ' dark', ' and', ' checkered', '.', '</s>']
        """
        text, found, reached = self.texts[row], [], 0
        ids, kinds = self.input_ids[row].tolist(), self.kinds[row].tolist()
        for token, kind, (start, end) in zip(ids, kinds, self.spans[row].tolist(), strict=True):
            if kind == TokenKind.VISUAL or end <= start:
                found.append(self._tokenizer.convert_ids_to_tokens(token))
                continue
            found.append(text[max(start, reached) : end])
            reached = max(reached, end)
        return found

    def seen_image(self, i: int) -> Image.Image:
        """Image i as the model saw it: resized and cropped, the normalisation undone.

        >>> batch.seen_image(0).size
        (64, 64)
        """
        from PIL import Image

        if self.pixel_values is None or not 0 <= i < len(self.images):
            raise IndexError(f"image {i}: this batch has {len(self.images)} images")
        pixels = self._seen(self._image_processor, self.image_inputs, i).detach().float().cpu()
        processor = self._image_processor
        if getattr(processor, "do_normalize", False):
            mean, std = (torch.tensor(list(v)).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
            pixels = pixels * std + mean
        if getattr(processor, "do_rescale", False):
            pixels = pixels / processor.rescale_factor
        bytes_ = pixels.round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())


class RowError(ValueError):
    """One row of what `prepare` was given cannot be used.

    A caller that goes through many samples can leave out `row` and go on; the message names the row and the remedy.

    Attributes:
        row: position in the lists given to `prepare`.
        reason: the message without the row.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


class HookNeverFires(RuntimeError):
    """A hook that was asked for by name did not fire in a forward pass: the result would silently lack it."""

"""What a model is run on: token ids, pixels, and what every position is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_neurons.models.adapters.adapter import Split, one_view
from vlm_neurons.models.adapters.tiles import on_sheet
from vlm_neurons.tokens import Patch, Patches, TokenKind

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Rows:
    """What the rows of a tensor are that is indexed by image, its leading dimensions flattened.

    Attributes:
        patch: number of the patch of every row in `Batch.patches`, -1 for a row that is none (class tokens, padding).
        image: number of the image of every row.
        shown: the rows that are patches, in the order of the patches.
        leading: how many dimensions of the tensor are flattened; 0 where no tensor was asked about.
    """

    patch: Int[Tensor, "item"]
    image: Int[Tensor, "item"]
    shown: Int[Tensor, "n"]
    leading: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts, images and responses, ready for the model. Made by `HookedVLM.prepare`.

    Attributes:
        input_ids: token ids, every image expanded to its visual tokens.
        attention_mask: 1 at tokens, 0 at padding.
        kinds: `TokenKind` numbers.
        image_inputs: what the model is given of the images, by the names of its forward pass, in the layout of the
            family; empty if no row has an image.
        image_rows: batch row of every image.
        patch_index: index into `patches` at visual positions, -1 elsewhere.
        patches: all patches, images one after the other, in the order of the visual tokens.
        images: the images as given, in RGB.
        grids: rows and columns of patches, one pair per image. Where a family shows an image whole and in tiles, its
            grid is of a sheet with all of them side by side, with gaps (see `seen_image`).
        prompts: as given.
        responses: as given; None where there is none.
        texts: what was tokenised, with one image token per image.
        spans: characters of `texts[row]` that a token covers, start and end; (0, 0) for tokens without characters,
            such as a BOS that the tokenizer adds.
        row_inputs: what else the model is given, by row.
        site_rows: of the sites `"vision"` and `"projector"`, one tensor per image: for every row of the site's tensors
            which of the image's patches it is, -1 for a row that is none. Read it with `rows_at`.
        splits: dimension and sizes by which an image input is split into images, where it is not one entry per image.

    >>> batch = model.prepare([data[0].load_images(), None], "What is it?", ["a large cross", "a size"])
    >>> len(batch), batch.image_rows.tolist(), batch.grids
    (2, [0], ((8, 8),))
    >>> batch.mask("visual").sum(1).tolist(), batch.mask("text").sum(1).tolist()
    ([64, 0], [3, 2])
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    kinds: Int[Tensor, "batch pos"]
    image_inputs: Mapping[str, Tensor]
    image_rows: Int[Tensor, "image"]
    patch_index: Int[Tensor, "batch pos"]
    patches: Sequence[Patch]
    images: tuple[Image.Image, ...]
    grids: tuple[tuple[int, int], ...]
    prompts: tuple[str, ...]
    responses: tuple[str | None, ...]
    texts: tuple[str, ...]
    spans: Int[Tensor, "batch pos 2"]
    row_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    site_rows: Mapping[str, tuple[Int[Tensor, "_"], ...]] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)
    _tokenizer: Any = field(repr=False, default=None)
    _image_processor: Any = field(repr=False, default=None)
    _seen: Callable[[Any, Mapping[str, Tensor]], Tensor] = field(repr=False, default=one_view)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def __repr__(self) -> str:
        rows, positions = self.input_ids.shape
        return f"Batch({rows} rows, {positions} positions, {len(self.images)} images, {len(self.patches)} patches)"

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
            for name in (one.name for one in fields(self))
            if isinstance(value := getattr(self, name), Tensor) and value.device != torch.device(device)
        }
        for name in ("image_inputs", "row_inputs"):
            given: Mapping[str, Tensor] = getattr(self, name)
            if any(value.device != torch.device(device) for value in given.values()):
                moved[name] = {key: value.to(device) for key, value in given.items()}
        return replace(self, **moved) if moved else self

    @property
    def pixel_values(self) -> Float[Tensor, "*pixels"] | None:
        """Images as the processor made them, in the layout of the family; None if no row has one."""
        return self.image_inputs.get("pixel_values")

    @property
    def model_inputs(self) -> dict[str, Tensor]:
        """What the model is given beside ids and mask, by the names of its forward pass.

        >>> list(batch.model_inputs)
        ['pixel_values']
        """
        return {**self.image_inputs, **self.row_inputs}

    @cached_property
    def patch_counts(self) -> list[int]:
        """Patches of every image.

        >>> batch.patch_counts
        [64]
        """
        return np.bincount(Patches.of(self.patches).image, minlength=len(self.images)).tolist()  # type: ignore[no-any-return]

    @cached_property
    def row_of_patches(self) -> Int[Tensor, "patch"]:
        """Batch row of every patch.

        >>> batch.row_of_patches.unique().tolist()
        [0]
        """
        return self.image_rows.cpu().repeat_interleave(torch.tensor(self.patch_counts, dtype=torch.long))

    def own_inputs(self, image: int) -> dict[str, Tensor]:
        """What the model is given of one image.

        >>> batch.own_inputs(0)["pixel_values"].shape
        torch.Size([1, 3, 64, 64])
        """
        return {name: self._pick(name, value, [image]) for name, value in self.image_inputs.items()}

    def _pick(self, name: str, value: Tensor, images: Sequence[int]) -> Tensor:
        dim, sizes = self.splits.get(name, (0, [1] * len(self.images)))
        parts = value.split(list(sizes), dim)
        return torch.cat([parts[i] for i in images], dim)

    def rows_at(self, hook: str, shape: Sequence[int]) -> Rows:
        """What the rows of a vision or projector hook's tensor are.

        Raises:
            ValueError: the tensor does not hold the batch's patches (an attention pattern, or what the tower is given).

        >>> batch.rows_at("vision.0.mlp.hook_post", (1, 64, 96)).patch.tolist() == list(range(64))
        True
        """
        likely = "projector" if "projector" in hook else "vision"
        for site in sorted(self.rows_by_site, key=lambda name: name != likely):
            rows = self.rows_by_site[site]
            leading = next((n for n in (1, 2, 3) if len(shape) > n and prod(shape[:n]) == len(rows.patch)), None)
            if leading is not None and not hook.endswith(("hook_pattern", "hook_attn_scores")):
                return replace(rows, leading=leading)
        raise ValueError(f"{hook!r} {tuple(shape)} does not have rows for each of {len(self.patches)} patches")

    @cached_property
    def rows_by_site(self) -> dict[str, Rows]:
        """What `site_rows` says, through all images.

        >>> len(batch.rows_by_site["vision"].shown)
        64
        """
        starts = list(accumulate(self.patch_counts, initial=0))
        found = {}
        for site, own in self.site_rows.items():
            patch = torch.cat([torch.where(rows < 0, rows, rows + at) for rows, at in zip(own, starts, strict=False)])
            image = torch.arange(len(own)).repeat_interleave(torch.tensor([len(rows) for rows in own]))
            shown = patch.argsort(stable=True)[int((patch < 0).sum()) :]
            found[site] = Rows(patch, image, shown)
        return found

    def by_patch(self, hook: str, tensor: Float[Tensor, "*item d"]) -> tuple[Float[Tensor, "n *d"], Int[Tensor, "n"]]:
        """Activations of a vision or projector hook at patches.

        Returns:
            The rows of its tensor that are patches, in the order of `patches`, and which patch each is. Several rows
            may be one patch, where the projector puts neighbours together.

        Raises:
            ValueError: see `rows_at`.

        >>> _, cache = model.run_with_cache(batch)
        >>> values, patch = batch.by_patch("projector.0.hook_post", cache["projector.0.hook_post"])
        >>> values.shape, batch.patches[patch[9]].row
        (torch.Size([64, 128]), 1)
        """
        rows = self.rows_at(hook, tensor.shape)
        flat = tensor.flatten(0, rows.leading - 1)
        plain = len(rows.shown) == len(flat) and bool((rows.shown.diff() == 1).all())
        return flat if plain else flat[rows.shown.to(flat.device)], rows.patch[rows.shown]

    def take(self, images: Sequence[int]) -> dict[str, Any]:
        """Fields of a batch of some of the images, in another order, repeats allowed; for `dataclasses.replace`."""
        starts, patches = list(accumulate(self.patch_counts, initial=0)), Patches.of(self.patches)
        return {
            "image_inputs": {
                name: self._pick(name, value, images) for name, value in self.image_inputs.items() if images
            },
            "splits": {name: (dim, [sizes[i] for i in images]) for name, (dim, sizes) in self.splits.items()},
            "site_rows": {site: tuple(rows[i] for i in images) for site, rows in self.site_rows.items()},
            "patches": Patches.joined(
                replace(own, image=np.full_like(own.image, new))
                for new, own in enumerate(patches[starts[old] : starts[old + 1]] for old in images)
            ),
            "images": tuple(self.images[i] for i in images),
            "grids": tuple(self.grids[i] for i in images),
        }

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
        """Image i as the model saw it: resized and cropped, the normalisation undone. Where a family shows an image
        whole and in tiles: a sheet with all of them.

        >>> batch.seen_image(0).size
        (64, 64)
        """
        from PIL import Image

        if self.pixel_values is None or not 0 <= i < len(self.images):
            raise IndexError(f"image {i}: this batch has {len(self.images)} images")
        pixels = self._seen(self._image_processor, self.own_inputs(i)).detach().float().cpu()
        processor = self._image_processor
        if getattr(processor, "do_normalize", False):
            mean, std = (torch.tensor(list(v)).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
            pixels = pixels * std + mean
        if getattr(processor, "do_rescale", False):
            pixels = pixels / processor.rescale_factor
        if pixels.dim() == 4:
            start = sum(self.patch_counts[:i])
            own = Patches.of(self.patches)[start : start + self.patch_counts[i]]
            pixels = on_sheet(pixels, own, self.grids[i])
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


class SettingsError(ValueError):
    """With these settings of the processor no picture can be read: it concerns every sample."""


class HookNeverFires(RuntimeError):
    """A hook that was asked for by name did not fire in a forward pass: the result would silently lack it."""

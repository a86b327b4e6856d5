"""Pixtral's tower reads images at their own shape; a token that shows no place ends every row.

Pixtral is `llava` with this tower, and each of its patches is a token; Mistral 3 merges squares of patches into one.
The patches of all images stand one after the other, row by row. transformers' processor of both wants torchvision,
though their images can be processed without: `processor` is the same without it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor

from vlm_neurons.models.adapters.adapter import Given, Inputs, MLPs, Placed
from vlm_neurons.models.adapters.geometry import Layout, by_square, check_same, patches
from vlm_neurons.models.adapters.llava import LLAVA


@cache
def processor() -> Any:
    """A class that does what transformers' `PixtralProcessor` does."""
    from transformers import ProcessorMixin

    class PixtralProcessor(ProcessorMixin):  # type: ignore[misc]
        """Text and images of Pixtral and Mistral 3."""

        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            patch_size: int = 16,
            spatial_merge_size: int = 1,
            chat_template: str | None = None,
            image_token: str = "[IMG]",
            image_break_token: str = "[IMG_BREAK]",
            image_end_token: str = "[IMG_END]",
        ) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)
            self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
            self.image_token, self.image_token_id = image_token, tokenizer.convert_tokens_to_ids(image_token)
            self.image_break_token, self.image_end_token = image_break_token, image_end_token

        def _process_images(self, images: Any, **settings: Any) -> Any:
            return super()._process_images(images, **{**settings, **in_tokens(self)})

        def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:
            """The rows of an image."""
            height, width = map(int, image_inputs["image_sizes"][image_idx])
            return rows_of_text(self, height, width)

    return PixtralProcessor


def rows_of_text(made: Any, height: int, width: int) -> str:
    """What stands in the text for an image of this size."""
    side = in_tokens(made)["patch_size"]
    row = made.image_token * (width // side)
    return made.image_break_token.join([row] * (height // side)) + made.image_end_token  # type: ignore[no-any-return]


def replace_image(given: Given, image: int, placed: Placed) -> str:
    """The same for transformers' own processor, which is given lists."""
    return rows_of_text(given.processor, *map(int, given.output["image_sizes"][image]))


def in_tokens(made: Any) -> dict[str, Any]:
    """The processor has the sides of images be multiples of a token's, not of a patch's."""
    return {"patch_size": made.patch_size * made.spatial_merge_size}


def merged(config: Any) -> int:
    """Patches at the side of a token."""
    return int(getattr(config, "spatial_merge_size", 1))


def processor_settings(config: Any) -> dict[str, Any]:
    """The processor's defaults are those of the first Pixtral."""
    return {"patch_size": config.vision_config.patch_size, "spatial_merge_size": merged(config)}


def place(given: Given) -> list[Placed]:
    """Where the visual tokens look: row by row.

    Raises:
        ValueError: the processor has other patches than the model.
    """
    check_same(given.processor, "processor", processor_settings(given.config))
    if getattr(given.processor.image_processor, "do_center_crop", None):
        raise ValueError("image processor with do_center_crop=True: set it to False, as Pixtral's is")
    side = given.config.vision_config.patch_size * merged(given.config)
    found = []
    for i, size in enumerate(given.sizes):
        height, width = map(int, given.output["image_sizes"][i])
        layout = Layout(size, (height, width), (0, 0), (height, width))
        found.append(Placed((height // side, width // side), patches(i, layout, side)))
    return found


def place_merged(given: Given) -> list[Placed]:
    """Where the visual tokens of Mistral 3 look.

    Raises:
        ValueError: see `place`; or an image is a single token, which transformers' Mistral 3 fails on.
    """
    placed = place(given)
    for (height, width), one in zip(given.sizes, placed, strict=True):
        if one.grid == (1, 1):
            raise ValueError(
                f"{width} x {height} pixels are a single visual token, with which transformers' Mistral 3 fails; "
                "enlarge the picture"
            )
    return placed


def seen(image_processor: Any, own: Inputs) -> Tensor:
    """An image without the padding to the largest of the batch."""
    height, width = own["image_sizes"][0].tolist()
    return own["pixel_values"][0, :, :height, :width]


def by_patch(given: Given, placed: Placed) -> list[int]:
    """Rows of the tower: patch by patch and row by row, whatever is merged later."""
    return by_square(placed.grid, merged(given.config))


def check(config: Any) -> None:
    """All patches have to reach the projector."""
    if getattr(config, "vision_feature_select_strategy", "full") != "full":
        raise ValueError(
            "pixtral with vision_feature_select_strategy='default' is not supported: it leaves out the first patch, as "
            "if it were a class token; it has to be 'full'"
        )


LAYER = "model.vision_tower.transformer.layers.{i}.feed_forward."
LIMITS = "scans see the positive pole of the gated tower's neurons"

PIXTRAL = replace(
    LLAVA,
    name="pixtral",
    model_type="llava",
    towers=("pixtral",),
    backbones=("mistral",),
    geometry=place,
    processor=processor,
    processor_settings=processor_settings,
    image_settings=in_tokens,
    vision=MLPs(into=LAYER + "gate_proj", up=LAYER + "up_proj", out=LAYER + "down_proj", rows=by_patch),
    declared=True,
    seen=seen,
    replace=replace_image,
    check=check,
    limits=LIMITS,
)
MISTRAL3 = replace(
    PIXTRAL,
    name="mistral3",
    model_type="mistral3",
    architecture="Mistral3ForConditionalGeneration",
    geometry=place_merged,
    backbones=("mistral", "ministral3"),
)

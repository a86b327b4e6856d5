"""Features of single patches by CLIP and SigLIP, in the space of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

# texts that stand for anything
ANYTHING = ("a photo", "a photo of something", "an object", "a background", "a texture", "a person", "a place")
TEXTS = 256  # at a time


def check_model(model: Any, user: str) -> None:
    """Refuse what has no features of patches in the space of its texts.

    Raises:
        ValueError: neither CLIP nor SigLIP, or a SigLIP without its pooling head.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ("clip", "siglip"):
        raise ValueError(f"model of type {kind!r}: {user} takes CLIP and SigLIP (CLIPModel, SiglipModel)")
    if kind == "siglip" and not getattr(model.config.vision_config, "vision_use_head", True):
        raise ValueError(
            f"{user}: a SigLIP without its pooling head (vision_use_head=False): only behind the head are its patches "
            "in the space of its texts; take the whole checkpoint"
        )


def patches_a_side(model: Any) -> int:
    """Of the model's square."""
    vision = model.config.vision_config
    return int(vision.image_size // vision.patch_size)


def patch_features(model: Any, processor: Any, images: Sequence[Image.Image]) -> Float[Tensor, "image patch d_embed"]:
    """Features of all patches, of length 1: what the model's pooling makes of each patch alone.

    With CLIP that is the last hidden state through the final layer norm and the visual projection, with SigLIP the
    attention head over this one patch. Neither was trained on single patches, so that places are less sure than
    presence. The whole image is seen: it is squeezed to the model's square, never cropped.
    """
    side = model.config.vision_config.image_size
    square = {"height": side, "width": side}  # of which a centre crop takes nothing away
    inputs = processor.image_processor(images=list(images), size=square, return_tensors="pt")
    vision = model.vision_model
    with torch.no_grad():
        hidden = vision(inputs["pixel_values"].to(model.device, model.dtype)).last_hidden_state
        if model.config.model_type == "clip":
            found = model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
        else:
            found = vision.head(hidden.flatten(0, 1)[:, None]).unflatten(0, hidden.shape[:2])
    return torch.nn.functional.normalize(found.float(), dim=-1)


def text_features(model: Any, processor: Any, texts: Sequence[str]) -> Float[Tensor, "text d_embed"]:
    """Embeddings of texts, of length 1."""
    longest = model.config.text_config.max_position_embeddings
    # SigLIP was trained on padded texts without a mask
    names = ["input_ids", "attention_mask"] if model.config.model_type == "clip" else ["input_ids"]
    found = []
    for start in range(0, len(texts), TEXTS):
        inputs = processor.tokenizer(
            list(texts[start : start + TEXTS]), padding="max_length", truncation=True, max_length=longest,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            out = model.get_text_features(**{n: inputs[n].to(model.device) for n in names})
        found.append(getattr(out, "pooler_output", out).float())
    return torch.nn.functional.normalize(torch.cat(found), dim=-1)

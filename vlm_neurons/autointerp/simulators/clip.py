"""CLIP's opinion of every patch: is it what the explanation says, or anything at all?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.autointerp.client.local import open_model
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.autointerp.protocols import Job, Prediction, Resolution, Simulator, constant
from vlm_neurons.autointerp.simulators.cell_questions import at_patches
from vlm_neurons.autointerp.simulators.phrases import PICTURES, Phrase, own_phrases
from vlm_neurons.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

GENERIC = ("a photo", "a photo of something", "an object", "a background", "a texture", "a person", "a place")
BATCH = 16  # images


@dataclass(frozen=True, eq=False)
class ClipSimulator(Simulator):
    """Predicts, for every patch of a CLIP or SigLIP model, 10 times the probability of the explanation against generic
    texts: the softmax of the model's scaled cosines. No key; the weights are the checkpoint's.

    The feature of a patch is what the model's pooling makes of that patch alone: with CLIP the last hidden state
    through the final layer norm and the visual projection, with SigLIP the attention head over this one patch. Neither
    was trained on single patches, so that places are less sure than presence. The whole image is seen: it is squeezed
    to the model's square, never cropped. Alternatives (between semicolons) are joined by the larger value.

    Attributes:
        model: `CLIPModel` or `SiglipModel` of transformers.
        processor: its processor: an image processor (PIL will do) and a tokenizer.
        generic: texts that stand for anything else.

    It predicts pictures alone.

    >>> from transformers import CLIPConfig, CLIPModel
    >>> with torch.device("meta"):  # no weights; vn.simulators.ClipSimulator.from_pretrained() has them
    ...     untrained = CLIPModel(CLIPConfig(vision_config={"image_size": 224, "patch_size": 16}))
    >>> vn.simulators.ClipSimulator(untrained, None).resolution  # 224 / 16 patches a side
    Resolution(levels=None, grid=(14, 14))
    """

    model: Any
    processor: Any
    _: KW_ONLY
    generic: tuple[str, ...] = GENERIC
    name: str = "clip"

    sides = PICTURES
    paid = True  # in time

    def __post_init__(self) -> None:
        if self.model.config.model_type not in ("clip", "siglip"):
            raise ValueError(f"model of type {self.model.config.model_type!r}: ClipSimulator takes CLIP and SigLIP")
        if not self.generic:
            raise ValueError("generic: at least one text that stands for anything else")

    @classmethod
    def from_pretrained(
        cls, name_or_dir: str | Path = "openai/clip-vit-base-patch16", *, device: Any = None, **options: Any
    ) -> ClipSimulator:
        """By name on the hub, or from a directory.

        Args:
            name_or_dir: a CLIP or SigLIP checkpoint.
            device: where it computes.
            options: `generic`.

        Raises:
            OSError: it is not there.
            ValueError: it is no CLIP or SigLIP.
        """
        return cls(*open_model("AutoModel", name_or_dir, device), **options)

    @property
    def resolution(self) -> Resolution:  # type: ignore[override]
        """The patches of the model."""
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return Resolution(None, (side, side))

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return json.dumps(["clip-1", fingerprint(self.model, self.model.config, self.processor), self.generic])

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job."""
        texts: dict[str, Tensor] = {}
        for start in range(0, len(jobs), BATCH):
            portion = [j for j in jobs[start : start + BATCH] if not says_nothing(j.explanation)]
            shown = [j.exemplar.seen for j in portion]
            images = {d: i for s in shown for d, i in zip(s.image_digests, s.images, strict=True)}
            features = dict(zip(images, self.features(list(images.values())), strict=True)) if images else {}
            for place, job in enumerate(jobs[start : start + BATCH], start):
                if says_nothing(job.explanation):
                    yield place, constant(job)
                    continue
                phrases = own_phrases(job.explanation)
                for phrase in phrases:
                    if phrase.words not in texts:
                        texts[phrase.words] = self.embedded([phrase.words, *self.generic])
                seen = job.exemplar.seen
                yield place, Prediction(tuple(
                    at_patches(self._cells(features[d], phrases, texts), boxes, image.size)
                    for d, boxes, image in zip(seen.image_digests, seen.boxes, seen.images, strict=True)
                ))  # fmt: skip

    def _cells(self, patches: Tensor, phrases: Sequence[Phrase], texts: dict[str, Tensor]) -> np.ndarray:
        """Values [rows, columns] of one image."""
        side = self.resolution.grid[0]  # type: ignore[index]
        found = np.zeros(side * side)
        for phrase in phrases:
            scaled = float(self.model.logit_scale.detach().exp()) * patches @ texts[phrase.words].T
            p = scaled.softmax(-1)[:, 0].cpu().numpy()
            found = np.maximum(found, phrase.strength * (1 - p if phrase.negated else p))
        return found.reshape(side, side)

    def features(self, images: Sequence[Image.Image]) -> Float[Tensor, "image patch d_embed"]:
        """Features of all patches, of length 1."""
        import torch

        side = self.model.config.vision_config.image_size
        square = {"height": side, "width": side}  # of which a centre crop takes nothing away
        inputs = self.processor.image_processor(images=list(images), size=square, return_tensors="pt")
        vision = self.model.vision_model
        with torch.no_grad():
            hidden = vision(inputs["pixel_values"].to(self.model.device, self.model.dtype)).last_hidden_state
            if self.model.config.model_type == "clip":
                found = self.model.visual_projection(vision.post_layernorm(hidden[:, 1:]))
            else:
                found = vision.head(hidden.flatten(0, 1)[:, None]).unflatten(0, hidden.shape[:2])
        return torch.nn.functional.normalize(found.float(), dim=-1)

    def embedded(self, texts: Sequence[str]) -> Float[Tensor, "text d_embed"]:
        """Embeddings of texts, of length 1."""
        import torch

        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.processor.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        # SigLIP was trained on padded texts without a mask
        names = ["input_ids", "attention_mask"] if self.model.config.model_type == "clip" else ["input_ids"]
        with torch.no_grad():
            out = self.model.get_text_features(**{n: inputs[n].to(self.model.device) for n in names})
        return torch.nn.functional.normalize(getattr(out, "pooler_output", out).float(), dim=-1)

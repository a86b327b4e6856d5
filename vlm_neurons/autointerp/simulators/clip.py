"""CLIP's opinion of every patch: is it what the explanation says, or anything at all?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.autointerp.client.local import open_model
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.autointerp.protocols import Job, Prediction, Resolution, Simulator, constant
from vlm_neurons.autointerp.simulators.cell_questions import at_patches
from vlm_neurons.autointerp.simulators.phrases import PICTURES, Phrase, own_phrases
from vlm_neurons.concepts.dense import ANYTHING, check_model, patch_features, patches_a_side, text_features
from vlm_neurons.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

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
    generic: tuple[str, ...] = ANYTHING
    name: str = "clip"

    sides = PICTURES
    paid = True  # in time

    def __post_init__(self) -> None:
        check_model(self.model, "ClipSimulator")
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
        side = patches_a_side(self.model)
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
            features = (
                dict(zip(images, patch_features(self.model, self.processor, list(images.values())), strict=True))
                if images
                else {}
            )
            for place, job in enumerate(jobs[start : start + BATCH], start):
                if says_nothing(job.explanation):
                    yield place, constant(job)
                    continue
                phrases = own_phrases(job.explanation)
                for phrase in phrases:
                    if phrase.words not in texts:
                        texts[phrase.words] = text_features(self.model, self.processor, [phrase.words, *self.generic])
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

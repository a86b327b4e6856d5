"""Grounded segmentation: boxes around what the explanation names, masks in the boxes, and the share of every patch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from vlm_neurons.autointerp.client.client import ChatClient
from vlm_neurons.autointerp.client.local import open_model
from vlm_neurons.autointerp.client.prices import NOTHING, Plan
from vlm_neurons.autointerp.client.prompting import prompt_id
from vlm_neurons.autointerp.explanation import Failure, says_nothing
from vlm_neurons.autointerp.protocols import Job, Prediction, Resolution, Simulator, constant
from vlm_neurons.autointerp.simulators.phrases import PICTURES, Named, Phrase, named_phrases, naming, own_phrases
from vlm_neurons.autointerp.simulators.questions import PACKAGE, VERSION, Purse
from vlm_neurons.concepts.shares import means
from vlm_neurons.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from PIL import Image

Boxes = tuple[Float[np.ndarray, "box 4"], Float[np.ndarray, "box"]]  # pixels (left, top, right, bottom); confidences


@dataclass(frozen=True, eq=False)
class GroundedSimulator(Simulator):
    """The paper's simulator (Xu, Lan, Lu 2025, section 3.4): a language model says what to look for, Grounding DINO
    finds it, SAM cuts it out, and a patch's value is what of it is covered.

    Value of a patch = the mean over its pixels of strength x confidence: of the masks that hold a pixel the largest
    counts; the confidence is the detector's, from 0 to 1; the strength, from 0 to 10, is the language model's, or 10
    where the explanation's own words are looked for. Where nothing is found the prediction is 0: that is an answer.

    Attributes:
        detector: `GroundingDinoForObjectDetection` of transformers.
        detector_processor: its processor.
        segmenter: `SamModel`, or a model with its interface (boxes in, masks out), such as `Sam2Model`.
        segmenter_processor: its processor.
        namer: asks a language model what to look for; None takes the explanation's own words.
        box_threshold: least confidence of a box.
        text_threshold: least confidence of a word of it.

    It predicts pictures alone.

    >>> simulator = vn.simulators.GroundedSimulator.from_pretrained(device="cuda", box_threshold=0.4)  # doctest: +SKIP
    >>> made = vn.simulators.GroundedSimulator
    >>> sorted(made.sides), made.resolution  # any number, for every patch its own
    (['picture'], Resolution(levels=None, grid=None))
    """

    detector: Any
    detector_processor: Any
    segmenter: Any
    segmenter_processor: Any
    _: KW_ONLY
    namer: ChatClient | None = None
    box_threshold: float = 0.3
    text_threshold: float = 0.25
    name: str = "grounded"
    purse: Purse | None = field(default=None, repr=False)  # of runs that share the namer's `max_cost`

    sides = PICTURES
    resolution = Resolution()
    paid = True  # in time; with a namer also in money

    @classmethod
    def from_pretrained(
        cls,
        detector: str | Path = "IDEA-Research/grounding-dino-base",
        segmenter: str | Path = "facebook/sam-vit-base",
        *,
        device: Any = None,
        **options: Any,
    ) -> GroundedSimulator:
        """By names on the hub, or from directories.

        Args:
            detector: a Grounding DINO checkpoint.
            segmenter: a SAM checkpoint. SAM2's processor needs torchvision: `pip install 'vlm-neurons[grounded]'`.
            device: where they compute.
            options: `namer`, `box_threshold`, `text_threshold`.

        Raises:
            OSError: one of them is not there.
            ValueError: one of them is of another kind, or needs what is not installed.
        """
        found = open_model("AutoModelForZeroShotObjectDetection", detector, device)
        return cls(*found, *open_model("AutoModelForMaskGeneration", segmenter, device), **options)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        models = [fingerprint(self.detector, self.detector.config, self.detector_processor),
                  fingerprint(self.segmenter, self.segmenter.config, self.segmenter_processor)]  # fmt: skip
        namer = [self.namer.model, self.namer.base_url, prompt_id(PACKAGE, VERSION)] if self.namer else None
        return json.dumps(["grounded-1", *models, namer, self.box_threshold, self.text_threshold])

    def on_one_purse(self) -> GroundedSimulator:
        """The same, all of whose runs together keep to the namer's `max_cost`."""
        return replace(self, purse=Purse())

    def plan(self, jobs: Sequence[Job]) -> Plan:
        """What the namer would be asked, at most; sends nothing."""
        asks = naming(j.explanation for j in jobs if not says_nothing(j.explanation))
        return self.namer.plan(asks) if self.namer else NOTHING

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Prediction]]:
        """(place in jobs, prediction) of every job, failures included."""
        waiting: dict[str, list[int]] = {}
        for place, job in enumerate(jobs):
            if says_nothing(job.explanation):
                yield place, constant(job)
            else:
                waiting.setdefault(job.explanation, []).append(place)
        if self.namer is None:
            for explanation, places in waiting.items():
                phrases = own_phrases(explanation)
                yield from ((place, Prediction(self._patches(jobs[place], phrases))) for place in places)
        else:
            for named in named_phrases(waiting, self.namer, self.purse or Purse()):
                yield from self._named(jobs, waiting[named.explanation], named)

    def _named(self, jobs: Sequence[Job], places: Sequence[int], named: Named) -> Iterator[tuple[int, Prediction]]:
        """Jobs with one explanation; the first of them bears the cost of naming."""
        reply = named.reply
        for place in places:
            used = (reply.tokens_in, reply.tokens_out, reply.cost) if place == places[0] else (0, 0, 0.0)
            if isinstance(named.phrases, Failure):
                yield place, Prediction((), None, named.phrases, *used)
            else:
                yield place, Prediction(self._patches(jobs[place], named.phrases), None, None, *used)

    def _patches(self, job: Job, phrases: Sequence[Phrase]) -> tuple[np.ndarray, ...]:
        seen = job.exemplar.seen
        return tuple(means(self.values(i, phrases), b) for i, b in zip(seen.images, seen.boxes, strict=True))

    def values(self, image: Image.Image, phrases: Sequence[Phrase]) -> Float[np.ndarray, "height width"]:
        """Value of every pixel, 0 to 10."""
        total = np.zeros((image.height, image.width))
        for (strength, negated), group in groupby(sorted(phrases, key=_kind), key=_kind):
            boxes, confidences = self.detect(image, [p.words for p in group])
            share = painted(self.segment(image, boxes), confidences, total.shape)
            total = np.maximum(total, strength * (1 - share if negated else share))
        return total

    def detect(self, image: Image.Image, words: Sequence[str]) -> Boxes:
        """Boxes around any of the phrases."""
        import torch

        # the form that the detector was trained on
        said = " ".join(f"{w.lower().replace('.', ' ').strip()}." for w in words)
        short = {"truncation": True, "max_length": self.detector.config.max_text_len}
        inputs = self.detector_processor(images=image, text=said, return_tensors="pt", **short).to(self.detector.device)
        with torch.no_grad():
            out = self.detector(**inputs)
        (found,) = self.detector_processor.post_process_grounded_object_detection(
            out, inputs["input_ids"], threshold=self.box_threshold, text_threshold=self.text_threshold,
            target_sizes=[(image.height, image.width)],
        )  # fmt: skip
        boxes = found["boxes"].double().cpu().numpy().clip(0, [image.width, image.height] * 2)
        return boxes, found["scores"].double().cpu().numpy()

    def segment(self, image: Image.Image, boxes: Float[np.ndarray, "box 4"]) -> Bool[np.ndarray, "box height width"]:
        """A mask in every box."""
        import torch

        if not len(boxes):
            return np.zeros((0, image.height, image.width), bool)
        inputs = self.segmenter_processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
        sizes = [inputs.pop(n) for n in ("original_sizes", "reshaped_input_sizes") if n in inputs]  # SAM2 has the first
        inputs = {k: v.to(self.segmenter.device, self.segmenter.dtype) for k, v in inputs.items()}
        with torch.no_grad():
            masks = self.segmenter(**inputs, multimask_output=False).pred_masks
        (found,) = self.segmenter_processor.post_process_masks(masks.float().cpu(), *sizes)
        return found[:, 0].numpy()


def painted(
    masks: Bool[np.ndarray, "box height width"], confidences: Float[np.ndarray, "box"], size: Sequence[int]
) -> Float[np.ndarray, "height width"]:
    """The largest confidence of the masks that hold a pixel; 0 outside of all.

    >>> painted(np.array([[[True, True, False]], [[False, True, False]]]), np.array([0.5, 0.8]), (1, 3)).tolist()
    [[0.5, 0.8, 0.0]]
    """
    return np.max(masks * confidences[:, None, None], axis=0) if len(masks) else np.zeros(size)


def _kind(phrase: Phrase) -> tuple[float, bool]:
    return phrase.strength, phrase.negated

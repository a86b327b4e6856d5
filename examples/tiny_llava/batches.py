"""Training batches drawn from the scenes, the same for the same seed and step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlavaProcessor

from vlm_neurons.synthetic import language
from vlm_neurons.synthetic.dataset import TRAINING_SEED
from vlm_neurons.synthetic.language import Dialogue
from vlm_neurons.synthetic.scene import GRID, Scene, coverage, draw_scene, render

CONTENT_WEIGHT = 3.0
N_PATCHES = GRID * GRID


@dataclass
class TrainBatch:
    """One step's data.

    Attributes:
        ids: padded on the right.
        weights: weight of predicting each token; 0 where it is no part of an answer.
        pixels: of the rows that have a picture, in order.
        patch_words: the three words that each patch should say; a row per picture.
        patch_weights: 3 for an object, 1 for background, 0 for a patch that is neither.
    """

    ids: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]
    image: Bool[Tensor, "batch pos"]
    pad: Bool[Tensor, "batch pos"]
    pixels: Float[Tensor, "image 3 64 64"]
    patch_words: Int[Tensor, "image patch 3"]
    patch_weights: Float[Tensor, "image patch"]


class Batcher:
    """Draws batches; `seed` picks the stream of scenes."""

    def __init__(self, processor: LlavaProcessor, seed: int) -> None:
        self.tokenizer = processor.tokenizer
        self.seed = TRAINING_SEED + seed
        images = processor.image_processor
        self.mean, self.std = images.image_mean[0], images.image_std[0]
        self.image_id = processor.image_token_id
        content = [w for w in (*language.CLASS_OF_WORD, "yes", "no", "one", "two")]
        self.word_id = {w: self.tokenizer.convert_tokens_to_ids(f"▁{w}") for w in content}
        self.content = torch.tensor(sorted(self.word_id.values()))

    def patches_only(self, first: int, n: int, easy_share: float) -> TrainBatch:
        """Stage 1: pictures after "USER: ", nothing said about them."""
        easy = [np.random.default_rng([self.seed, 1, i]).random() < easy_share for i in range(first, first + n)]
        scenes = [draw_scene(self.seed, first + i, split="seen", easy=easy[i]) for i in range(n)]
        return self._batch(scenes, [None] * n)

    def dialogues(self, first: int, n: int) -> TrainBatch:
        """Stage 2: descriptions, brief ones, questions, and lines without a picture."""
        scenes: list[Scene | None] = []
        dialogues: list[Dialogue | None] = []
        for index in range(first, first + n):
            rng = np.random.default_rng([self.seed, 2, index])
            scene = draw_scene(self.seed, index, split="seen")
            draw = rng.random()
            if draw < 0.125:
                scenes.append(None)
                dialogues.append(language.text_line(rng))
                continue
            scenes.append(scene)
            if draw < 0.6:
                prompt = language.DESCRIBE if rng.random() < 0.7 else str(rng.choice(language.DESCRIBE_ALSO))
                dialogues.append(Dialogue(((prompt, language.description(scene)),), ("describe",)))
            elif draw < 0.68:
                dialogues.append(Dialogue(((language.BRIEF, language.brief(scene)),), ("brief",)))
            else:
                dialogues.append(language.questions(scene, rng, _order(rng)))
        return self._batch(scenes, dialogues)

    def _batch(self, scenes: list[Scene | None], dialogues: list[Dialogue | None]) -> TrainBatch:
        rendered = [_render(s is not None, d) for s, d in zip(scenes, dialogues, strict=True)]
        encoded = self.tokenizer([text for text, _ in rendered], return_offsets_mapping=True, padding=False)
        width = max(len(ids) for ids in encoded["input_ids"])
        ids = torch.full((len(scenes), width), self.tokenizer.pad_token_id)
        weights = torch.zeros(len(scenes), width)
        for i, (_, spans) in enumerate(rendered):
            row = torch.tensor(encoded["input_ids"][i])
            ids[i, : len(row)] = row
            start, end = torch.tensor(encoded["offset_mapping"][i]).unbind(1)
            for a, b in spans:
                weights[i, : len(row)] += ((start < b) & (end > a)).float()
        weights *= 1 + (CONTENT_WEIGHT - 1) * torch.isin(ids, self.content)
        shown = [s for s in scenes if s is not None]
        words, patch_weights = zip(*(self._patch_targets(s) for s in shown), strict=True)
        pixels = torch.from_numpy(np.stack([render(s) for s in shown])).permute(0, 3, 1, 2).float()
        return TrainBatch(
            ids=ids,
            weights=weights,
            image=ids == self.image_id,
            pad=ids == self.tokenizer.pad_token_id,
            pixels=(pixels / 255 - self.mean) / self.std,
            patch_words=torch.tensor(np.stack(words)),
            patch_weights=torch.tensor(np.stack(patch_weights), dtype=torch.float32),
        )

    def _patch_targets(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        covered = coverage(scene).reshape(len(scene.things), -1)
        owner, most = covered.argmax(0), covered.max(0)
        things = np.array([[self.word_id[w] for w in (t.color, t.shape, t.size)] for t in scene.things])
        ground = [self.word_id[scene.shade], self.word_id[scene.texture], self.word_id[scene.texture]]
        words = np.where((most >= 0.15)[:, None], things[owner], np.array(ground))
        weights = np.where(most >= 0.15, 3.0, np.where(most < 0.03, 1.0, 0.0))
        return words, weights


def _order(rng: np.random.Generator) -> tuple[str, ...]:
    """Kinds of questions for one dialogue: any may come first, none after one whose words give its answer away."""
    naming = [str(kind) for kind in rng.permutation(["size", "where", "where", "count"])]
    if rng.random() < 0.4:
        return (str(rng.choice(["color", "shape"])), "exists", *naming[:2])
    return ("exists", *naming[:3]) if rng.random() < 0.4 else tuple(naming)


def _render(has_image: bool, dialogue: Dialogue | None) -> tuple[str, list[tuple[int, int]]]:
    """Text with the image tokens in it, and the character spans that are answers (with their end token)."""
    picture = "<image>" * N_PATCHES
    if dialogue is None:
        return f"USER: {picture}", []
    text, spans = "", []
    for number, (prompt, response) in enumerate(dialogue.turns):
        text += f"USER: {picture}\n" if has_image and number == 0 else "USER: "
        text += f"{prompt}\nASSISTANT:"
        start = len(text)
        text += f" {response}</s>"
        spans.append((start, len(text)))
    return text, spans

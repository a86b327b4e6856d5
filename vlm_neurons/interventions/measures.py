"""What a model gets right on a data set, sample by sample, with hooks or without.

Everything comes from one forward pass over the true responses: the loss, and whether the most likely next word is the
true one given the true words before it. For answers this is exactly what greedy generation gets right: it writes the
true answer if and only if every one of its tokens is the most likely one after the true tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlm_neurons.data.describing import DEFAULT_PROMPT
from vlm_neurons.stats import bootstrap_means
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from vlm_neurons.data import ImageTextData
    from vlm_neurons.models import Batch, HookedVLM

Scores = dict[str, Float[np.ndarray, " sample"]]
FIRST = ("size", "color", "shape")  # named in the first sentence of a description; later mentions can be copied


@dataclass(frozen=True, eq=False)
class Task:
    """A data set, prepared once and measured many times.

    Attributes:
        name: starts the names of its measures, such as `"description loss"`.
        batches: the samples, in order.
        words: per batch, True at the tokens of each kind of word that is scored.
        n: samples.
    """

    name: str
    batches: tuple[Batch, ...]
    words: tuple[dict[str, Bool[Tensor, "batch pos"]], ...]
    n: int

    @property
    def shows_images(self) -> bool:
        """Whether some sample has an image."""
        return any(len(batch.images) for batch in self.batches)


def prepare_tasks(
    model: HookedVLM,
    data: ImageTextData,
    questions: ImageTextData | None = None,
    text: ImageTextData | None = None,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 50,
) -> list[Task]:
    """The tasks `description`, and where they are given `question` and `text`.

    Raises:
        ValueError: a sample has no response to measure (`vn.describe(model, data, out)` writes them).
    """
    given = {"description": data, "question": questions, "text": text}
    return [_task(model, name, found, prompt, batch_size) for name, found in given.items() if found is not None]


def measure(model: HookedVLM, tasks: Sequence[Task], hooks: Sequence[Any] = ()) -> Scores:
    """Losses (nats per response token) and shares right (0 to 1) of every sample, with hooks.

    Returns:
        Measure -> one number per sample of its task: `"<task> loss"`; `"question right"` and `"text right"` (all
        tokens of the answer); for descriptions of scenes `"size"`, `"color"`, `"shape"`, `"place"`, `"background"`
        (share of the scene's words of that kind; words that were said before are left out).
    """
    found: dict[str, list[np.ndarray]] = {}
    for task in tasks:
        for batch, words in zip(task.batches, task.words, strict=True):
            with torch.no_grad():
                logits = model.run_with_hooks(batch, fwd_hooks=list(hooks))
            for name, values in _scores(task.name, logits, batch.to(logits.device), words).items():
                found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def means_of(scores: Scores) -> dict[str, float]:
    """Every measure's mean over the samples that have it."""
    return {name: float(np.nanmean(values)) for name, values in scores.items()}


def change_of(scores: Scores, intact: Scores, rng: np.random.Generator) -> dict[str, float]:
    """Change of the description loss, `change`, with its 95 % bootstrap interval over samples, `low` and `high`."""
    change = (scores["description loss"] - intact["description loss"])[:, None]
    low, high = np.percentile(bootstrap_means(change, rng), [2.5, 97.5])
    return {"change": float(change.mean()), "low": float(low), "high": float(high)}


def _scores(task: str, logits: Tensor, batch: Batch, words: dict[str, Tensor]) -> Scores:
    """Scores of one batch. The logits of a position are about the token after it."""
    said = batch.mask(TokenKind.TEXT)[:, 1:]
    next_ids = batch.input_ids[:, 1:]
    rows, at = said.nonzero(as_tuple=True)
    picked = logits[rows, at].float()  # only positions that count: the vocabulary of a real model is large
    true = next_ids[rows, at]
    nll = torch.zeros(said.shape, device=logits.device)
    nll[rows, at] = torch.nn.functional.cross_entropy(picked, true, reduction="none")
    right = torch.zeros(said.shape, device=logits.device)
    right[rows, at] = (picked.argmax(-1) == true).float()
    scores = {f"{task} loss": (nll.sum(1) / said.sum(1)).cpu().numpy().astype(float)}
    if task != "description":
        scores[f"{task} right"] = (right.sum(1) == said.sum(1)).cpu().numpy().astype(float)
    for kind, mask in words.items():
        mask = mask[:, 1:].to(logits.device)
        n = mask.sum(1)
        share = torch.where(n > 0, (right * mask).sum(1) / n.clamp(min=1), torch.nan)
        scores[kind] = share.cpu().numpy().astype(float)
    return scores


def _task(model: HookedVLM, name: str, data: ImageTextData, prompt: str, batch_size: int) -> Task:
    batches, words = [], []
    for first in range(0, len(data), batch_size):
        samples = [data[i] for i in range(first, min(first + batch_size, len(data)))]
        missing = next((s for s in samples if not (s.response or "").strip()), None)
        if missing is not None:
            raise ValueError(f"sample {missing.name} has no response to measure; vn.describe(model, data, out) adds it")
        batch = model.prepare(
            [s.load_images() for s in samples],
            [s.question(prompt) for s in samples],
            [s.response for s in samples],
        )
        batches.append(batch)
        words.append(_words(data, batch, [s.id for s in samples]) if name == "description" else {})
    return Task(name, tuple(batches), tuple(words), len(data))


def _words(data: Any, batch: Batch, ids: list[int]) -> dict[str, Tensor]:
    """Tokens of the attribute words of scenes; nothing for other data."""
    from vlm_neurons.synthetic import Scenes

    if not isinstance(data, Scenes):
        return {}
    masks = {kind: torch.zeros_like(batch.input_ids, dtype=torch.bool) for kind in (*FIRST, "place", "background")}
    for row, sample in enumerate(ids):
        response = batch.responses[row] or ""
        start = batch.texts[row].rindex(response)
        first_sentence = response.index(".")
        spans = batch.spans[row]
        for word in data.words(sample):
            kind = "background" if word.kind in ("texture", "shade") else word.kind
            if kind not in masks or (kind in FIRST and word.start > first_sentence):
                continue
            where = (spans[:, 0] <= start + word.start) & (spans[:, 1] > start + word.start)
            masks[kind][row] |= where & (batch.kinds[row] == TokenKind.TEXT)
    return masks

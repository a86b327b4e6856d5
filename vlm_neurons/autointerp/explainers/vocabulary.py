"""Explanations from output weights: the words that a unit's direction raises and lowers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_neurons._checks import check_seed, on_scale, whole
from vlm_neurons.autointerp.explainers.output import Output, fingerprint_of, output_of
from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation, Failure
from vlm_neurons.autointerp.protocols import Explainer
from vlm_neurons.models.lens import arriving, output_weights, read_out
from vlm_neurons.models.state import state_of

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.models import HookedVLM

BEGINS = ("\u2581", "\u0120", " ")  # what marks a token that begins a word
MARKED = 0.1  # share of the vocabulary that has such a mark where the tokenizer has marks at all
CHUNK = 128  # directions read at once
NEAR = 0.8  # words are named whose cosine is at least this share of the largest: much is common to all content words


@dataclass(frozen=True, eq=False)
class VocabularyExplainer(Explainer):
    """Says which words a unit's output weights raise, and which they lower, through the family's own norms to the
    unembedding; what layers in between make of it is left out. No key, no data; a gate neuron's evidence is run again
    for the sign of its `up`. The output half of Gur-Arieh et al. (arXiv 2501.08319), which find it best beside an
    explanation from inputs: `JoinedExplainer`.

    Attributes:
        model: the model.
        words: at most so many are named in the text, of the raised ones that come near the first; `support` has all
            that count, raised and lowered apart.
        level: a word counts if the direction is nearer to what raises (or lowers) it alone, by their cosine, than
            random directions are to the word nearest to them, in this share of those.
        n_null: random directions.
        seed: of them.

    The text names what is raised, as "the word 'red'". A unit that writes nowhere near the unembedding (vision tower,
    heads), and what is no unit of the model, are failures of the kind `"capability"`.

    >>> explainer = vn.VocabularyExplainer(model, n_null=200)
    >>> found = vn.explain({"L2N304": evidence["L2N304"]}, explainer, progress=False)["L2N304"]
    >>> found.text, [(s["direction"], s["words"], s["cosines"], s["null"]) for s in found.support]
    ("the word 'size'", [('raised', ['size'], [0.327], 0.301)])
    """

    model: HookedVLM = field(repr=False)
    words: int = 3
    level: float = 0.99
    n_null: int = 1000
    seed: int = 0
    name: str = "vocabulary"

    def __post_init__(self) -> None:
        whole(1, words=self.words, n_null=self.n_null)
        on_scale(0, 1, "give a share from 0 to 1", level=self.level)
        check_seed(self.seed)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return json.dumps([self.name, 3, state_of(self.model), self.words, self.level, self.n_null, self.seed])

    def settings_of(self, evidence: Evidence) -> str:
        """The weights of the neuron's dictionary, if it is of one."""
        return fingerprint_of(evidence)

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key, explanation) of every neuron, failures included."""
        nulls: dict[str, float] = {}  # of each hook
        state, lengths = state_of(self.model), self._vocabulary.lengths()
        for key, one in evidence.items():
            try:
                output = output_of(self.model, one, state)
                written = output_weights(self.model, [output.neuron]).float()
            except (ValueError, LookupError) as error:
                yield key, Explanation(one.neuron, "", explainer=self.name, seed=one.seed,
                                       failure=Failure("capability", str(error.args[0])))  # fmt: skip
                continue
            hook = output.neuron.hook
            if hook not in nulls:
                nulls[hook] = self._null(hook, written.shape[-1], lengths)
            yield key, self._one(one, output, self._vocabulary.cosines(written, lengths)[0], nulls[hook])

    def _one(self, evidence: Evidence, output: Output, cosines: Float[np.ndarray, "word"], null: float) -> Explanation:
        common: dict[str, Any] = {"null": round(null, 3), "unit": output.neuron.id}
        if output.one_sided == output.one_sided:
            common["one_sided"] = round(output.one_sided, 2)
        support = []
        raised: list[str] = []
        for direction, signed in (("raised", cosines), ("lowered", -cosines)):
            order = np.argsort(-signed, kind="stable")
            chosen = [i for i in order if signed[i] > null]
            if not chosen:
                continue
            words = [self._vocabulary.words[i] for i in chosen]
            if direction == "raised":
                near = [signed[i] >= NEAR * signed[order[0]] for i in chosen]
                raised = [word for word, one in zip(words, near, strict=True) if one][: self.words]
            concepts = [f"word:{word}" for word in raised] if direction == "raised" else []
            support.append({"direction": direction, "concepts": concepts, "words": words,
                            "cosines": [round(float(signed[i]), 3) for i in chosen], **common})  # fmt: skip
        return Explanation(
            neuron=evidence.neuron,
            text="; ".join(f"the word '{word}'" for word in raised) or NO_PATTERN,
            description=_description(support, null, output),
            explainer=self.name,
            model=self.model.name,
            seed=evidence.seed,
            support=tuple(support),
        )

    @cached_property
    def _vocabulary(self) -> _Vocabulary:
        return _Vocabulary(self.model)

    def _null(self, hook: str, width: int, lengths: Float[Tensor, "token"]) -> float:
        """How near the nearest word is to random directions, in most of them."""
        made = torch.Generator().manual_seed(self.seed)
        most = []
        for start in range(0, self.n_null, CHUNK):
            drawn = torch.randn(min(CHUNK, self.n_null - start), width, generator=made).to(self.model.device)
            most.append(self._vocabulary.cosines(arriving(self.model, hook, drawn), lengths).max(1))
        return float(np.quantile(np.concatenate(most), self.level))


class _Vocabulary:
    """The words of a model's vocabulary, and the directions that raise them.

    Attributes:
        words: in lower case.
    """

    def __init__(self, model: HookedVLM) -> None:
        self.model = model
        tokenizer = model.tokenizer
        marked = [str(t) for t in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        special = set(tokenizer.all_special_ids)
        strict = sum(t.startswith(BEGINS) for t in marked) > MARKED * len(marked)
        tokens: dict[str, list[int]] = {}
        for number, token in enumerate(marked):
            word = tokenizer.decode([number]).strip().lower()
            if number not in special and word.isalpha() and (token.startswith(BEGINS) or not strict):
                tokens.setdefault(word, []).append(number)
        if not tokens:
            raise ValueError(f"{model.name}: no token of its vocabulary is a word")
        self.words = list(tokens)
        self._ids = torch.tensor([i for ids in tokens.values() for i in ids])
        self._home = torch.repeat_interleave(torch.tensor([len(ids) for ids in tokens.values()]))

    def lengths(self) -> Float[Tensor, "token"]:
        """Of the directions: the squares of what every coordinate does to every token are summed up."""
        width = self.model.cfg.d_model
        total = torch.zeros(len(self._ids))
        for start in range(0, width, CHUNK):
            some = torch.eye(width)[start : start + CHUNK].to(self.model.device)
            total += self._moved(some).square().sum(0)
        return total.sqrt().clamp(min=1e-9)

    def _moved(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n token"]:
        """Logits of words, less their mean: what is common to all changes no probability."""
        logits = read_out(self.model, vectors).cpu()[:, self._ids]
        return logits - logits.mean(1, keepdim=True)

    def cosines(
        self, vectors: Float[Tensor, "n d_model"], lengths: Float[Tensor, "token"]
    ) -> Float[np.ndarray, "n word"]:
        """Of vectors with what raises each word; the largest in size of a word's tokens."""
        found = self._moved(vectors) / lengths / vectors.norm(dim=1, keepdim=True).cpu().clamp(min=1e-9)
        home, none = self._home.expand_as(found), torch.zeros(len(found), len(self.words))
        most, least = (none.scatter_reduce(1, home, found, how, include_self=False) for how in ("amax", "amin"))
        return torch.where(most >= -least, most, least).numpy()


def _description(support: list[dict[str, Any]], null: float, output: Output) -> str:
    said = [f"{s['direction']}: " + ", ".join(f"{w} ({c:.2f})" for w, c in zip(s["words"], s["cosines"], strict=True))
            for s in support]  # fmt: skip
    told = "Words that its output weights move, with cosines: " + "; ".join(said)
    if not said:
        told = "Its output weights move no word by more than chance"
    told += f" (by chance up to {null:.2f})."
    if output.one_sided < 0.5:
        told += " Its `up` takes both signs where it is active: at some places it raises what it lowers at others."
    return told

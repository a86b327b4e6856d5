"""The explainer that needs no key: which concept of a bank fits what the neuron does.

After Network Dissection (Bau et al. 2017) and compositional explanations (Mu & Andreas 2020), with correlations in the
place of IoU, words beside regions, and a null: activations moved to other samples and places have to fit far worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons._checks import whole
from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation
from vlm_neurons.autointerp.protocols import Explainer, Side, sides_of
from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.lexical import lexical_bank, words_for
from vlm_neurons.concepts.visual import visual_bank

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar

Alternative = tuple[Concept, ...]  # concepts that hold together
MIN_TEXT = 5  # tokens
TIE = 0.003  # concepts that cannot be told apart on the exemplars: the kind that is named first here is preferred
_PREFERRED = ("word", "color", "shape", "size", "place", "object", "class", "position", "punctuation", "after",
              "before", "capital", "edge", "brightness", "texture")  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """The best supported description of one side.

    Attributes:
        alternatives: any of these; of each, all.
        r: correlation with the activations.
        null: the best correlation of any single concept after moving the activations, its 99th percentile.
    """

    alternatives: tuple[Alternative, ...]
    r: float
    null: float


@dataclass(frozen=True)
class DissectionExplainer(Explainer):
    """Compares activations with a bank of visual and lexical concepts; no key, no network, CPU.

    Attributes:
        truth: of scenes, use the ground truth too.
        min_r: a concept has to correlate at least so much with the activations (0-10 scale, all patches or tokens of
            the exemplars), and more than 99 % of the nulls.
        gain: two concepts have to leave so much less variance unexplained than one, as a share.
        n_null: number of nulls.

    Of a neuron that is classified as visual or text, only that side is looked at.

    It finds what is in its bank (`vlm_neurons.concepts`) or is a pair of such concepts, and nothing else: neurons for
    dogs, for irony or for the end of a list are `"no clear pattern"` to it, or the nearest concept that it has.

    >>> vn.explain(evidence, vn.explainers.DissectionExplainer(n_null=50), progress=False)["L2N304"].text
    'pink regions'
    >>> vn.explain(evidence, vn.explainers.DissectionExplainer(min_r=0.99), progress=False)["L2N304"].text
    'no clear pattern'
    """

    truth: bool = True
    min_r: float = 0.3
    gain: float = 0.08
    n_null: int = 100
    name: str = "dissection"
    sides_apart = True

    def __post_init__(self) -> None:
        whole(1, n_null=self.n_null)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return f"dissection-4 {self.truth} {self.min_r} {self.gain} {self.n_null}"

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key, explanation) of every neuron."""
        for key, one in evidence.items():
            yield key, self._one(one)

    def _one(self, evidence: Evidence) -> Explanation:
        shown = evidence.split("explain")
        fits: dict[Side, Fit | None] = {}
        for side in sides_of(evidence):
            if side == "picture" and evidence.sees_images:
                fits[side] = self._side(*_visual_side(evidence, shown, self.truth), _draws(evidence))
            if side == "text" and evidence.sees_text:
                fits[side] = self._side(*_text_side(evidence, shown), _draws(evidence))
        parts: dict[str, str] = {}
        support: list[dict[str, Any]] = []
        for side, fit in fits.items():
            if fit is None:
                continue
            parts[side] = "; ".join(_words(side, a) for a in fit.alternatives)
            names = [c.name for a in fit.alternatives for c in a]
            support.append({"side": side, "concepts": names, "r": round(fit.r, 4), "null": round(fit.null, 4)})
        rs = [s["r"] for s in support]
        found = [f"{parts[s['side']]} (r = {s['r']:.2f}, by chance {s['null']:.2f})" for s in support]
        return Explanation(
            neuron=evidence.neuron,
            text="; ".join(parts.values()) or NO_PATTERN,
            description="Best supported concepts of the bank: " + "; ".join(found) + "." if found else
            "No concept of the bank fits better than chance allows.",
            confidence=float(max(rs)) if rs else 0.0,
            explainer=self.name,
            exemplars=tuple(e.seen.sample for e in shown),
            seed=evidence.seed,
            support=tuple(support),
            by_side=parts,
        )  # fmt: skip

    def _side(
        self,
        values: list[np.ndarray],
        bank: dict[Concept, list[np.ndarray]],
        rng: np.random.Generator,
    ) -> Fit | None:
        """The concept, or two, that fit best; None if nothing fits better than chance."""
        flat = np.concatenate([v.ravel() for v in values]) if values else np.zeros(0)
        there = ~np.isnan(flat)
        flat = flat[there]
        if flat.size < MIN_TEXT or flat.max(initial=0) < 1 or flat.std() == 0 or not bank:
            return None  # less than a tenth of the neuron's peak: it is silent on this side
        concepts = sorted(bank)
        masks = np.stack([np.concatenate([m.ravel() for m in bank[c]])[there] for c in concepts]).astype(float)
        r = correlations(masks, flat)
        others = moved(values, self.n_null, rng)[:, there]
        null = float(np.quantile(correlations(masks, np.nan_to_num(others)).max(0), 0.99))
        near = np.flatnonzero(r >= r.max() - TIE)
        best = int(min(near, key=lambda i: (_PREFERRED.index(concepts[i].kind), -r[i])))
        fit = Fit(((concepts[best],),), float(r[best]), null)
        fit = self._pair(concepts, masks, r, flat, fit)
        return fit if fit.r >= self.min_r and float(r[best]) > null else None

    def _pair(self, concepts: list[Concept], masks: np.ndarray, r: np.ndarray, flat: np.ndarray, single: Fit) -> Fit:
        """Two concepts together, or either of two, if that fits so much better than one."""
        # what two have to reach: 1 - r^2 lower by the share `gain`
        enough = float(np.sqrt(1 - (1 - self.gain) * (1 - single.r**2)))
        ranked = sorted(range(len(r)), key=lambda i: (-round(float(r[i]), 3), _PREFERRED.index(concepts[i].kind)))
        best, candidates = single, [i for i in ranked[:14] if r[i] > 0.1]
        values = Centred.of(flat)
        for i, j in combinations(candidates, 2):
            a, b = concepts[i], concepts[j]
            options: list[tuple[tuple[Alternative, ...], np.ndarray]] = [(((a,), (b,)), np.maximum(masks[i], masks[j]))]
            if a.kind != b.kind and "word" not in (a.kind, b.kind):
                options.append((((a, b),), np.minimum(masks[i], masks[j])))
            for alternatives, mask in options:
                score = float(values.correlations(mask[None])[0, 0])
                if score > max(best.r, enough):
                    best = Fit(alternatives, score, single.null)
        return best


def _draws(evidence: Evidence) -> np.random.Generator:
    """The same for each side, so that a side is explained alike with the other and without."""
    return np.random.default_rng([evidence.seed, 17])


def correlations(masks: Float[np.ndarray, "concept n"], values: Float[np.ndarray, "*draw n"]) -> np.ndarray:
    """Pearson's r of every mask with every row of values; 0 where either does not vary.

    >>> correlations(np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([0.0, 2.0])).round(3).tolist()
    [1.0, 0.0]
    """
    r = Centred.of(values).correlations(masks)
    return r[:, 0] if values.ndim == 1 else r


@dataclass(frozen=True)
class Centred:
    """Rows of values about their means, and how long these are: once for all masks that they are compared with."""

    rows: Float[np.ndarray, "draw n"]
    sizes: Float[np.ndarray, "draw"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "*draw n"]) -> Centred:
        """Of one row of values, or several."""
        rows = np.atleast_2d(values - values.mean(-1, keepdims=True))
        return cls(rows, np.linalg.norm(rows, axis=-1))

    def correlations(self, masks: Float[np.ndarray, "concept n"]) -> Float[np.ndarray, "concept draw"]:
        """Pearson's r of every mask with every row; 0 where either does not vary."""
        a = masks - masks.mean(-1, keepdims=True)
        scale = np.linalg.norm(a, axis=-1)[:, None] * self.sizes[None]
        return np.asarray((a @ self.rows.T) / np.where(scale > 1e-9, scale, np.inf))


def moved(values: Sequence[np.ndarray], n: int, rng: np.random.Generator) -> Float[np.ndarray, "n place"]:
    """Activations of other samples of the same shape, shifted; texts are joined and shifted as one, by more than one
    token either way: the bank names the neighbours of words, so that a shift by one is found like no shift at all."""
    if values[0].ndim == 1:
        joined = np.concatenate(values)
        shifts = rng.integers(2, max(3, joined.size - 1), size=n)
        return joined[(np.arange(joined.size) - shifts[:, None]) % joined.size]
    starts = np.cumsum([0, *(v.size for v in values)])
    places = {shape: [i for i, v in enumerate(values) if v.shape == shape] for shape in {v.shape for v in values}}
    found = np.empty((n, starts[-1]))
    stacks = {shape: np.stack([values[i] for i in own]) for shape, own in places.items()}
    for row in found:
        for shape, own in places.items():
            source = rng.permutation(len(own))
            by = rng.integers(np.tile(shape, len(own))).reshape(-1, 2)
            rows, columns = ((np.arange(size) - by[:, k, None]) % size for k, size in enumerate(shape))
            mixed = stacks[shape][source[:, None, None], rows[:, :, None], columns[:, None, :]]
            for to, one in zip(own, mixed, strict=True):
                row[starts[to] : starts[to + 1]] = one.ravel()
    return found


def _visual_side(
    evidence: Evidence, shown: Sequence[Exemplar], truth: bool
) -> tuple[list[np.ndarray], dict[Concept, list[np.ndarray]]]:
    """Scaled activations of every image (sinks and missing ones as 0, NaN where there is no patch), and the bank's
    maps of each."""
    values: list[np.ndarray] = []
    bank: list[dict[Concept, Any]] = []
    for e in shown:
        maps = visual_bank(e.seen, truth)
        for patches, here, counts, boxes in zip(e.patch_acts, maps, e.scored_patches(), e.seen.boxes, strict=True):
            scaled = np.where(counts, np.nan_to_num(evidence.scale(patches)), 0.0)
            values.append(np.where(np.isnan(boxes[..., 0]), np.nan, scaled))
            bank.append(here)
    every = dict.fromkeys(c for b in bank for c in b)
    return values, {c: [b.get(c, np.zeros(v.shape)) for b, v in zip(bank, values, strict=True)] for c in every}


def _text_side(
    evidence: Evidence, shown: Sequence[Exemplar]
) -> tuple[list[np.ndarray], dict[Concept, list[np.ndarray]]]:
    """Scaled activations at the tokens of every response, and the bank's masks of them."""
    used = [(e, e.seen.is_text & ~np.isnan(e.token_acts)) for e in shown]
    used = [(e, m) for e, m in used if m.any()]
    texts = [[t for t, m in zip(e.seen.tokens, mask, strict=True) if m] for e, mask in used]
    values = [np.where(e.scored_tokens()[m], evidence.scale(e.token_acts[m]), 0.0) for e, m in used]
    return values, dict(lexical_bank(texts))


def _words(side: Side, alternative: Alternative) -> str:
    return phrase(alternative) if side == "picture" else " that are also ".join(words_for(c) for c in alternative)

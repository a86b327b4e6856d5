"""Evidence: exemplars of one neuron, with what the model saw and what the neuron did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from PIL import Image

Split = Literal["explain", "select", "test"]
Group = Literal["top", "quantile", "random"]
SPLITS: tuple[Split, ...] = ("explain", "select", "test")
BOS = frozenset({"<s>", "<bos>", "<|begin_of_text|>", "<|im_start|>", "[CLS]", "<|startoftext|>"})


@dataclass(frozen=True, eq=False)
class Seen:
    """What the model was given: one sample, shared by all neurons that have it.

    Attributes:
        sample: id in the data set.
        name: its name.
        images: what the model saw: resized and cropped.
        boxes: for each image, pixels (left, top, right, bottom) of every patch in it.
        tokens: every token but padding and the visual ones, as it reads, blanks included.
        kinds: `TokenKind` number of each.
        places: for each image, the number of tokens before it.
        token_sinks: tokens that draw activation whatever the content: BOS, and those with a residual stream far
            larger than the rest's.
        patch_sinks: the same for the patches of each image.
        source: what the data calls itself, such as `"scenes:n=1000,seed=0"`: with the id it says where the sample is.
    """

    sample: int
    name: str
    images: tuple[Image.Image, ...]
    boxes: tuple[Float[np.ndarray, "rows columns 4"], ...]
    tokens: tuple[str, ...]
    kinds: Int[np.ndarray, "token"]
    places: tuple[int, ...]
    token_sinks: Bool[np.ndarray, "token"]
    patch_sinks: tuple[Bool[np.ndarray, "rows columns"], ...]
    source: str = ""

    @cached_property
    def image_digests(self) -> tuple[str, ...]:
        """SHA-256 of the pixels of every image."""
        return tuple(hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).hexdigest() for i in self.images)

    @property
    def is_text(self) -> Bool[np.ndarray, "token"]:
        """Tokens of the response."""
        return self.kinds == int(TokenKind.TEXT)


@dataclass(frozen=True, eq=False)
class Exemplar:
    """One neuron on one sample.

    Attributes:
        seen: the sample.
        group: `"top"` (one of the strongest samples), `"quantile"` (at a lower quantile of a random draw), `"random"`.
        split: what it may be used for: `"explain"`, `"select"` (choosing among candidates) or `"test"` (scores).
        rank: place within its group, from 0; of top samples, the strongest has 0.
        patch_acts: activation at every patch of each image, raw; the negative pole's are negated.
        token_acts: activation at every token; NaN where the neuron sees no text.

    >>> strongest = evidence["L2N304"].exemplars[0]
    >>> strongest.group, strongest.rank, strongest.seen.name, round(strongest.peak, 1)
    ('top', 0, 'scene 36', 2.2)
    >>> strongest.patch_acts[0].shape, "".join(strongest.seen.tokens[-7:-1])
    ((8, 8), ' background is dark and striped.')
    """

    seen: Seen
    group: Group
    split: Split
    rank: int
    patch_acts: tuple[Float[np.ndarray, "rows columns"], ...]
    token_acts: Float[np.ndarray, "token"]

    @property
    def peak(self) -> float:
        """The largest activation at a patch or a token of the response; -inf if there is none."""
        parts = [p[~np.isnan(p)] for p in self.patch_acts] + [
            self.token_acts[self.seen.is_text & ~np.isnan(self.token_acts)]
        ]
        return max((float(p.max()) for p in parts if p.size), default=float("-inf"))

    def scored_tokens(self, sinks: bool = False) -> Bool[np.ndarray, "token"]:
        """Tokens that count: those of the response, without sinks unless asked for."""
        return self.seen.is_text & ~np.isnan(self.token_acts) & (np.asarray(sinks) | ~self.seen.token_sinks)

    def scored_patches(self, sinks: bool = False) -> tuple[Bool[np.ndarray, "rows columns"], ...]:
        """Patches that count: all with a value, without sinks unless asked for."""
        return tuple(
            ~np.isnan(p) & (np.asarray(sinks) | ~s) for p, s in zip(self.patch_acts, self.seen.patch_sinks, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one neuron did on its exemplars.

    Attributes:
        neuron: its id, or any name.
        peak: the activation that the 0-10 scale puts at 10: the maximum over the data set.
        exemplars: top ones first, the strongest first; then those at lower quantiles; then random ones.
        label: class of the neuron, where it is known.
        seed: of the random draw.
        source: where it comes from: model, data, hook, run.

    Raises:
        ValueError: a sample, or an image, is in two splits.

    >>> evidence["L2N304"]
    Evidence('L2N304', label='visual', peak=2.229, {'explain': 8, 'select': 4, 'test': 12})
    >>> strongest = evidence["L2N304"].exemplars[0]
    >>> float(evidence["L2N304"].scale(strongest.patch_acts[0]).max())
    10.0
    """

    neuron: str
    peak: float
    exemplars: tuple[Exemplar, ...]
    label: str | None = None
    seed: int = 0
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        home: dict[Any, str] = {}
        for e in self.exemplars:
            for key in (e.seen.sample, *e.seen.image_digests):
                if home.setdefault(key, e.split) != e.split:
                    raise ValueError(
                        f"{self.neuron}: sample {e.seen.sample} ({e.seen.name}) or an image of it is in the splits "
                        f"{home[key]!r} and {e.split!r}; give every sample and image one split"
                    )

    def __repr__(self) -> str:
        sizes = {s: len(self.split(s)) for s in SPLITS}
        return f"Evidence({self.neuron!r}, label={self.label!r}, peak={self.peak:.4g}, {sizes})"

    def split(self, name: Split) -> tuple[Exemplar, ...]:
        """Exemplars of one split.

        Raises:
            ValueError: no such split.

        >>> [e.group for e in evidence["L2N304"].split("select")]
        ['top', 'top', 'random', 'random']
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r}: choose from {', '.join(SPLITS)}")
        return tuple(e for e in self.exemplars if e.split == name)

    def scale(self, values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Raw activations on the 0-10 scale (paper, section 3.2): negatives 0, the peak 10; NaN stays.

        >>> Evidence("x", 4.0, ()).scale(np.array([-1.0, 2.0, 9.0])).tolist()
        [0.0, 5.0, 10.0]
        """
        return np.clip(values / self.peak * 10, 0, 10) if self.peak > 0 else np.where(np.isnan(values), np.nan, 0.0)

    @property
    def sees_images(self) -> bool:
        """Whether any exemplar has a patch with a value."""
        return any(not np.isnan(p).all() for e in self.exemplars for p in e.patch_acts)

    @property
    def sees_text(self) -> bool:
        """Whether any exemplar has a token of the response with a value."""
        return any(e.scored_tokens(sinks=True).any() for e in self.exemplars)

    def only(self, side: Literal["visual", "text"]) -> Evidence:
        """The same evidence with the activations of the other side taken away (NaN).

        Raises:
            ValueError: no such side.

        >>> words = evidence["L3N3"].only("text")
        >>> evidence["L3N3"].sees_images, words.sees_images, words.sees_text
        (True, False, True)
        """
        if side not in ("visual", "text"):
            raise ValueError(f"side {side!r}: 'visual' or 'text'")

        def bare(e: Exemplar) -> Exemplar:
            if side == "visual":
                return replace(e, token_acts=np.full_like(e.token_acts, np.nan))
            return replace(e, patch_acts=tuple(np.full_like(p, np.nan) for p in e.patch_acts))

        return replace(self, exemplars=tuple(bare(e) for e in self.exemplars), label=side)

    @property
    def digest(self) -> str:
        """SHA-256 over everything that an explainer or a score could depend on."""
        total = hashlib.sha256(json.dumps([self.neuron, self.peak, self.label, self.seed]).encode())
        for e in self.exemplars:
            seen = e.seen
            words = [seen.sample, seen.source, e.split, e.group, seen.tokens, seen.image_digests, seen.places]
            total.update(json.dumps(words).encode())
            for array in (*e.patch_acts, e.token_acts, *seen.boxes, seen.kinds, seen.token_sinks, *seen.patch_sinks):
                total.update(str(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes())
        return total.hexdigest()

    @classmethod
    def from_arrays(
        cls,
        neuron: str,
        *,
        images: Sequence[Image.Image | None] | None = None,
        patch_acts: Sequence[Float[np.ndarray, "rows columns"] | None] | None = None,
        tokens: Sequence[Sequence[str]] | None = None,
        token_acts: Sequence[Float[np.ndarray, "token"]] | None = None,
        names: Sequence[str] | None = None,
        sample_ids: Sequence[int] | None = None,
        peak: float | None = None,
        label: str | None = None,
        n_top: int = 50,
        seed: int = 0,
        source: dict[str, Any] | None = None,
    ) -> Evidence:
        """Evidence from activations of anywhere: a probe's direction, an SAE feature, another tool's recording.

        Args:
            neuron: what to call it.
            images: one per sample, as the model saw it; None for a sample without. Of samples with the same image the
                strongest is kept, or the first random one, and a warning says how many: splits share no image.
            patch_acts: activation at every patch of each image; NaN where there is none.
            tokens: tokens of each sample's text, blanks included.
            token_acts: activation at each token.
            names: name of each sample.
            sample_ids: id of each sample; its place if not given.
            peak: maximum over the data set, 0 or more; the maximum here if not given.
            label: class of the neuron, if known.
            n_top: so many of the strongest samples count as top; at most half of all. The rest are random ones, in
                an order drawn with `seed`.
            seed: of that order.
            source: kept as it is.

        Raises:
            ValueError: lists of different lengths, a length that does not fit, infinite values, NaN alone, or tokens
                that are no text.

        >>> from PIL import Image
        >>> probe = vn.Evidence.from_arrays(
        ...     "top left",
        ...     images=[Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")],
        ...     patch_acts=[np.array([[4.0, 1.0], [0.0, -1.0]]), np.zeros((2, 2))],
        ... )
        >>> strongest = probe.exemplars[0]
        >>> strongest.seen.sample, probe.scale(strongest.patch_acts[0]).tolist()
        (0, [[10.0, 2.5], [0.0, 0.0]])
        """
        from vlm_neurons.evidence.arrays import build

        return build(
            cls, neuron, images, patch_acts, tokens, token_acts, names, sample_ids, peak, label, n_top, seed, source
        )

"""Evidence: exemplars of one neuron, with what the model saw and what the neuron did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from vlm_neurons._checks import short
from vlm_neurons.evidence.arrays import build
from vlm_neurons.evidence.exemplars import SPLITS, Exemplar, Split
from vlm_neurons.evidence.written import Written
from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE, Modality

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["visual", "text", "multimodal"]
KINDS: tuple[Kind, ...] = ("visual", "text", "multimodal")


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
        pool: random samples more, of the split `"test"`, from which `score` draws those that an explanation speaks of.
        n_samples: samples of the whole data; None where nobody knows, and then no score speaks of the whole.
        written: of a gate neuron what the unit behind it does where it is strong; None where that was not read. It is
            of patches and words together, also in what `only` leaves of one side.

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
    pool: tuple[Exemplar, ...] = ()
    n_samples: int | None = None
    written: Written | None = None

    def __post_init__(self) -> None:
        home: dict[Any, str] = {}
        for e in (*self.exemplars, *self.pool):
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
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, tuple[Exemplar, ...]]:
        return {name: tuple(e for e in self.exemplars if e.split == name) for name in SPLITS}

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

    @cached_property
    def kind(self) -> Kind:
        """The neuron's class, or else the sides on which it reaches a tenth of its peak.

        >>> evidence["L2N304"].kind
        'visual'
        """
        for known in KINDS:
            if self.label == known:
                return known
        shown = self.split("explain")
        image = any((self.scale(p) >= 1).any() for e in shown for p in e.patch_acts)
        text = any((self.scale(e.token_acts)[e.scored_tokens()] >= 1).any() for e in shown)
        return "multimodal" if image and text else "text" if text else "visual"

    def only(self, side: Literal["picture", "text"]) -> Evidence:
        """The same evidence with the activations of the other side taken away (NaN), as of a neuron of one class.

        Raises:
            ValueError: no such side.

        >>> words = evidence["L3N3"].only("text")
        >>> evidence["L3N3"].sees_images, words.sees_images, words.sees_text
        (True, False, True)
        """
        if side not in ("picture", "text"):
            raise ValueError(f"side {side!r}: 'picture' or 'text'")

        def bare(e: Exemplar) -> Exemplar:
            if side == "picture":
                return replace(e, token_acts=np.full_like(e.token_acts, np.nan))
            return replace(e, patch_acts=tuple(np.full_like(p, np.nan) for p in e.patch_acts))

        label = Modality.VISUAL if side == "picture" else Modality.TEXT
        everywhere, pool = (tuple(bare(e) for e in part) for part in (self.exemplars, self.pool))
        return replace(self, exemplars=everywhere, pool=pool, label=label)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that an explainer or a score could depend on."""
        total = hashlib.sha256(json.dumps([self.neuron, self.peak, self.label, self.seed]).encode())
        for e in self.exemplars:
            total.update(f"{e.seen.digest} {e.split} {e.group}".encode())
            for array in (*e.patch_acts, e.token_acts):
                total.update(str(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes())
        return total.hexdigest()

    @classmethod
    def from_arrays(
        cls,
        neuron: str,
        *,
        images: Sequence[Image.Image | None] | None = None,
        patch_acts: Sequence[ArrayLike | None] | None = None,
        tokens: Sequence[Sequence[str]] | None = None,
        token_acts: Sequence[ArrayLike] | None = None,
        names: Sequence[str] | None = None,
        sample_ids: Sequence[int] | None = None,
        peak: float | None = None,
        label: str | None = None,
        n_top: int = 50,
        seed: int = 0,
        source: dict[str, Any] | None = None,
        words: bool | None = None,
    ) -> Evidence:
        """Evidence from activations of anywhere: a probe's direction, an SAE feature, another tool's recording.

        All samples are kept, and taken for the whole data: give them all for scores that speak of all.

        Args:
            neuron: what to call it.
            images: one per sample, as the model saw it; None for a sample without. Of samples with the same image the
                strongest is kept, or the first random one, and a warning says how many: splits share no image.
            patch_acts: activation at every patch of each image (rows by columns); NaN where there is none.
            tokens: tokens of each sample's text, all of one tokenizer: blanks included, or with the signs of another
                convention ("▁the", "Ġthe", "##ing"), which are turned into blanks.
            token_acts: activation at each token (as many as tokens).
            names: name of each sample.
            sample_ids: id of each sample; its place if not given.
            peak: maximum over the data set, 0 or more; the maximum here if not given.
            label: class of the neuron, if known.
            n_top: so many of the strongest samples count as top; at most half of all. The rest are random ones, in
                an order drawn with `seed`.
            seed: of that order.
            source: kept as it is.
            words: True if every token is a word, False if tokens without blanks are pieces of text as it stands; asked
                for where tokens carry no sign of where words begin.

        Raises:
            ValueError: lists of different lengths, a length that does not fit, infinite values, NaN alone, tokens
                that are no text, or of which nobody can tell where words begin (see `words`).

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
        top, exemplars, pool, n_samples = build(
            neuron, images, patch_acts, tokens, token_acts, names, sample_ids, peak, n_top, seed, source, words
        )
        try:
            known = label if label in (None, NOT_APPLICABLE) else Modality(label).value
        except ValueError:
            raise ValueError(f"label={short(label)}: choose from {', '.join((*MODALITIES, NOT_APPLICABLE))}") from None
        return cls(neuron, top, exemplars, known, seed, dict(source or {}), pool, n_samples)

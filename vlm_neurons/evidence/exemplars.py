"""What the model saw of a sample, what one neuron did on it, and which samples become exemplars of which split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_neurons._checks import short
from vlm_neurons.data import Truth
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
Split = Literal["explain", "select", "test"]
Group = Literal["top", "quantile", "random", "pool"]
SPLITS: tuple[Split, ...] = ("explain", "select", "test")
# Interleaved by rank, as in openai/automated-interpretability: each split has strong and less strong samples. Of 50,
# 10 explain, 10 select and 30 test, so that with as many random ones a score rests on 60 images.
PATTERN: tuple[Split, ...] = ("explain", "test", "select", "test", "test")
QUANTILES = (0.9, 0.75, 0.5, 0.25)
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
        truth: (kind, word) -> share of every patch that has it, where the data set knows; None where it does not.
        whole_rows: for each image how many rows of its patches are a view of the whole of it, with its tiles below; 0
            where all rows are one view. Places without a patch have no box (NaN).
        prompt: what the model was asked, to look at the sample again; None where that is not known.
        answer: the response as it was given, of which `response` has the tokens; None where there is none.
    """

    sample: int
    name: str
    images: tuple[Image.Image, ...]
    boxes: tuple[Float[np.ndarray, "_rows _columns 4"], ...]
    tokens: tuple[str, ...]
    kinds: Int[np.ndarray, "token"]
    places: tuple[int, ...]
    token_sinks: Bool[np.ndarray, "token"]
    patch_sinks: tuple[Bool[np.ndarray, "_rows _columns"], ...]
    source: str = field(default_factory=str)  # no plain defaults: the class has none of them, see `_Later`
    truth: Truth | None = field(default_factory=lambda: None)
    whole_rows: tuple[int, ...] = field(default_factory=tuple)
    prompt: str | None = field(default_factory=lambda: None)
    answer: str | None = field(default_factory=lambda: None)

    def __repr__(self) -> str:
        return f"<Seen {short(self.name)}: {len(self.images)} images, {len(self.tokens)} tokens>"

    def in_tiles(self, image: int) -> Bool[np.ndarray, "rows columns"]:
        """Places of an image that are in tiles, below the view of the whole."""
        shape, whole = self.boxes[image].shape[:2], self.whole_rows[image] if self.whole_rows else 0
        return np.broadcast_to(np.arange(shape[0])[:, None] >= whole, shape) & (whole > 0)

    @cached_property
    def image_digests(self) -> tuple[str, ...]:
        """SHA-256 of the pixels of every image."""
        return tuple(hashlib.sha256(f"{i.mode}{i.size}".encode() + i.tobytes()).hexdigest() for i in self.images)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that an explainer or a score could depend on."""
        words = [self.sample, self.source, self.tokens, self.image_digests, self.places]
        total = hashlib.sha256(json.dumps(words).encode())
        for array in (*self.boxes, self.kinds, self.token_sinks, *self.patch_sinks):
            total.update(str(array.shape).encode() + np.ascontiguousarray(array, np.float32).tobytes())
        for key, shares in (self.truth or {}).items():
            total.update(json.dumps([key, shares.shape]).encode() + np.ascontiguousarray(shares).tobytes())
        return total.hexdigest()

    @cached_property
    def response(self) -> tuple[str, ...]:
        """Tokens of the response, as they read."""
        return tuple(t for t, is_text in zip(self.tokens, self.is_text, strict=True) if is_text)

    @cached_property
    def is_text(self) -> Bool[np.ndarray, "token"]:
        """Tokens of the response."""
        return self.kinds == int(TokenKind.TEXT)


class _Later(Seen):
    """A sample of which the rest is read when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or (read := self.__dict__.get("_read")) is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.__dict__.update({f.name: getattr(whole, f.name) for whole in (read(),) for f in fields(Seen)})
        return getattr(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Seen, tuple(getattr(self, f.name) for f in fields(Seen))


def later(read: Callable[[], Seen], **known: Any) -> Seen:
    """A sample of which `known` is known, and the rest read when something of it is asked for."""
    one = object.__new__(_Later)
    one.__dict__.update(known, _read=read)
    return one


@dataclass(frozen=True, eq=False)
class Exemplar:
    """One neuron on one sample.

    Attributes:
        seen: the sample.
        group: `"top"` (one of the strongest samples), `"quantile"` (at a lower quantile of a random draw), `"random"`,
            `"pool"` (random ones more, from which a score draws its strata).
        split: what it may be used for: `"explain"`, `"select"` (choosing among candidates) or `"test"` (scores).
        rank: place within its group, from 0; of top samples, the strongest has 0.
        patch_acts: activation at every patch of each image, raw; the negative pole's are negated.
        token_acts: activation at every token; NaN where the neuron sees no text.
        stratum: what a score drew it from (`"top"`, `"foreseen"`, `"active"`, `"rest"`); empty before.
        weight: how many samples of the whole data it stands for there; NaN where that is not known.

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
    patch_acts: tuple[Float[np.ndarray, "_rows _columns"], ...]
    token_acts: Float[np.ndarray, "token"]
    stratum: str = ""
    weight: float = float("nan")

    def __repr__(self) -> str:
        return f"<Exemplar {short(self.seen.name)}: {self.group} {self.rank} of {self.split}, peak {self.peak:.3g}>"

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

    def scored_patches(self, sinks: bool = False) -> tuple[Bool[np.ndarray, "_rows _columns"], ...]:
        """Patches that count: all with a value, without sinks unless asked for."""
        return tuple(
            ~np.isnan(p) & (np.asarray(sinks) | ~s) for p, s in zip(self.patch_acts, self.seen.patch_sinks, strict=True)
        )


def split_of(rank: int) -> Split:
    """Split of the exemplar with one rank among the top, or the random, ones.

    >>> [split_of(r) for r in range(6)]
    ['explain', 'test', 'select', 'test', 'test', 'explain']
    """
    return PATTERN[rank % len(PATTERN)]


def assign(top: Sequence[Exemplar], drawn: Sequence[Exemplar]) -> tuple[Exemplar, ...]:
    """Put exemplars into splits, disjoint by sample and by image: see `arrange`."""
    placed = arrange(top, drawn, _keys, lambda e: e.peak)
    return tuple(replace(e, group=group, split=split, rank=rank) for e, group, split, rank in placed)


def arrange(
    top: Sequence[T], drawn: Sequence[T], keys: Callable[[T], Iterable[object]], peak: Callable[[T], float]
) -> list[tuple[T, Group, Split, int]]:
    """Group, split and rank of what a neuron is shown on.

    Args:
        top: the strongest, in order.
        drawn: a random draw, in its order. Its first ones, as many as there are top ones, are the random exemplars, so
            that each split is half top and half random; from the rest, samples at lower quantiles are taken, which go
            to `"explain"`.
        keys: sample id and images of one: what shares one of them with what came before is left out.
        peak: the largest activation of one.
    """
    taken: set[object] = set()
    strong, rest = _fresh(top, taken, keys), _fresh(drawn, taken, keys)
    ordered = sorted(rest[len(strong) :], key=peak)
    places = dict.fromkeys(round(q * (len(ordered) - 1)) for q in QUANTILES) if ordered else {}
    found: list[tuple[T, Group, Split, int]] = [(e, "top", split_of(i), i) for i, e in enumerate(strong)]
    found += [(ordered[p], "quantile", "explain", i) for i, p in enumerate(places)]
    return found + [(e, "random", split_of(i), i) for i, e in enumerate(rest[: len(strong)])]


def remaining(chosen: Iterable[T], drawn: Iterable[T], keys: Callable[[T], Iterable[object]]) -> list[T]:
    """Of a random draw, what is not chosen yet: no sample and no image of it comes twice."""
    return _fresh(drawn, {key for e in chosen for key in keys(e)}, keys)


def _fresh(some: Iterable[T], taken: set[object], keys: Callable[[T], Iterable[object]]) -> list[T]:
    kept = []
    for e in some:
        own = keys(e)
        if taken.isdisjoint(own):
            taken.update(own)
            kept.append(e)
    return kept


def _keys(e: Exemplar) -> tuple[object, ...]:
    return (e.seen.sample, *e.seen.image_digests)


def peaks_of(exemplars: Sequence[Exemplar]) -> Float[np.ndarray, " exemplar"]:
    """`Exemplar.peak` of many at once."""
    if not exemplars:
        return np.zeros(0)
    texts = np.concatenate([e.token_acts for e in exemplars]).astype(float)
    texts[~np.concatenate([e.seen.is_text for e in exemplars])] = np.nan
    pictures = np.concatenate([np.zeros(0), *(p.ravel() for e in exemplars for p in e.patch_acts)])
    sizes = [e.token_acts.size for e in exemplars], [sum(p.size for p in e.patch_acts) for e in exemplars]
    return np.maximum(*(_largest(*one) for one in zip((texts, pictures), sizes, strict=True)))


def _largest(values: Float[np.ndarray, " place"], sizes: Sequence[int]) -> Float[np.ndarray, " part"]:
    """The largest value of each of some parts that follow each other; NaN is none, and -inf where there is none."""
    starts = np.cumsum([0, *sizes[:-1]])
    padded = np.append(np.where(np.isnan(values), -np.inf, values), -np.inf)  # an empty part at the end has a place
    found = np.maximum.reduceat(padded, starts)
    return np.where(np.asarray(sizes) > 0, found, -np.inf)


def rest_of(chosen: Sequence[Exemplar], drawn: Sequence[Exemplar]) -> tuple[Exemplar, ...]:
    """Of a random draw, what is no exemplar yet, as the pool."""
    left = remaining(chosen, drawn, _keys)
    return tuple(replace(e, group="pool", split="test", rank=rank) for rank, e in enumerate(left))


def draw(n: int, size: int, seed: int) -> list[int]:
    """`size` different places below n in random order; the same arguments give the same, and a larger size only
    appends."""
    return np.random.default_rng([seed, 4]).permutation(n)[:size].tolist()

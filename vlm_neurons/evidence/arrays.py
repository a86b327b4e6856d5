"""Evidence from arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vlm_neurons._checks import amount, whole
from vlm_neurons._images import read_image
from vlm_neurons._text import not_utf8
from vlm_neurons.evidence.blanks import readable
from vlm_neurons.evidence.exemplars import BOS, Exemplar, Seen, assign, rest_of
from vlm_neurons.tokens import TokenKind

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


def build(
    neuron: str,
    images: Sequence[Image.Image | None] | None,
    patch_acts: Sequence[Any] | None,
    tokens: Sequence[Sequence[str]] | None,
    token_acts: Sequence[Any] | None,
    names: Sequence[str] | None,
    sample_ids: Sequence[int] | None,
    peak: float | None,
    n_top: int,
    seed: int,
    source: dict[str, Any] | None,
    words: bool | None,
) -> tuple[float, tuple[Exemplar, ...], tuple[Exemplar, ...], int]:
    """Peak, exemplars, pool and number of different samples; see `Evidence.from_arrays`."""
    whole(0, n_top=n_top, seed=seed)
    if peak is not None:
        amount(peak=peak)
    given = {"images": images, "patch_acts": patch_acts, "tokens": tokens, "token_acts": token_acts}
    ids = _ids(neuron, given, names, sample_ids)
    n, read, home = len(ids), _read(neuron, ids, tokens, words), str((source or {}).get("data", ""))
    found = []
    for i, sample in enumerate(ids):
        name = names[i] if names else f"sample {sample}"
        seen, maps = seen_of(neuron, sample, name, _at(images, i), _at(patch_acts, i), _at(read, i) or (), home)
        values = np.asarray([] if token_acts is None else token_acts[i], np.float32)
        if values.shape != (len(seen.tokens),):
            raise ValueError(f"{neuron}, sample {sample}: {len(seen.tokens)} tokens, token_acts {values.shape}")
        if any(np.isinf(v).any() for v in (*maps, values)):
            raise ValueError(f"{neuron}, sample {sample}: infinite activations")
        found.append(Exemplar(seen, "top", "explain", 0, maps, values))
    _check_all(neuron, found)
    order = sorted(range(n), key=lambda i: (-found[i].peak, ids[i]))
    n_top = min(n_top, n // 2)
    rest = [order[n_top + k] for k in np.random.default_rng([seed, 4]).permutation(n - n_top)]
    exemplars = assign([found[i] for i in order[:n_top]], [found[i] for i in rest])
    pool = rest_of(exemplars, [found[i] for i in rest])
    top = max((e.peak for e in found), default=0.0) if peak is None else float(peak)
    return top, exemplars, pool, len(exemplars) + len(pool)


def _ids(
    neuron: str, given: dict[str, Any], names: Sequence[str] | None, sample_ids: Sequence[int] | None
) -> list[int]:
    """The id of every sample, after a look at whether the lists fit together."""
    lengths = {name: len(value) for name, value in {**given, "names": names}.items() if value is not None}
    if not lengths or len(set(lengths.values())) != 1:
        raise ValueError(f"{neuron}: give lists with one entry per sample; these have {lengths}")
    for one, other in (("images", "patch_acts"), ("tokens", "token_acts")):
        if (given[one] is None) != (given[other] is None):
            raise ValueError(f"{neuron}: {one} and {other} go together")
    n = next(iter(lengths.values()))
    ids = list(range(n)) if sample_ids is None else [int(i) for i in sample_ids]
    if len(ids) != n or len(set(ids)) != n:
        raise ValueError(f"{neuron}: sample_ids has {len(ids)} entries for {n} samples, or repeats one")
    return ids


def _read(
    neuron: str, ids: Sequence[int], tokens: Sequence[Sequence[str]] | None, words: bool | None
) -> list[tuple[str, ...]] | None:
    """The tokens as they read, see `readable`."""
    if tokens is None:
        return None
    for sample, told in zip(ids, tokens, strict=True):
        _check_tokens(neuron, sample, told or ())
    try:
        return readable([told or () for told in tokens], words)
    except ValueError as error:
        raise ValueError(f"{neuron}: {error}") from None


def _check_all(neuron: str, found: Sequence[Exemplar]) -> None:
    """Refuse activations that are NaN alone, and tell how many samples repeat an image."""
    if found and all(np.isnan(v).all() for e in found for v in (*e.patch_acts, e.token_acts)):
        raise ValueError(f"{neuron}: every activation is NaN; give numbers where the neuron sees something")
    images = [digest for e in found for digest in e.seen.image_digests]
    if repeated := len(images) - len(set(images)):
        text = f"{neuron}: {repeated} of {len(found)} samples repeat the image of another; of each image one is kept"
        warnings.warn(text, stacklevel=4)


def _check_tokens(neuron: str, sample: int, tokens: Sequence[str]) -> None:
    """Refuse tokens that are no text."""
    if isinstance(tokens, str):
        raise ValueError(f"{neuron}, sample {sample}: tokens are one string; give a list of str, one for each value")
    for token in tokens:
        if not isinstance(token, str) or not_utf8(token):
            raise ValueError(
                f"{neuron}, sample {sample}: token {token!r}; give text, such as tokenizer.decode([id]) of an id, and "
                "no half of a character"
            )


def seen_of(
    neuron: str, sample: int, name: str, image: Image.Image | None, patches: Any, tokens: Sequence[str], source: str
) -> tuple[Seen, tuple[np.ndarray, ...]]:
    """A sample whose patches tile its image, and its activation maps."""
    if (image is None) != (patches is None):
        raise ValueError(f"{neuron}, sample {sample}: it has an image without patches, or patches without an image")
    shown: tuple[Image.Image, ...] = ()
    maps: tuple[np.ndarray, ...] = ()
    boxes: tuple[np.ndarray, ...] = ()
    if image is not None:
        if not hasattr(image, "convert"):
            raise ValueError(
                f"{neuron}, sample {sample}: {type(image).__name__} in images; give one PIL image a sample"
            )
        grid = np.asarray(patches, np.float32)
        if grid.ndim != 2:
            raise ValueError(f"{neuron}, sample {sample}: patches are {grid.shape}; give [rows, columns]")
        upright = read_image(image, f"{neuron}, sample {sample}: the image")
        shown, maps, boxes = (upright,), (grid,), (tiles(upright.size, grid.shape),)
    kinds = np.full(len(tokens), int(TokenKind.TEXT))
    sinks = np.array([i == 0 and t in BOS for i, t in enumerate(tokens)], bool)
    no_sinks = tuple(np.zeros(m.shape, bool) for m in maps)
    return Seen(sample, name, shown, boxes, tuple(tokens), kinds, (0,) * len(shown), sinks, no_sinks, source), maps


def tiles(size: tuple[int, int], grid: tuple[int, ...]) -> np.ndarray:
    """Boxes [rows, columns, 4] of a grid that covers a picture of (width, height) pixels.

    >>> tiles((8, 4), (1, 2))[0, 1].tolist()
    [4.0, 0.0, 8.0, 4.0]
    """
    rows, columns = grid
    x, y = np.linspace(0, size[0], columns + 1), np.linspace(0, size[1], rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], -1)


def _at(values: Sequence[T] | None, i: int) -> T | None:
    return None if values is None else values[i]

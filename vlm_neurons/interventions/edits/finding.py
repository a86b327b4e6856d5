"""Regions of photographs that explanations name, found by a bank of concepts, in masks, or by any function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from vlm_neurons._checks import short
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.concepts.coco import decoded
from vlm_neurons.concepts.naming import named, strength_of
from vlm_neurons.data import ImageTextData
from vlm_neurons.interventions.edits.regions import Part, Regions, inside, whole, without_specks
from vlm_neurons.protocols import Concept, ConceptBank, View

if TYPE_CHECKING:
    from torch import device

Find: TypeAlias = Callable[[Image.Image, str], Any]
Finder: TypeAlias = ConceptBank | Mapping[int, Mapping[str, Any]] | Sequence[Mapping[str, Any] | None] | Find
CELLS = 48  # of the longer side of a picture, in which a bank says where its concepts are
HALF = 0.5  # of the most that a concept has anywhere: where there is less, it is not
SOUGHT = 5  # times n samples are looked at, where that takes time
BATCH = 16  # pictures that a bank is asked of together
HOW = (
    "give a bank of vn.concepts, masks as {sample id: {name: array, RLE or polygons}}, or a function "
    "(image, words) -> boxes or mask"
)


def find_regions(
    finder: Finder, data: ImageTextData, order: Sequence[int], words: Mapping[str, str], n: int, at: device | str,
    lacking: bool = True,
) -> tuple[dict[str, Regions], dict[str, str]]:  # fmt: skip
    """Regions of the samples' first images, by neuron; and what is to be said of them. Samples that were looked at and
    have none are there too, with an empty list.

    Args:
        finder: that finds them.
        data: the samples.
        order: in which samples are looked at, until n have a region of a neuron, and n have none; at most `SOUGHT`
            times n, of masks all.
        words: neuron -> explanation.
        n: samples.
        at: device for banks that are models.
        lacking: samples without a region are sought too.

    Raises:
        TypeError: the finder is none.
        ValueError: what it finds is neither boxes nor a mask of the picture.
    """
    parts = {key: list(dict.fromkeys(pictured(text))) for key, text in words.items()}
    parts = {key: mine for key, mine in parts.items() if mine}
    masks = isinstance(finder, Mapping | Sequence) and not isinstance(finder, str | ConceptBank)
    some = order if masks else order[: SOUGHT * n]
    if isinstance(finder, ConceptBank):
        found, notes = _by_bank(finder, data, some, parts, at)
    elif masks:
        found, notes = _in_masks(finder, data, some, parts, n)
    elif callable(finder):
        found, notes = _by_function(finder, data, some, parts, n, lacking), {}
    else:
        raise TypeError(f"regions={short(finder)}: {HOW}")
    for key in parts:
        if not any(found.get(key, {}).values()):
            looked = f"no region that its words name was found in {len(some)} samples"
            notes[key] = "; ".join(filter(None, (notes.get(key, ""), looked)))
    return found, notes


def pictured(explanation: str) -> Iterator[str]:
    """Parts of an explanation that name regions."""
    if says_nothing(explanation):
        return
    for part in explanation.strip().rstrip(".").split(";"):
        text = strength_of(part.strip())[0]
        read = named(text)
        if text and not read.text and not any(one.negated for one in read.visual):
            yield text


def _enough(found: Regions, n: int, lacking: bool = True) -> bool:
    """Whether n samples have a region, and n have none."""
    having = sum(map(bool, found.values()))
    return having >= n and (not lacking or len(found) - having >= n)


def _by_function(
    find: Find, data: ImageTextData, order: Sequence[int], parts: Mapping[str, list[str]], n: int, lacking: bool
) -> dict[str, Regions]:
    found: dict[str, dict[int, list[Part]]] = {key: {} for key in parts}
    for i in order:
        open_for = [key for key in parts if not _enough(found[key], n, lacking)]
        if not open_for:
            break
        image = data[i].load_images()[0]
        said = {words: _read(find(image, words), image, f"regions({words!r}) of sample {i}")
                for words in dict.fromkeys(w for key in open_for for w in parts[key])}  # fmt: skip
        for key in open_for:
            found[key][i] = [part for words in parts[key] for part in said[words]]
    return found  # type: ignore[return-value]


def _read(given: Any, image: Image.Image, told: str) -> list[Part]:
    """Boxes or a mask as parts."""
    if given is None:
        return []
    width, height = image.size
    try:
        values = np.asarray(given)
    except ValueError as error:  # a list whose members have several shapes
        raise ValueError(
            f"{told} gave a list of unlike shapes: give boxes (left, top, right, bottom), or masks that are all "
            f"[{height}, {width}]"
        ) from error
    if values.size == 0:
        return []
    if values.shape[-2:] == (height, width) and values.ndim in (2, 3) and np.isin(values, (0, 1)).all():
        return whole(np.asarray(values.reshape(-1, height, width).any(0), bool))
    if values.ndim == 2 and values.shape[1] == 4 and values.dtype.kind in "iuf":
        return inside(values.tolist(), width, height, told)
    raise ValueError(
        f"{told} gave {values.dtype} of shape {values.shape}: give boxes (left, top, right, bottom), or a mask "
        f"[{height}, {width}] of True and False, or several"
    )


def _in_masks(
    masks: Any, data: ImageTextData, order: Sequence[int], parts: Mapping[str, list[str]], n: int
) -> tuple[dict[str, Regions], dict[str, str]]:
    every = masks if isinstance(masks, Mapping) else dict(enumerate(masks))
    if odd := [i for i, one in every.items() if i not in range(len(data)) or not isinstance(one, Mapping | None)]:
        raise ValueError(f"regions[{short(odd[0])}]={short(every[odd[0]])}: {HOW}")
    names = list(dict.fromkeys(str(name) for one in every.values() for name in one or ()))
    chosen, notes = _matched(parts, names)
    found: dict[str, dict[int, list[Part]]] = {key: {} for key in parts}
    for i in order:
        own = every.get(i) or {}
        open_for = {key: mine for key, mine in chosen.items() if not _enough(found[key], n)}
        if not open_for:
            break
        wanted = {name for mine in open_for.values() for name in mine if name in own}
        image = data[i].load_images()[0] if wanted else None
        there = {name: _drawn(own[name], image, f"regions[{i}][{name!r}]") for name in wanted if image is not None}
        for key, mine in open_for.items():
            masked = [there[name] for name in mine if name in there]
            found[key][i] = whole(np.any(masked, axis=0)) if masked else []
    return found, notes  # type: ignore[return-value]


def _drawn(given: Any, image: Image.Image, told: str) -> Bool[np.ndarray, "y x"]:
    """An array, a run-length encoding, or polygons, as COCO writes them."""
    width, height = image.size
    if isinstance(given, Mapping | list):
        try:
            one = given if isinstance(given, Mapping) else [np.asarray(polygon, float) for polygon in given]
            return decoded([one], height, width)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{told} cannot be read ({error}): {HOW}") from error
    mask = np.asarray(given)
    if mask.shape != (height, width):
        raise ValueError(f"{told} has shape {mask.shape}, the picture is {height} x {width} (height x width)")
    return mask.astype(bool)


def _by_bank(
    bank: ConceptBank, data: ImageTextData, order: Sequence[int], parts: Mapping[str, list[str]], at: device | str
) -> tuple[dict[str, Regions], dict[str, str]]:
    """Where all concepts of a part have at least half of the most that they have in the pictures looked at."""
    banks = [one for one in getattr(bank, "banks", (bank,)) if one.concepts("picture")]
    if not banks:
        raise ValueError(f"regions={bank.name!r}: this bank has no concepts of pictures; {HOW}")
    seeing: ConceptBank = reduce(add, banks)
    concepts = list(seeing.concepts("picture"))
    chosen, notes = _concepts(parts, concepts)
    columns = sorted({i for mine in chosen.values() for one in mine for i in one})
    where: dict[int, Float[np.ndarray, "row column concept"]] = {}
    for start in range(0, len(order) if columns else 0, BATCH):
        some = order[start : start + BATCH]
        views = [_view(data, i) for i in some]
        maps = seeing.maps_of_batch(views, at) if seeing.on_device else [seeing.maps(view) for view in views]
        for i, view, one in zip(some, views, maps, strict=True):
            where[i] = np.asarray(one.picture, np.float64)[:, columns].reshape(*view.grids[0], len(columns))
    most = np.nanmax([np.nanmax(one, (0, 1), initial=0) for one in where.values()], 0) if where else np.zeros(0)
    found: dict[str, dict[int, list[Part]]] = {key: {} for key in parts}
    for key, mine in chosen.items():
        for i, shares in where.items():
            has = (shares > 0) & (shares >= HALF * most)
            cells = np.any([has[..., [columns.index(c) for c in each]].all(-1) for each in mine], axis=0)
            seen = without_specks(_pixels(cells, data[i].load_images()[0].size)) if cells.any() else cells
            found[key][i] = whole(seen)
    return found, notes  # type: ignore[return-value]


def _view(data: ImageTextData, sample: int) -> View:
    """A sample's first image in square cells: what a bank says of them does not depend on a model."""
    one = data[sample]
    image = one.load_images()[0]
    rows, columns = _grid(image.size)
    x, y = np.linspace(0, image.width, columns + 1), np.linspace(0, image.height, rows + 1)
    left, top = (grid.ravel() for grid in np.meshgrid(x[:-1], y[:-1]))
    right, bottom = (grid.ravel() for grid in np.meshgrid(x[1:], y[1:]))
    boxes = np.stack([left, top, right, bottom], 1)
    at = np.indices((rows, columns)).reshape(2, -1).T
    cells = np.concatenate([at, np.full((len(at), 1), -1)], 1)
    paths, digests = tuple(one.image_paths)[:1], tuple(data.facts[sample].digests)[:1]
    return View(one.name, (image,), (boxes,), (cells,), ((rows, columns),), (image,), (boxes,), paths, digests, ())


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells; none is smaller than a pixel."""
    width, height = size
    side = max(1.0, max(size) / CELLS)
    return max(1, round(height / side)), max(1, round(width / side))


def _pixels(cells: Bool[np.ndarray, "row column"], size: tuple[int, int]) -> Bool[np.ndarray, "y x"]:
    return np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.NEAREST))


def _concepts(
    parts: Mapping[str, list[str]], concepts: Sequence[Concept]
) -> tuple[dict[str, list[list[int]]], dict[str, str]]:
    """Of every neuron the concepts of each part that a bank has, which have to hold together."""
    place = {(c.kind, c.value): i for i, c in enumerate(concepts)}
    names = {c.value: i for i, c in reversed([*enumerate(concepts)])}
    found: dict[str, list[list[int]]] = {}
    rest: dict[str, list[str]] = {}
    for key, mine in parts.items():
        for part in mine:
            own = [(c.kind, c.value) for one in named(part).visual for c in one.concepts]
            if own and all(pair in place for pair in own):
                found.setdefault(key, []).append([place[pair] for pair in own])
            else:
                rest.setdefault(key, []).append(part)
    chosen, notes = _matched(rest, list(names))
    for key, values in chosen.items():
        found.setdefault(key, []).extend([names[value]] for value in values)
    return found, notes


def _matched(parts: Mapping[str, list[str]], names: Sequence[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Of every neuron the names that its parts hold: of each part the longest, of those the first."""
    known = {name: plain(name) for name in names}
    found: dict[str, list[str]] = {}
    notes: dict[str, str] = {}
    for key, mine in parts.items():
        told = []
        for part in mine:
            text = plain(part)
            there = [name for name, own in known.items() if own and f" {own} " in f" {text} "]
            if not there:
                told.append(f"nothing that regions= knows is named by “{part}”")
                continue
            best = min(there, key=lambda name: (-len(known[name]), text.index(known[name])))
            found.setdefault(key, []).append(best)
            if known[best] != text:
                told.append(f"regions of “{best}” stand for “{part}”")
        if told:
            notes[key] = "; ".join(told)
    return found, notes


def plain(words: str) -> str:
    """Words in small letters, singular, without articles and what says that they are regions.

    >>> plain("The red Dogs"), plain("pink regions"), plain("a glass of water")
    ('red dog', 'pink', 'glass of water')
    """
    kept = [w for w in re.findall(r"\w+", words.lower()) if w not in ("a", "an", "the", "regions", "region")]
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in kept)

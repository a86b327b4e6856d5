"""Annotations in COCO's formats as a bank: what people drew around things, as exact shares of patches."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image
from rich.console import Console

from vlm_neurons.concepts.annotated import Files, Missing, check_missing, check_size, file_of, maps_of_pictures
from vlm_neurons.concepts.banks import labelled
from vlm_neurons.data.sources import no_key_twice
from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View

KINDS = {0: "stuff", 1: "thing"}  # of the panoptic format's isthing
LARGE = 50 * 2**20  # bytes that take seconds to read


@dataclass(frozen=True)
class _Picture:
    """What a file says of one picture.

    Attributes:
        size: width and height; None if it does not say.
        drawn: place of the category, and segmentation, of every mask; of the panoptic format the segment's number.
        unknown: categories that nobody looked for.
        png: of the panoptic format; the picture has no annotation if it is None there.
    """

    size: tuple[int, int] | None
    drawn: list[tuple[int, Any]] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    png: str | None = None


@dataclass(frozen=True)
class _Annotations:
    """A file, read.

    Attributes:
        categories: (kind, name) of each; kind is "" where the file does not say.
        pictures: by file name.
        panoptic: whether masks are in PNGs.
        digest: of the file.
    """

    categories: list[tuple[str, str]]
    pictures: Files
    panoptic: bool
    digest: str


def _read(path: Path) -> _Annotations:
    """Read a file of any of the formats.

    Raises:
        ValueError: it is none, or refers to what it does not hold.
    """
    if (size := path.stat().st_size) > LARGE:
        Console(stderr=True).print(f"reading {path} ({size / 2**20:,.0f} MiB)")
    raw = path.read_bytes()
    try:
        content = json.loads(raw, object_pairs_hook=no_key_twice)
        images, annotations, known = (content[name] for name in ("images", "annotations", "categories"))
        named = {one["id"]: (KINDS.get(one.get("isthing"), ""), str(one["name"]).replace("_", " ")) for one in known}
        categories = list(dict.fromkeys(named.values()))  # two of one name are one concept
        columns = {i: categories.index(name) for i, name in named.items()}
        found = {one["id"]: _picture(one) for one in images}
        panoptic = any("segments_info" in one for one in annotations)
        for one in annotations:
            _add(found, one, columns)
        names = {one["id"]: str(one.get("file_name") or one["coco_url"]) for one in images}
        _refuse_doubled([one["id"] for one in images], "id")
        _refuse_doubled(list(names.values()), "file_name")
        for one in images:
            _look_for(found[one["id"]], one, columns)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise ValueError(
            f"{path}: {told}; it has to be COCO's instances, stuff or panoptic JSON: images with id and file_name, "
            "annotations with image_id, category_id and segmentation (or segments_info), categories with id and name"
        ) from None
    if not categories or not images:
        raise ValueError(f"{path}: no categories, or no images, in it: there is nothing that a bank could show")
    pictures = Files({names[i]: picture for i, picture in found.items()})
    return _Annotations(categories, pictures, panoptic, hashlib.sha256(raw).hexdigest()[:16])


def _refuse_doubled(given: list[Any], what: str) -> None:
    if twice := [one for one, n in Counter(given).items() if n > 1]:
        raise ValueError(
            f"two images have {what} {twice[0]!r}, and one's annotations would be lost: give every picture one record"
        )


def _picture(image: dict[str, Any]) -> _Picture:
    sized = image.get("width") is not None and image.get("height") is not None
    return _Picture((int(image["width"]), int(image["height"])) if sized else None)


def _add(found: dict[Any, _Picture], one: dict[str, Any], columns: dict[Any, int]) -> None:
    """Add an annotation to its picture."""
    picture = found[one["image_id"]]
    if "segments_info" in one:
        drawn = [(columns[segment["category_id"]], int(segment["id"])) for segment in one["segments_info"]]
        found[one["image_id"]] = replace(picture, drawn=drawn, png=str(one["file_name"]))
        return
    segmentation = one.get("segmentation")
    if not segmentation:
        raise ValueError(
            f"annotation {one.get('id')} of image {one['image_id']!r} has no segmentation (boxes are none)"
        )
    if isinstance(segmentation, list):  # numbers in arrays are a tenth of their size in lists
        segmentation = [np.asarray(polygon, float) for polygon in segmentation]
    picture.drawn.append((columns[one["category_id"]], segmentation))


def _look_for(picture: _Picture, image: dict[str, Any], columns: dict[Any, int]) -> None:
    """LVIS: of most categories nobody knows whether a picture has them."""
    if "neg_category_ids" in image:
        sure = {columns[c] for c in image["neg_category_ids"]} | {c for c, _ in picture.drawn}
        unsure = {columns[c] for c in image.get("not_exhaustive_category_ids", ())}
        picture.unknown.extend(sorted(unsure | {*columns.values()} - sure))


def decoded(segmentations: list[Any], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Where any of some polygons and run-length encodings is."""
    from pycocotools import mask

    found: list[Any] = []
    for one in segmentations:
        if isinstance(one, list):  # of fewer than three corners: no area, and pycocotools takes four numbers for a box
            polygons = [polygon.tolist() for polygon in one if len(polygon) >= 6]
            found += mask.frPyObjects(polygons, height, width) if polygons else []
        elif list(one["size"]) != [height, width]:
            raise ValueError(f"a mask is {one['size'][1]} x {one['size'][0]}, the picture {width} x {height}")
        elif isinstance(one["counts"], list):
            found.append(mask.frPyObjects(one, height, width))
        else:
            found.append(one if isinstance(one["counts"], bytes) else {**one, "counts": one["counts"].encode()})
    return mask.decode(mask.merge(found)).astype(bool) if found else np.zeros((height, width), bool)


@dataclass(frozen=True)
class CocoMasks(ConceptBank):
    """Things and stuff that people drew: the share of every patch that each category covers, exactly, in the picture as
    it was given, through the model's own resize, crop and tiles.

    Takes COCO's `instances_*.json`, `stuff_*.json` and `panoptic_*.json`, and any file in these formats (LVIS, Visual
    Genome converted, one's own): polygons, RLE and crowds. A picture that the file lists without a drawing has none of
    the categories. Of LVIS, a category that was not looked for in a picture is unannotated there. Pixels that no
    panoptic segment covers are nothing.

    Several files are joined by `+`. Pictures are found by the name of their file, in folders of the same name where
    there are several.

    Attributes:
        file: the annotations. They are read when the bank is made.
        images: folder of the PNGs of a panoptic file; None: a folder beside it with its name.
        kind: of the concepts; of a panoptic file, `"thing"` or `"stuff"`.
        missing: what a picture is that the file does not list: an `"error"`, or `"unannotated"`: left out of the sums.
        generic: categories that are said to be generic.

    All but panoptic files need pycocotools: `pip install 'vlm-neurons[coco]'`.

    Raises:
        ImportError: pycocotools is not there.
        ValueError: the file is not in one of these formats.
        OSError: it cannot be read.

    >>> from pathlib import Path
    >>> annotations = {
    ...     "images": [{"id": 7, "file_name": "a.jpg", "width": 8, "height": 8}],
    ...     "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 18}]}],
    ...     "categories": [{"id": 18, "name": "dog", "isthing": 1}, {"id": 19, "name": "sky", "isthing": 0}],
    ... }
    >>> written = Path("panoptic_mine.json").write_text(json.dumps(annotations))
    >>> [c.name for c in vn.concepts.CocoMasks("panoptic_mine.json").concepts("picture")]
    ['thing:dog', 'stuff:sky']
    """

    file: str | Path
    images: str | Path | None = None
    kind: str = "thing"
    missing: Missing = "error"
    generic: tuple[str, ...] = ()
    name = "coco"

    def __post_init__(self) -> None:
        check_missing(self.missing)
        if not self._annotations.panoptic and find_spec("pycocotools") is None:
            raise ImportError("polygons and run-length encodings need pycocotools: pip install 'vlm-neurons[coco]'")

    @cached_property
    def _annotations(self) -> _Annotations:
        return _read(Path(self.file))

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """The categories, in the order of the file; none of words."""
        found = [Concept(kind or self.kind, name) for kind, name in self._annotations.categories]
        generic = [f"{c.kind}:{c.value}" for c in found if c.value in self.generic]
        return tuple(labelled(c, c.value, generic) for c in found) if side == "picture" else ()

    def identity(self) -> dict[str, Any]:
        """A digest of the file."""
        return {"version": 1, "file": self._annotations.digest, "kind": self.kind, "missing": self.missing}

    def maps(self, view: View) -> Maps:
        """Shares of every patch.

        Raises:
            ValueError: the file does not list a picture, or has it in another size.
        """
        n = len(self._annotations.categories)
        return maps_of_pictures(view, n, self.missing, str(self.file), lambda i: self._masks(view, i))

    def _masks(self, view: View, image: int) -> tuple[dict[int, np.ndarray], list[int]] | None:
        picture = self._annotations.pictures.get(file_of(view, image))
        if picture is None or (self._annotations.panoptic and picture.png is None):
            return None
        width, height = view.originals[image].size
        check_size(view.name, str(self.file), picture.size or (width, height), (width, height))
        if picture.png is not None:
            return self._segments(view.name, picture, (width, height)), picture.unknown
        by_category: dict[int, list[Any]] = {}
        for category, segmentation in picture.drawn:
            by_category.setdefault(category, []).append(segmentation)
        try:
            masks = {category: decoded(drawn, height, width) for category, drawn in by_category.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{view.name}: {self.file} has a segmentation that cannot be read: {error}") from error
        return masks, picture.unknown

    def _segments(self, sample: str, picture: _Picture, size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Masks of the panoptic format: a number in the three channels of a PNG."""
        folder = Path(self.images) if self.images is not None else Path(self.file).with_suffix("")
        path = folder / str(picture.png)
        with Image.open(path) as opened:
            red, green, blue = np.moveaxis(np.asarray(opened.convert("RGB")).astype(np.int32), -1, 0)
        numbers = red + 256 * green + 65536 * blue
        check_size(sample, str(path), numbers.shape[::-1], size)
        known = {number: category for category, number in picture.drawn}
        masks: dict[int, np.ndarray] = {}
        for number in np.unique(numbers).tolist():
            if number and number not in known:
                raise ValueError(f"{sample}: {path} has a segment {number} that {self.file} lacks: give its own PNGs")
            if number:
                masks[known[number]] = (numbers == number) | masks.get(known[number], False)
        return masks

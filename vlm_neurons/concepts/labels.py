"""A folder of label images as a bank: segmentations of other tools, and one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlm_neurons.concepts.annotated import Files, Missing, check_missing, check_size, file_of, maps_of_pictures
from vlm_neurons.concepts.banks import digest, labelled
from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View

NAMES = "names.json"


@dataclass(frozen=True)
class Masks(ConceptBank):
    """One label image a picture: whole numbers, each of which is a name; `a.png` in the folder belongs to `a.jpg`.

    Masks lie in the picture as it was given; every patch has the exact share of its pixels, through the model's own
    resize, crop and tiles.

    Attributes:
        folder: of label images, single-channel PNG or TIFF, as large as the pictures.
        names: number -> name, 0 is nothing unless it is named; several numbers may have one name, a name of "" is none.
            None: those of `names.json` in the folder, `{"1": "sky", ...}`.
        missing: what a picture without label image is: an `"error"`, or `"unannotated"`: left out of the sums.
        generic: names that are said to be generic.

    Raises:
        ValueError: no names, or no label images.

    >>> from pathlib import Path
    >>> from PIL import Image
    >>> Path("labels").mkdir()
    >>> Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8)).save("labels/a.png")
    >>> [c.phrase for c in vn.concepts.Masks("labels", {1: "sky"}).concepts("picture")]
    ['sky']
    """

    folder: str | Path
    names: Mapping[int, str] | None = None
    missing: Missing = "error"
    generic: tuple[str, ...] = ()
    name = "masks"

    def __post_init__(self) -> None:
        check_missing(self.missing)
        if not self._values:
            raise ValueError(f"Masks({str(self.folder)!r}): names= names nothing; write {{1: 'sky', ...}}")
        if not self._files:
            raise ValueError(f"Masks({str(self.folder)!r}): no label images (.png, .tif) in this folder")

    @cached_property
    def _values(self) -> dict[int, str]:
        """Number -> name, of numbers that are something."""
        names: Any = self.names
        file = Path(self.folder) / NAMES
        if names is None:
            try:
                names = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ValueError(
                    f'{file}: {error}; write {{"1": "sky", ...}} into it, or pass names={{1: "sky", ...}}'
                ) from None
        try:
            return {_whole(number): _text(name) for number, name in dict(names).items()}
        except (ValueError, TypeError) as error:
            given = "names=" if self.names is not None else str(file)
            raise ValueError(f"{given} {error}; a number has a name, such as {{1: 'sky'}}") from None

    @cached_property
    def _files(self) -> Files:
        endings = (".png", ".tif", ".tiff")
        found = sorted(p for p in Path(self.folder).rglob("*") if p.suffix.lower() in endings)
        return Files({p.relative_to(self.folder).as_posix(): p for p in found}, ending=False)

    @cached_property
    def _columns(self) -> dict[str, int]:
        names = dict.fromkeys(self._values[number] for number in sorted(self._values))
        return {name: i for i, name in enumerate(n for n in names if n)}

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        """The names, in the order of their numbers; none of words."""
        names = self._columns if side == "picture" else ()
        return tuple(labelled(Concept("mask", name), name, [f"mask:{g}" for g in self.generic]) for name in names)

    @cached_property
    def _digest(self) -> str:
        total = hashlib.sha256()
        for name in self._files:
            total.update(
                name.encode("utf-8", "surrogatepass") + hashlib.sha256(self._files.records[name].read_bytes()).digest()
            )
        return total.hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """The names, and a digest of all label images."""
        names = digest(sorted(self._values.items()))
        return {"version": 1, "names": names, "files": self._digest, "missing": self.missing}

    def maps(self, view: View) -> Maps:
        """Shares of every patch.

        Raises:
            ValueError: no label image, one of another size, or a number that has no name.
        """
        return maps_of_pictures(
            view, len(self._columns), self.missing, f"Masks({str(self.folder)!r})", lambda i: self._masks(view, i)
        )

    def _masks(self, view: View, image: int) -> tuple[dict[int, np.ndarray], list[int]] | None:
        from PIL import Image

        path = self._files.get(file_of(view, image))
        if path is None:
            return None
        with Image.open(path) as opened:
            labels = np.asarray(opened)
        if labels.ndim != 2 or labels.dtype.kind not in "uib":
            raise ValueError(f"{path}: {labels.dtype} of shape {labels.shape}; one whole number a pixel is needed")
        check_size(view.name, str(path), labels.shape[::-1], view.originals[image].size)
        masks: dict[int, np.ndarray] = {}
        for number in np.unique(labels).tolist():
            if number not in self._values and number:
                raise ValueError(f'{path}: label {number} has no name; add it to names=, as "" if it is nothing')
            if name := self._values.get(number, ""):
                mask = labels == number
                masks[self._columns[name]] = mask | masks.get(self._columns[name], False)
        return masks, []


def _whole(number: Any) -> int:
    if isinstance(number, bool | float):
        raise ValueError(f"has {number!r} where a whole number should be")
    try:
        return int(number)
    except (ValueError, TypeError):
        raise ValueError(f"has {number!r} where a whole number should be") from None


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"has {name!r} where a name should be")
    return name

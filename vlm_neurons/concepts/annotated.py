"""What banks of annotated pictures share: which annotation is a picture's, and masks of the picture as shares of its
patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from vlm_neurons.concepts.banks import no_text
from vlm_neurons.concepts.shares import Boxes
from vlm_neurons.protocols import Maps, View

Missing = Literal["error", "unannotated"]
MISSING: tuple[Missing, ...] = ("error", "unannotated")


def check_missing(missing: str) -> None:
    """Refuse what is no policy for pictures without annotation."""
    if missing not in MISSING:
        raise ValueError(f"missing={missing!r}: choose from {', '.join(map(repr, MISSING))}")


def file_of(view: View, image: int) -> str:
    """File of a picture of a sample; the sample's name for one in memory."""
    return view.paths[image] or view.name


def maps_of_pictures(
    view: View,
    n_concepts: int,
    missing: Missing,
    source: str,
    masks_of: Callable[[int], tuple[Mapping[int, np.ndarray], Sequence[int]] | None],
) -> Maps:
    """Maps from masks of the pictures as they were given, through the boxes that patches have in them.

    Args:
        view: the sample.
        n_concepts: of the bank.
        missing: what a picture without annotation is.
        source: where annotations come from, for errors.
        masks_of: number of an image -> masks [height, width] of the concepts that it has, and which concepts nobody
            looked for in it; None where it is not annotated.

    Raises:
        ValueError: a picture is not annotated, or masks are of another size than it is.
    """
    found = np.full((view.n_patches, n_concepts), np.nan, np.float32)
    start = 0
    for image, boxes in enumerate(view.original_boxes):
        stop = start + len(boxes)
        annotated = masks_of(image)
        if annotated is None and missing == "error":
            raise ValueError(
                f"{view.name}: {source} has no annotation of {file_of(view, image)!r}; give the file of these images, "
                'or missing="unannotated" to leave such images out'
            )
        if annotated is not None:
            masks, unknown = annotated
            width, height = view.originals[image].size
            for mask in masks.values():
                check_size(view.name, source, mask.shape[::-1], (width, height))
            here = np.zeros((len(boxes), n_concepts), np.float32)
            if masks:
                shares = Boxes.over(boxes, height, width).means(np.stack(list(masks.values())))
                here[:, list(masks)] = shares.T
            here[:, list(unknown)] = np.nan
            found[start:stop] = here
        start = stop
    return Maps(found, no_text(view))


def check_size(sample: str, source: str, annotated: tuple[int, ...], given: tuple[int, int]) -> None:
    """Refuse annotations of another size (width, height)."""
    if tuple(annotated) != given:
        turned = "; it may have been turned upright by its EXIF orientation" if annotated[::-1] == given else ""
        raise ValueError(
            f"{sample}: {source} annotates a picture of {' x '.join(map(str, annotated))} pixels, it has "
            f"{given[0]} x {given[1]}{turned}: give the images that were annotated"
        )


class Files(Mapping[str, Any]):
    """Records by the path of a file: of paths that end alike the one that shares most folders.

    Raises:
        ValueError: two records share as many.

    >>> files = Files({"train/a.jpg": 1, "val/a.jpg": 2, "b.jpg": 3})
    >>> files["/data/val/a.jpg"], files.get("elsewhere/b.jpg"), files.get("c.jpg")
    (2, 3, None)
    """

    def __init__(self, records: Mapping[str, Any], ending: bool = True) -> None:
        self.records, self.ending = records, ending
        self.by_name: dict[str, list[str]] = {}
        for path in records:
            self.by_name.setdefault(self._name(path), []).append(path)

    def _name(self, path: str) -> str:
        return PurePath(path).name if self.ending else PurePath(path).stem

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __getitem__(self, path: str) -> Any:
        alike = self.by_name[self._name(path)]
        if len(alike) > 1:
            shared = [_shared(path, one) for one in alike]
            alike = [one for one, n in zip(alike, shared, strict=True) if n == max(shared)]
        if len(alike) > 1:
            raise ValueError(f"{path!r} could be {' or '.join(map(repr, alike[:3]))}: give files names of their own")
        return self.records[alike[0]]


def _shared(path: str, other: str) -> int:
    """How many folders before the name are the same."""
    pairs = zip(PurePath(path).parts[-2::-1], PurePath(other).parts[-2::-1], strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(PurePath(p).parts) for p in (path, other)))

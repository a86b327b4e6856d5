"""What was measured of a model's geometry beside what a batch says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlm_neurons.models.adapters.tiles import per_side
from vlm_neurons.models.painted import LEVELS
from vlm_neurons.tokens import Box, Patch, Patches

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models.batch import Batch

EMBEDDING = "embedding"  # what the backbone's first layer receives


@dataclass(frozen=True)
class Sight:
    """What is seen of an image.

    Attributes:
        box: in original pixels, from centre to centre of the outermost pixels that are seen.
        steps: from one of these pixels to the next, in x and y; 0 where all are in one column, or row.
    """

    box: Box
    steps: tuple[float, float]


Seen = Mapping[int, Sight]  # by the number of the image


@dataclass(frozen=True)
class Place:
    """A position of the backbone, or a row of the tensor of a hook.

    Attributes:
        where: `EMBEDDING`, or the hook.
        index: in the tensor there, with its leading dimensions flattened.
        patch: its patch, by number in the batch; -1 for none.
        per_side: how many rows of this tensor, side by side, may make up one patch.
    """

    where: str
    index: int
    patch: int
    per_side: int = 1


@dataclass(frozen=True, eq=False)
class MeasuredGeometry:
    """What positions see, beside what a batch says of them.

    Attributes:
        table: one line for each place that was measured: `where` (`"embedding"`, or the hook); `row` of the batch and
            `position` in it (at hooks -1, and the row of their tensor with its leading dimensions flattened); `image`,
            `tile`, `patch_row`, `patch_column` as the batch says; `measured` and `said` (boxes in original pixels, None
            for nothing); `problem` (empty where they agree).
        cost: seconds, backward passes (and one forward pass), places (measured or not).

    >>> found = vn.models.measure_geometry(model, batch, positions=2)
    >>> len(found.differences), found.ok
    (0, True)
    """

    table: pd.DataFrame
    cost: Mapping[str, float]

    @property
    def differences(self) -> pd.DataFrame:
        """The lines that differ, the first one first."""
        return self.table[self.table.problem != ""]

    @property
    def ok(self) -> bool:
        """Whether something was measured and nothing differs."""
        return bool(self.table.measured.notna().any()) and not len(self.differences)

    def check(self) -> None:
        """Raise if anything differs.

        Raises:
            ValueError: it names the first position that differs, what it sees and what the batch says.
        """
        if self.ok:
            return
        if not len(self.differences):
            raise ValueError("no geometry: no position of this batch sees a pixel of its images")
        first = self.differences.iloc[0]
        at = f"row {first.row}, position {first.position}" if first.row >= 0 else f"row {first.position} of its tensor"
        raise ValueError(
            f"visual positions do not look where the batch says: {len(self.differences)} of {len(self.table)} measured "
            f"places differ. The first is {first['where']!r}, {at}: {first.problem}. Values of neurons are right, "
            "boxes and maps would not be: report the checkpoint and the settings of its image processor"
        )

    def __str__(self) -> str:
        cost = self.cost
        return (
            f"{len(self.table)} of {cost['places']:.0f} places measured, {len(self.differences)} differ; "
            f"{cost['backward']:.0f} backward passes, {cost['seconds']:.1f} s"
        )


class Expected:
    """What a batch says, and how far a measurement may be from it.

    Args:
        batch: with images.
        seen: all that was measured: how large pixels are as resized is read from it.
    """

    def __init__(self, batch: Batch, seen: Sequence[tuple[Place, Seen]]) -> None:
        self.patches = tuple(batch.patches)
        self.sizes = [image.size for image in batch.images]
        tiled = {patch.image for patch in self.patches if patch.tile >= 0}
        self.largest: dict[tuple[int, int], float] = {}  # side of the largest patch of an image's tiles
        self.rests: dict[int, float] = {}  # what a tile has beside whole patches, as a share of a patch
        self.steps: dict[tuple[int, bool, int], float] = {}  # of an image, whether it is a tile, and axis
        for patch in self.patches:
            for axis in (0, 1):
                if patch.tile >= 0 or patch.image not in tiled:
                    key = patch.image, axis
                    self.largest[key] = max(self.largest.get(key, 0.0), _side(patch.original_box, axis))
        for image in tiled:
            shown = [patch for patch in self.patches if patch.image == image]
            self.rests[image] = _rest(
                next(patch for patch in shown if patch.tile >= 0), max(1, per_side(Patches.of(shown)))
            )
        wide: dict[tuple[int, bool, int], float] = {}  # the widest that is seen there
        for place, one in seen:
            for image, sight in one.items() if place.patch >= 0 else ():
                for axis, step in enumerate(sight.steps):
                    group = image, self.patches[place.patch].tile >= 0, axis
                    self.steps[group] = max(self.steps.get(group, 0.0), step)
                    wide[group] = max(wide.get(group, 0.0), _side(sight.box, axis))
        for (image, tile, axis), side in wide.items():
            if side < 2 * self.sizes[image][axis] / LEVELS:  # one column, or row, of pixels: as far apart as the others
                self.steps[image, tile, axis] = max(self.steps[image, tile, k] for k in (0, 1))

    def problem(self, place: Place, seen: Seen) -> str:
        """In words, what is wrong with what a place sees; empty if nothing is."""
        if place.patch < 0:
            wrong = [image for image in seen if place.where == EMBEDDING or self._whole(place, image, seen[image].box)]
            return f"it sees {_of(seen, wrong[0])}, and is said to have no patch" if wrong else ""
        patch = self.patches[place.patch]
        said = f"{_words(patch.original_box)} of image {patch.image} is said"
        others = [image for image in seen if image != patch.image]
        if others:
            return f"it sees {_of(seen, others[0])}, {said}"
        if not seen:
            visible = all(_side(patch.original_box, axis) > 4 * self._tolerance(patch, axis)[0] for axis in (0, 1))
            return f"it sees no pixel, {said}" if visible else ""
        sight = seen[patch.image]
        agrees = all(self._agrees(patch, sight, axis, place.per_side > 1) for axis in (0, 1))
        return "" if agrees else f"it sees {_of(seen, patch.image)}, {said}"

    def _agrees(self, patch: Patch, sight: Sight, axis: int, within: bool) -> bool:
        tolerance, step = self._tolerance(patch, axis)
        low, high, end = patch.original_box[axis], patch.original_box[axis + 2], self.sizes[patch.image][axis]
        # where padding is resized with the picture, pixels mixed with it count as padding, and their neighbours are off
        edge = step / 2 if low <= 0 or high >= end else 0.0
        for inside, outermost in ((sight.box[axis] - low, low <= 0), (high - sight.box[axis + 2], high >= end)):
            if inside < -tolerance - edge or (inside > tolerance + edge * (2 if outermost else 1) and not within):
                return False
        return True

    def _tolerance(self, patch: Patch, axis: int) -> tuple[float, float]:
        """Half a pixel of the original, one of the steps of a ramp, and half a pixel of the image as resized; and
        that pixel."""
        step = self.steps.get((patch.image, patch.tile >= 0, axis), 0.0)
        return 0.501 + self.sizes[patch.image][axis] / LEVELS + step / 2, step

    def _whole(self, place: Place, image: int, box: Box) -> bool:
        """Whether a row without a patch sees more than half of one: what is cut off beside the picture may hold a
        seam of it, since cuts go by patches and padding by pixels. Where tiles are no whole number of patches, cuts go
        as if they were, and may be off by the rest."""
        most = (0.5 + self.rests.get(image, 0.0)) / place.per_side
        return all(_side(box, axis) > most * self.largest.get((image, axis), 0.0) for axis in (0, 1))


def _rest(patch: Patch, n: int) -> float:
    """What a tile has beside its n x n patches, as a share of a patch, from where one of them is on the sheet."""
    return (patch.box[1] / (patch.box[3] - patch.box[1]) - patch.row) / max(1, patch.row // n)


def _side(box: Box, axis: int) -> float:
    return box[axis + 2] - box[axis]


def _words(box: Box) -> str:
    return "({:.1f}, {:.1f}, {:.1f}, {:.1f})".format(*box)


def _of(seen: Seen, image: int) -> str:
    return f"{_words(seen[image].box)} of image {image}"


def table_of(found: Sequence[tuple[Place, Seen, str]], batch: Batch) -> pd.DataFrame:
    """See `MeasuredGeometry.table`."""
    import pandas as pd

    width, lines = batch.input_ids.shape[1], []
    for place, seen, problem in found:
        patch = batch.patches[place.patch] if place.patch >= 0 else None
        row, position = divmod(place.index, width) if place.where == EMBEDDING else (-1, place.index)
        image = patch.image if patch else -1
        sight = seen.get(image, next(iter(seen.values()), None))
        lines.append(
            {
                "where": place.where,
                "row": row,
                "position": position,
                "image": image,
                "tile": patch.tile if patch else -1,
                "patch_row": patch.row if patch else -1,
                "patch_column": patch.column if patch else -1,
                "measured": sight.box if sight else None,
                "said": patch.original_box if patch else None,
                "problem": problem,
            }
        )
    return pd.DataFrame(lines)

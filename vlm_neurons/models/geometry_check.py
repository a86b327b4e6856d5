"""What was measured of a model's geometry beside what a batch says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlm_neurons.tokens import Box, Patch

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models.batch import Batch

EMBEDDING = "embedding"  # what the backbone's first layer receives
Seen = Mapping[int, Box]  # number of an image -> the box that is seen of it: its outermost pixels' centres


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
    """

    def __init__(self, batch: Batch) -> None:
        self.patches = batch.patches
        self.sizes = [image.size for image in batch.images]
        self.scales: dict[tuple[int, bool, int], float] = {}  # of image, whether it is a tile, and axis
        self.largest: dict[tuple[int, int], float] = {}  # side of the largest patch of an image's tiles
        for patch in batch.patches:
            for axis in (0, 1):
                side = patch.original_box[axis + 2] - patch.original_box[axis]
                key = patch.image, patch.tile >= 0, axis
                scale = side / (patch.box[axis + 2] - patch.box[axis])
                self.scales[key] = max(self.scales.get(key, 0.0), scale)  # those that show padding are cut
        tiled = {image for image, tile, _ in self.scales if tile}
        for patch in batch.patches:
            for axis in (0, 1):
                if patch.tile >= 0 or patch.image not in tiled:
                    side = patch.original_box[axis + 2] - patch.original_box[axis]
                    self.largest[patch.image, axis] = max(self.largest.get((patch.image, axis), 0.0), side)

    def tolerance(self, patch: Patch, axis: int) -> float:
        """Half a pixel of the original, one of the 256 levels of a ramp, and half a pixel of the image as resized."""
        scale = self.scales[patch.image, patch.tile >= 0, axis]
        return 0.501 + self.sizes[patch.image][axis] / 255 + 0.5 * scale

    def problem(self, place: Place, seen: Seen) -> str:
        """In words, what is wrong with what a place sees; empty if nothing is."""
        if place.patch < 0:
            wrong = [image for image, box in seen.items() if place.where == EMBEDDING or self._whole(place, image, box)]
            return f"it sees {_of(seen, wrong[0])}, and is said to have no patch" if wrong else ""
        patch = self.patches[place.patch]
        said = f"{_words(patch.original_box)} of image {patch.image} is said"
        others = [image for image in seen if image != patch.image]
        if others:
            return f"it sees {_of(seen, others[0])}, {said}"
        tolerances = [self.tolerance(patch, axis) for axis in (0, 1)]
        if not seen:
            box = patch.original_box
            visible = all(box[axis + 2] - box[axis] > tolerances[axis] for axis in (0, 1))
            return f"it sees no pixel, {said}" if visible else ""
        agrees = _agrees(seen[patch.image], patch.original_box, tolerances, place.per_side > 1)
        return "" if agrees else f"it sees {_of(seen, patch.image)}, {said}"

    def _whole(self, place: Place, image: int, box: Box) -> bool:
        """Whether a row without a patch sees more than half of one: what is cut off beside the picture may hold a
        seam of it, since cuts go by patches and padding by pixels."""
        return all(
            box[axis + 2] - box[axis] > 0.5 * self.largest.get((image, axis), 0.0) / place.per_side for axis in (0, 1)
        )


def _agrees(measured: Box, said: Box, tolerances: Sequence[float], within: bool) -> bool:
    for axis, tolerance in enumerate(tolerances):
        before, after = measured[axis] - said[axis], said[axis + 2] - measured[axis + 2]
        if min(before, after) < -tolerance or (not within and max(before, after) > tolerance):
            return False
    return True


def _words(box: Box) -> str:
    return "({:.1f}, {:.1f}, {:.1f}, {:.1f})".format(*box)


def _of(seen: Seen, image: int) -> str:
    return f"{_words(seen[image])} of image {image}"


def table_of(found: Sequence[tuple[Place, Seen, str]], batch: Batch) -> pd.DataFrame:
    """See `MeasuredGeometry.table`."""
    import pandas as pd

    width, lines = batch.input_ids.shape[1], []
    for place, seen, problem in found:
        patch = batch.patches[place.patch] if place.patch >= 0 else None
        row, position = divmod(place.index, width) if place.where == EMBEDDING else (-1, place.index)
        image = patch.image if patch else -1
        lines.append(
            {
                "where": place.where,
                "row": row,
                "position": position,
                "image": image,
                "tile": patch.tile if patch else -1,
                "patch_row": patch.row if patch else -1,
                "patch_column": patch.column if patch else -1,
                "measured": seen.get(image, next(iter(seen.values()), None)),
                "said": patch.original_box if patch else None,
                "problem": problem,
            }
        )
    return pd.DataFrame(lines)

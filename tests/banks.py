"""Small banks of concepts for tests of the scan."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View

CHANNELS = ("red", "green", "blue")


class Means(ConceptBank):
    """Mean of every colour channel over a patch, and whether the patch is in an upper row; of words their length, and
    whether they have an "e". Blue is unannotated for samples whose name ends in 3 or 7, length for those that end in 5.
    """

    name = "means"

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        if side == "text":
            return Concept("length", "", "long words"), Concept("letter", "e", "words with an e", generic=True)
        return *(Concept("color", c, f"{c} regions") for c in CHANNELS), Concept("position", "top", generic=True)

    def identity(self) -> dict[str, Any]:
        return {"version": 1}

    def maps(self, view: View) -> Maps:
        picture = [np.zeros((0, 4))]
        for image, boxes, cells, (rows, _) in zip(view.images, view.boxes, view.cells, view.grids, strict=True):
            pixels = np.asarray(image, float)
            means = [
                pixels[int(t) : max(int(b), int(t) + 1), int(le) : max(int(r), int(le) + 1)].mean((0, 1))
                for le, t, r, b in boxes
            ]
            picture.append(np.column_stack([np.array(means), cells[:, 0] < rows / 2]))
        found = np.concatenate(picture)
        text = np.array([[len(t), "e" in t] for t in view.tokens], np.float32).reshape(-1, 2)
        if view.name[-1] in "37":
            found[:, 2] = np.nan
        if view.name[-1] == "5":
            text[:, 0] = np.nan
        return Maps(found, text)


class Given(ConceptBank):
    """A bank of one concept a side that gives what it is told to."""

    def __init__(self, name: str = "given", value: Any = 0.0, concept: Concept | None = None) -> None:
        self.name, self.value, self.concept = name, value, concept or Concept("given", name)

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        return (self.concept,)

    def identity(self) -> dict[str, Any]:
        return {"value": str(self.value)}

    def maps(self, view: View) -> Maps:
        return Maps(np.full((view.n_patches, 1), self.value), np.full((len(view.tokens), 1), self.value))

"""A picture in numbers and words, for models that take none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.visual import Maps, pixel_bank

if TYPE_CHECKING:
    from vlm_neurons.evidence import Seen

KINDS = ("color", "brightness", "texture", "edge", "object")  # that have a share of a patch
SHARE = 0.1  # what covers less is not named
PLACES = 4


def written(seen: Seen, number: int, scaled: Float[np.ndarray, "rows columns"]) -> dict[str, Any]:
    """What `prompts/written.jinja` is given.

    Args:
        seen: the sample.
        number: which image of it.
        scaled: activation at every patch, 0-10, without NaN.

    Returns:
        `grid` (a line of whole numbers per row of patches), `whole` (what the image is made of), and `places`: of up
        to four strongest patches that do not round to 0, row and column from 1 on, value, and what they are made of.
    """
    maps = pixel_bank(seen)[number]
    order = np.argsort(-scaled, axis=None, kind="stable")[:PLACES]
    spots = [(int(i // scaled.shape[1]), int(i % scaled.shape[1])) for i in order]
    return {
        "grid": [" ".join(str(round(float(v))) for v in row) for row in scaled],
        "whole": _shares({c: float(m.mean()) for c, m in maps.items()}),
        "places": [
            {"row": r + 1, "column": c + 1, "value": round(float(scaled[r, c])), "made_of": _patch(maps, r, c)}
            for r, c in spots if round(float(scaled[r, c])) >= 1
        ],
    }  # fmt: skip


def _patch(maps: Maps, row: int, column: int) -> str:
    here = {concept: float(m[row, column]) for concept, m in maps.items()}
    where = [c.value for c, share in here.items() if c.kind == "position" and share == 1]
    return _shares(here) + (f"; at: {', '.join(where)}" if where else "")


def _shares(shares: dict[Concept, float]) -> str:
    named = [(c, s) for c, s in shares.items() if c.kind in KINDS and s >= SHARE]
    named.sort(key=lambda n: (KINDS.index(n[0].kind), -n[1]))
    return ", ".join(f"{phrase([c]).removesuffix(' regions')} {s:.0%}" for c, s in named)

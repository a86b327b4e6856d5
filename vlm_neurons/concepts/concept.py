"""Visual concepts in words."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_neurons.protocols import Concept as Concept

_NOUN = {"shape": "{}s", "object": "objects", "brightness": "{} regions", "texture": "{} regions",
         "edge": "{} edges"}  # fmt: skip


def phrase(concepts: Sequence[Concept], objects: bool = False) -> str:
    """Visual concepts that hold together, in words.

    Args:
        concepts: one or more.
        objects: call what has no noun of its own objects, rather than regions.

    >>> phrase([Concept("color", "red")])
    'red regions'
    >>> phrase([Concept("shape", "circle"), Concept("color", "red"), Concept("place", "top left")])
    'red circles at the top left'
    >>> phrase([Concept("edge", "horizontal"), Concept("color", "red")])
    'horizontal edges of red regions'
    """
    by_kind = {c.kind: c.value for c in concepts}
    if "edge" in by_kind and set(by_kind) - {"edge", "position"}:
        edge, rest = ([c for c in concepts if (c.kind == "edge") == kept] for kept in (True, False))
        return f"{phrase(edge)} of {phrase(rest, objects)}"
    parts = [by_kind[k] for k in ("size", "color") if k in by_kind]
    nouns = [_NOUN[k].format(by_kind[k]).replace("crosss", "crosses").strip() for k in _NOUN if k in by_kind]
    if not nouns and set(by_kind) == {"position"}:
        return f"the {by_kind['position']} of the image"
    if not nouns:
        nouns = ["objects" if objects or "size" in by_kind or "place" in by_kind else "regions"]
    parts.append(" that are ".join(n.removesuffix(" regions") if i else n for i, n in enumerate(nouns)))
    if "place" in by_kind:
        parts.append(f"at the {by_kind['place']}")
    if "position" in by_kind:
        parts.append(f"at the {by_kind['position']} of the image")
    return " ".join(parts)

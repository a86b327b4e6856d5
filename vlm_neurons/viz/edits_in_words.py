"""What a card says of `vn.input_effects`: numbers of an edit, and of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlm_neurons.viz.wording import decimals, number, small, visible

if TYPE_CHECKING:
    from vlm_neurons.interventions import EditPair

MADE = {
    "repaint": "an object in another colour", "reshape": "an object in another shape",
    "resize": "an object in another size", "move": "an object in another place", "object": "an object, there or not",
    "remove": "the region filled with the mean of the rest", "inpaint": "the region filled in from around it",
    "blur": "the region out of focus",
    "recolour": "the region in another hue", "paste": "the region pasted into other pictures",
    "generate": "pictures made from its words, and from another neuron's",
    "keep": "the region alone on grey", "replace": "a word replaced", "word": "a word, there or not",
}  # fmt: skip
KINDS = {"followed most": "followed most", "typical": "typical", "least active": "least active, the hard negative"}


def edit_lines(row: Mapping[str, Any], top: str) -> list[str]:
    """A row of the table in words: what was edited, the numbers, and what is noted.

    Args:
        row: of one edit.
        top: end of the colour scale; empty where nothing is shown.
    """
    note = visible(str(row["note"])) if row["note"] else ""
    if row["change"] != row["change"]:
        return [line for line in (_head(row), note) if line]
    told = [
        f"change {decimals(row['change'])} SD [{decimals(row['change_low'])}, {decimals(row['change_high'])}]",
        f"where nothing is named {decimals(row['control'])}",
        f"by the words of other neurons {decimals(row['sham_change'])}",
    ]  # fmt: skip
    if row["other"]:
        told.append(f"largest other change {decimals(row['other_change'])} ({visible(str(row['other']))})")
    if row["necessity"] == row["necessity"]:
        told.append(f"necessity {decimals(row['necessity'])}")
    if row["sufficiency"] == row["sufficiency"]:
        told.append(f"sufficiency {decimals(row['sufficiency'])}")
    same = f", {row['n_unchanged']:.0f} more that the edit leaves as they are" if row["n_unchanged"] else ""
    told.append(f"q {small(row['q'])}" if row["q"] == row["q"] else "no q")
    return [
        _head(row),
        f"{'; '.join(told)}; {row['n_images']:.0f} trials{same}" + (f". Colours from 0 to {top}" if top else ""),
        *([note] if note else []),
    ]


def _head(row: Mapping[str, Any]) -> str:
    if not row["edit"]:
        return ""
    made = MADE.get(row["edit"], "")
    return f"{row['edit']} {visible(str(row['named']))}" + (f": {made}" if made else "")


def pair_caption(pair: EditPair) -> str:
    """What a trial shows."""
    before, after = (number(one) for one in pair.acts)
    way = "brought" if pair.brought else "taken away"
    told = f"{KINDS[pair.kind]}: what is named is {way}, {before} \u2192 {after} ({_signed(pair)} SD)"
    if pair.kind == "least active":
        told += f"; with it the neuron stays below its median where it is active, {number(pair.levels.median)}"
    return told


def _signed(pair: EditPair) -> str:
    return f"{(pair.acts[1] - pair.acts[0]) / pair.levels.sd:+.2f}"

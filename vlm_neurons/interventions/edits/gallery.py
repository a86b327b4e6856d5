"""Trials to look at: the picture or text before and after, and what the neuron did at every patch and token.

`edits/shown-IDENTITY/` has them: `pairs.parquet`, a row a trial, and the two inputs of each as evidence.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._files import readable, write_atomic
from vlm_neurons.autointerp.store import folder as folder_of
from vlm_neurons.evidence.activations import Look, look
from vlm_neurons.evidence.evidence import Evidence
from vlm_neurons.evidence.exemplars import Exemplar
from vlm_neurons.evidence.stored import load
from vlm_neurons.evidence.storing import save
from vlm_neurons.interventions.edits.keeping import FOLDER, TABLE, WRITER, owner, read
from vlm_neurons.interventions.edits.measures import Followed, Levels
from vlm_neurons.interventions.edits.planning import Plan
from vlm_neurons.interventions.edits.trials import Sheet, Wanted
from vlm_neurons.protocols import Side
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

MOST = 100  # neurons; of further ones the table has the numbers
KINDS = ("followed most", "typical", "least active")


@dataclass(frozen=True, eq=False)
class EditPair:
    """A trial of one neuron.

    Attributes:
        edit: its kind, such as `"repaint"`.
        side: what was edited.
        kind: `"followed most"` (of all trials), `"typical"` (the median change), or `"least active"`: the hard
            negative, in which what is named is there and the neuron is below its median where it is active.
        brought: the edit brought what is named; otherwise it took it away.
        change: activation with what is named, less without, in SD.
        acts: the neuron's activation before and after, as it was measured.
        levels: what the neuron does on samples as they are.
        before: the neuron on what the edit began with.
        after: the neuron on what it made.
    """

    edit: str
    side: Side
    kind: str
    brought: bool
    change: float
    acts: tuple[float, float]
    levels: Levels
    before: Exemplar
    after: Exemplar


@dataclass(frozen=True, eq=False)
class EditGallery:
    """What was edited for one neuron.

    Attributes:
        rows: its rows of the table that `vn.input_effects` returns.
        pairs: trials to look at; none of edits without a number, or where only the table was kept.
    """

    rows: pd.DataFrame
    pairs: tuple[EditPair, ...]


def edit_gallery(run: Run | str | Path) -> dict[str, EditGallery]:
    """Edits that were kept, to look at; `vn.show_neuron(..., edits=...)` shows those of a neuron.

    Args:
        run: a run or a directory, as `vn.input_effects(..., out=...)` was told.

    Returns:
        neuron -> its rows and some of its trials: of each kind of edit the one that it followed most, a typical one,
        and where there is any the one in which it is least active though what is named is there.

    Raises:
        FileNotFoundError: nothing was kept there.
        ValueError: what was kept cannot be read.

    >>> words = {"L2N304": "pink regions"}
    >>> effects = vn.input_effects(model, vn.scenes(20, seed=9), words, edits=["repaint"], out="kept", progress=False)
    >>> found = vn.interventions.edit_gallery("kept")["L2N304"]
    >>> [pair.kind for pair in found.pairs][:2], found.pairs[0].before.patch_acts[0].shape
    (['followed most', 'typical'], (8, 8))
    """
    import pandas as pd

    home = folder_of(run) / FOLDER
    if not (home / TABLE).is_file():
        raise FileNotFoundError(f"no edits in {home}; make them with vn.input_effects(..., out=...)")
    table, shown = read(home / TABLE), _home(home, owner(home / TABLE))
    pairs: dict[str, list[EditPair]] = {}
    if (shown / "pairs.parquet").is_file():
        with readable(shown / "pairs.parquet", WRITER):
            told, stored = pd.read_parquet(shown / "pairs.parquet"), load(shown)
            kept: dict[str, tuple[Exemplar, ...]] = {}
            for one in told.to_dict("records"):
                both = kept.setdefault(one["name"], stored[one["name"]].exemplars)[2 * one["place"] :][:2]
                levels = Levels(one["sd"], one["median"], one["top"])
                acts = one["act_before"], one["act_after"]
                pair = EditPair(
                    one["edit"], one["side"], one["kind"], bool(one["brought"]), one["change"], acts, levels, *both
                )
                pairs.setdefault(one["neuron"], []).append(pair)
    return {name: EditGallery(rows, tuple(pairs.get(name, ()))) for name, rows in table.groupby("neuron", sort=False)}


def picked(followed: Followed, present: np.ndarray, levels: Levels) -> list[tuple[str, int]]:
    """Which trials are shown, and as what: each once."""
    order = np.argsort(-followed.change, kind="stable")
    found = {int(order[0]): KINDS[0]}
    found.setdefault(int(order[len(order) // 2]), KINDS[1])
    weakest = int(np.argmin(present))
    if not present[weakest] >= levels.median:
        found.setdefault(weakest, KINDS[2])
    return sorted(((kind, trial) for trial, kind in found.items()), key=lambda one: KINDS.index(one[0]))


def keep_shown(
    home: Path, identity: str, model: HookedVLM, plans: Mapping[Side, Plan], acts: Mapping[Side, np.ndarray],
    wanted: Mapping[str, Sequence[Wanted]], neurons: Mapping[str, Neuron], batch_size: int,
) -> None:  # fmt: skip
    """Look once more at the trials that are shown, and keep them; those of earlier calls go."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    asked: dict[tuple[Side, int], list[Neuron]] = {}  # input -> neurons that are looked at there
    for column, (name, mine) in enumerate([*wanted.items()][:MOST]):
        for one in mine:
            sheet = plans[one.side].sheets.get(one)
            own = acts[one.side][:, column] if sheet is not None else np.zeros(0)
            for row in _rows(one, sheet, own, plans[one.side]) if sheet is not None else ():
                rows.append({"neuron": name, "name": f"{name} {one.side} {one.edit}", "side": one.side, **row})
                for number in (row["before"], row["after"]):
                    asked.setdefault((one.side, number), []).append(neurons[name])
    seen = _looked(model, plans, asked, batch_size)
    evidence: dict[str, Evidence] = {}
    for row in rows:
        both = [seen[row["side"], row[end], row["neuron"]] for end in ("before", "after")]
        own_before = evidence[row["name"]].exemplars if row["name"] in evidence else ()
        row["place"] = len(own_before) // 2
        evidence[row["name"]] = Evidence(row["neuron"], row["top"], (*own_before, *both))
    shown = _home(home, identity)
    for old in home.glob("shown-*"):
        shutil.rmtree(old, ignore_errors=True)
    if rows:
        save(evidence, shown)
        write_atomic(shown / "pairs.parquet", lambda path: pd.DataFrame(rows).to_parquet(path))


def _rows(wanted: Wanted, sheet: Sheet, acts: np.ndarray, plan: Plan) -> list[dict[str, Any]]:
    levels = Levels.of(acts[plan.natural])
    if not len(sheet.present) or not levels.sd > 0:
        return []
    followed, found = Followed.of(sheet, acts, levels), []
    for kind, i in picked(followed, acts[sheet.present], levels):
        ends, brought = (int(sheet.present[i]), int(sheet.absent[i])), bool(sheet.brought[i])
        before, after = ends[::-1] if brought else ends
        found.append({"edit": wanted.edit, "kind": kind, "brought": brought, "change": float(followed.change[i]),
                      "sd": levels.sd, "median": levels.median, "top": levels.top, "before": before,
                      "after": after, "act_before": float(acts[before]), "act_after": float(acts[after])})  # fmt: skip
    return found


def _looked(
    model: HookedVLM, plans: Mapping[Side, Plan], asked: Mapping[tuple[Side, int], list[Neuron]], batch_size: int,
) -> dict[tuple[Side, int, str], Exemplar]:  # fmt: skip
    """What neurons did on some inputs: one batch holds one side, as when they were measured."""
    found: dict[tuple[Side, int, str], Exemplar] = {}
    for side in plans:
        numbers = [number for one, number in asked if one == side]
        for start in range(0, len(numbers), batch_size):
            some = numbers[start : start + batch_size]
            looks, neurons = [], []
            for number in some:
                row = plans[side].inputs.made[number]()
                looks.append(Look(number, "", row.images, row.prompt, row.response))
                neurons.append(list(dict.fromkeys(asked[side, number])))
            for number, (seen, values) in zip(some, look(model, looks, neurons), strict=True):
                for name, (maps, tokens) in values.items():
                    if side == "text":
                        maps = tuple(np.full_like(one, np.nan) for one in maps)
                    else:
                        tokens = np.full_like(tokens, np.nan)
                    found[side, number, name] = Exemplar(seen, "top", "explain", 0, maps, tokens)
    return found


def _home(home: Path, identity: str) -> Path:
    return home / f"shown-{identity[:16]}"

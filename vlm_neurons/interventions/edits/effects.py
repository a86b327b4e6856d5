"""`vn.input_effects`: the picture or the text is edited; does the neuron follow?"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from vlm_neurons._checks import check_seed, of_kind, short, whole_number
from vlm_neurons.autointerp.jobs import Explanations, text_of
from vlm_neurons.autointerp.simulation import writable
from vlm_neurons.autointerp.store import folder
from vlm_neurons.data import ImageTextData
from vlm_neurons.interventions.edits.asking import asked, check_edits
from vlm_neurons.interventions.edits.finding import Finder, find_regions, pictured
from vlm_neurons.interventions.edits.gallery import keep_shown
from vlm_neurons.interventions.edits.generated import EDIT, Generate, name_of, wanted_for
from vlm_neurons.interventions.edits.keeping import FOLDER, Kept, with_q
from vlm_neurons.interventions.edits.measures import MEASURES, Followed, Levels, measured, plain
from vlm_neurons.interventions.edits.photographs import SLOW
from vlm_neurons.interventions.edits.planning import LEAST, Plan, order_of, plan, run
from vlm_neurons.interventions.edits.regions import Box, Regions, checked_boxes, looked_at
from vlm_neurons.interventions.edits.saving import folder_for, save_pictures
from vlm_neurons.interventions.edits.sharing import shared
from vlm_neurons.interventions.edits.trials import Sheet, Wanted
from vlm_neurons.models.state import state_of
from vlm_neurons.protocols import SIDES, Side
from vlm_neurons.sites import at
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

SHAMS = 5  # explanations of other neurons tried on each
ENDS = ("", "_low", "_high")
FIRST = ["neuron", "side", "explanation", "edit", "named", *(f"{m}{end}" for m in MEASURES for end in ENDS), "other",
         "other_change", "control", "reencoded", *(f"sham_{m}" for m in MEASURES), "p", "q", "n_images", "n_control",
         "n_sufficiency", "n_necessity", "n_weak", "n_left_out", "n_unchanged", "n_sham", "note"]  # fmt: skip
NUMBERS = [name for name in FIRST if name not in ("neuron", "side", "explanation", "edit", "named", "other", "note")]


def input_effects(
    model: HookedVLM,
    data: ImageTextData,
    explanations: Explanations,
    edits: Sequence[str] | None = None,
    boxes: Mapping[str, Mapping[int, Sequence[Box]]] | None = None,
    regions: Finder | None = None,
    generate: Generate | None = None,
    n: int = 100,
    seed: int = 0,
    batch_size: int = 32,
    out: Run | str | Path | None = None,
    save_images: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Change what explanations name in pictures and texts, and nothing else, and see whether the neurons follow.

    A correlation says where a neuron fires; an edit says why. Every trial is one sample with what is named and the same
    without it; whichever the sample is not is made. A neuron's activation in it is the largest positive one over the
    patches of the picture (the sample's first one: others are neither edited nor read), or over the tokens of the text.
    Inputs are shared by all neurons: each is run once.

    Edits of pictures (`vn.scenes`, which can be drawn anew): `"repaint"`, `"reshape"`, `"resize"`, `"move"` one object,
    and `"object"`: it is added, or removed. Of any pictures, where regions are given or found: `"remove"` (filled with
    the mean of the rest), `"inpaint"` (filled in from around it, by scikit-image; slow, and so only where it is asked
    for), `"blur"`, `"recolour"` (in Lab; lightness stays), `"paste"` into samples without a region (three places and
    three sizes in turn, with feathered edges), `"keep"` (alone on grey). With a function that makes pictures:
    `"generate"`, pictures of what is named beside those of other neurons' words. Of texts (any data): `"replace"` a
    word by one of the same class and as nearly as possible the same length, and `"word"`: it is inserted, or removed;
    pictures stay.

    Args:
        model: the model.
        data: samples that are edited; no explanation should have been made from them.
        explanations: neuron -> explanation, or plain string, in the words of the banks of concepts.
        edits: only these kinds; all that the words ask for if None.
        boxes: neuron -> {sample id: boxes (left, top, right, bottom)} around what its words name, in pixels of the
            sample's first image; they are rounded, and cut at its edges. Pictures of these neurons are
            edited there; samples without boxes count as samples without what is named.
        regions: finds what the words name in the first images of samples, for neurons without boxes. A bank of concepts
            (such as `Pixels()`, or the one that a run was scanned with): where all concepts of an alternative have at
            least half of the most that they have in the pictures looked at. Masks, {sample id: {name: mask}} or a list
            of such dicts: arrays [height, width], run-length encodings or lists of polygons, as COCO writes them. Or a
            function (image, words) -> boxes, a mask, or several masks. Up to five times n samples are looked at (of
            masks all, one that is not there being empty), until n have one and, for `"paste"`, n have none; the same
            anew in every call. Pictures that cannot be drawn anew need boxes or regions.
        generate: a function from a prompt to a picture (PIL), such as a diffusion model; ten prompts of each
            alternative, each made once. It tells of sufficiency, not of necessity. It is known by its name: `out=`
            keeps its pictures, so choose another directory for another function of that name.
        n: samples that are edited, drawn from the data, or all if there are fewer; at least 10. Up to five times as
            many say what the neuron does on samples as they are. With regions: up to n with one are edited, up to n
            without are pasted into.
        seed: of all that is drawn.
        batch_size: inputs per forward pass.
        out: a run or a directory, whose `edits/` keeps the table and trials to look at (`edit_gallery`), and until
            those are there what was run: the same call goes on after an interruption, and the one that finished last is
            read; not while hooks are on the model. Rows of other neurons stay in the table, without their trials.
        save_images: a folder for the edited pictures, as PNG named after their pixels; `edits.jsonl` there says which
            they are, a line a trial, with `changed` false where the edit leaves the picture as it is.
        progress: say on stderr what it costs, and show a bar.

    Returns:
        One row a neuron and kind of edit (negative poles: of the negated activation):

        - `change`: mean activation with what is named, less without, in standard deviations (SD) of the neuron's
          activation over the samples as they are;
        - `sufficiency`: share of the samples into which it was brought whose activation is then above the neuron's 95th
          percentile over the samples as they are. That share is at most what is left above the percentile where the
          samples often have it anyway;
        - `necessity`: mean of 1 - activation without / with. Samples whose activation with it is below the neuron's
          median positive value say nothing of it and are left out (`n_weak`); `necessity_margin`: less the largest
          share that another change takes away from them, or that goes with something else in the same place (of
          `"object"`, `"word"`, `"paste"`, `"keep"`: another object, word or region, added where nothing is). Above 0
          nothing else is as necessary; what makes the neuron only stronger, such as a larger object, does not count
          against it, as it does in `specificity`. NaN, noted, where nothing else could be tried; `"generate"` has
          neither;
        - `specificity`: `change`, less the mean size of the largest `other` change, `other_change`, of those with at
          least 10 trials (where none has 10, of those with the most): attributes of the same object and of the
          background that are not named (an object: one of other attributes; a text: one word of every other class);
          above 0 nothing else moves the neuron as much. `over_background`: less the largest change
          that the background's texture or shade makes; size and shape also change how much of a colour there is;
        - each with `_low` and `_high`: 95 %, bootstrap over samples;
        - controls, in SD: `control`, mean size of the change by the same edit on the same object, or word, where it is
          not what is named before nor after (for sizes: on the other object; of boxes: on an equally large region
          elsewhere); `reencoded`, mean size of the change by encoding the picture with what is named as JPEG, or
          running the text in another batch; `sham_change`, `sham_specificity` ..., means of the same measures with the
          words of up to five other neurons;
        - `p`: that `change` is above the `control`, over the trials that have one, one-sided, by sign-flips over
          samples; above 0, over all trials, where fewer than 10 have one (of fewer trials: not all); `q`: after
          Benjamini-Hochberg over the neurons of this edit;
        - counts: `n_images` (trials), `n_control` (those with a control), `n_sufficiency`, `n_necessity`, `n_weak`,
          `n_left_out` (no trial: another object is what is named too, there is no room, no such word, or no other
          colour), `n_unchanged` (the edit changes nothing), `n_sham`;
        - `note`: what of the words was not tested and why, what rests on few trials. A neuron whose words ask for no
          edit has one row without numbers.

        NaN where a number does not exist.

    Raises:
        ImportError: `"inpaint"` without scikit-image.
        ValueError: explanations that are no mapping from ids to words, an unknown edit, boxes or regions that are none,
            outside the picture, or of a sample without an image, or fewer than 10 samples.
        TypeError: data of another kind, regions that nothing can be found by, or `generate` that is no function or
            gives no picture.

    >>> found = vn.input_effects(
    ...     model, vn.scenes(40, seed=9), {"L2N304": "pink regions"}, edits=["repaint"], n=20, progress=False
    ... ).iloc[0]
    >>> bool(found.specificity > 1), bool(found.necessity > 0.5), bool(found.p < 0.01)
    (True, True, True)
    """
    texts_of, neurons = _checked(data, explanations)
    check_seed(seed)
    n, batch_size = whole_number("n", n, LEAST), whole_number("batch_size", batch_size)
    places = dict(checked_boxes(data, {} if boxes is None else boxes, neurons))
    check_edits(edits, generate)
    lacking: dict[str, str] = {}
    order = order_of(data, "picture", seed) if places or regions is not None else []
    places = {key: looked_at(own, order, n) for key, own in places.items()}
    if regions is not None:
        rest = {k: text for k, text in texts_of.items() if k not in places}
        pasting = edits is None or "paste" in edits
        found, lacking = find_regions(regions, data, order, rest, n, model.device, pasting)
        places |= {key: one for key, one in found.items() if any(one.values())}
    pictures = None if save_images is None else folder_for(save_images)
    kept, done = None, None
    if out is not None:
        # the order of neurons is that of columns, and numbers inputs
        told: list[Any] = [
            list(texts_of.items()),
            None if edits is None else list(edits),
            places,
            lacking,
            n,
            seed,
            batch_size,
        ]
        told.append(None if generate is None else name_of(generate))
        kept = Kept(folder(out) / FOLDER, identity(model, data, [*neurons.values()], told))
        if (done := kept.table(texts_of)) is not None and pictures is None:
            return done
    wanted, notes = {}, {}
    for key, text in texts_of.items():
        each, note = asked(text, key if key in places else None)
        if generate is not None and (prompts := list(pictured(text))):
            each = [*each, wanted_for(prompts)]
        notes[key] = "; ".join(filter(None, (note, lacking.get(key))))
        wanted[key] = [w for w in each if (w.edit != SLOW if edits is None else w.edit in edits)]
    console = Console(stderr=True, quiet=not progress, soft_wrap=True, markup=False)
    plans = {side: plan(model, data, side, wanted, places, n, seed, generate) for side in SIDES}
    if kept is not None:
        plans["picture"].inputs.folder = kept.folder / "images"
    if pictures is not None:
        save_pictures(pictures, plans["picture"])
    if done is not None:
        return done
    if kept is not None:
        kept = replace(kept, inputs="".join(plans[side].inputs.fingerprint()[:8] for side in SIDES))
    acts = run(model, plans, list(neurons.values()), batch_size, console, progress, kept)
    table = _table(texts_of, neurons, wanted, notes, plans, acts, places, seed)
    if kept is not None:
        seen = {name: [one for one in mine if _sees(neurons[name], one.side)] for name, mine in wanted.items()}
        keep_shown(kept.folder, kept.identity, model, plans, acts, seen, neurons, batch_size)
        table = kept.finish(table)
    return table


def _table(
    texts_of: Mapping[str, str], neurons: Mapping[str, Neuron], wanted: Mapping[str, Sequence[Wanted]],
    notes: Mapping[str, str], plans: Mapping[Side, Plan], acts: Mapping[Side, np.ndarray],
    regions: Mapping[str, Regions], seed: int,
) -> pd.DataFrame:  # fmt: skip
    """The rows of all neurons."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for column, (key, mine) in enumerate(wanted.items()):
        done = []
        note = "; ".join(dict.fromkeys(filter(None, (notes[key], *_lacking(mine, neurons[key], plans)))))
        for one in mine:
            sheet = plans[one.side].sheets.get(one)
            if sheet is None or not _sees(neurons[key], one.side):
                continue
            own, rng = acts[one.side][:, column], np.random.default_rng([seed, zlib.crc32(key.encode())])
            shams = _shams(one, plans[one.side].sheets, regions, texts_of, rng)
            done.append({"side": one.side, **_row(one, sheet, own, plans[one.side], shams, seed, note)})
        lacking = [{"note": note or "its words ask for none of these edits"}]
        for row in ({"neuron": key, "explanation": texts_of[key], **row} for row in done or lacking):
            rows.append({name: writable(one) if isinstance(one, str) else one for name, one in row.items()})
    table = pd.DataFrame(rows).reindex(columns=FIRST)
    table = with_q(table)
    words = [name for name in FIRST if name not in NUMBERS]
    table = table.astype(dict.fromkeys(words, object)).fillna(dict.fromkeys(words, ""))
    return table.astype(dict.fromkeys(NUMBERS, float))


def identity(model: HookedVLM, data: ImageTextData, neurons: list[Neuron], told: list[Any]) -> str:
    """SHA-256 of all that decides the numbers; another one every time while hooks are on the model."""
    sites = {n.site: at(n.hook)[0].fingerprint() for n in neurons}
    what = ["edits 10", state_of(model), str(model.dtype), sites, data.fingerprint(), told]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def _sees(neuron: Neuron, side: Side) -> bool:
    return side == "picture" or at(neuron.hook)[0].indexed_by != "image"


def _lacking(wanted: Sequence[Wanted], neuron: Neuron, plans: Mapping[Side, Plan]) -> Iterator[str]:
    """Why edits of a whole side that the words ask for are not made."""
    for one in wanted:
        if not _sees(neuron, one.side):
            yield "texts are not edited: the neuron does not see them"
        elif one not in plans[one.side].sheets:
            yield plans[one.side].lacking


def _checked(data: Any, explanations: Any) -> tuple[dict[str, str], dict[str, Neuron]]:
    """Words and neurons, by id."""
    of_kind("data", data, ImageTextData, "give vn.ImageTextData or vn.scenes(n)")
    if not isinstance(explanations, Mapping):
        raise ValueError(
            f"explanations={short(explanations)}: give a dict from ids of neurons to explanations or words"
        )
    found = {Neuron.parse(key).id: text_of(str(key), one) for key, one in explanations.items()}
    return found, {key: Neuron.parse(key) for key in found}


def _shams(
    own: Wanted, sheets: Mapping[Wanted, Sheet], regions: Mapping[str, Regions], texts_of: Mapping[str, str],
    rng: np.random.Generator,
) -> list[Sheet]:  # fmt: skip
    """Trials of other explanations with the same kind of edit, that name nothing that this one names."""
    others = [
        sheet for w, sheet in sheets.items()
        if w.edit == own.edit and len(sheet.present) and not shared(own, w, regions, texts_of)
    ]  # fmt: skip
    return [others[i] for i in rng.permutation(len(others))[:SHAMS]]


def _row(
    wanted: Wanted, sheet: Sheet, acts: np.ndarray, plan: Plan, shams: list[Sheet], seed: int, note: str
) -> dict[str, Any]:
    levels, n = Levels.of(acts[plan.natural]), len(sheet.present)
    named = "; ".join(
        " ".join("region" if kind == "region" else f"{kind}:{value}" for kind, value in one) or "object"
        for one in wanted.named
    )
    counts = {"n_images": n, "n_left_out": sheet.left_out, "n_unchanged": sheet.unchanged, "n_sham": len(shams)}
    row: dict[str, Any] = {"edit": wanted.edit, "named": named, **counts}
    if not n or not levels.sd > 0:
        nothing = "no other neuron names something else" if wanted.edit == EDIT else "no sample can be edited so"
        why = nothing if not n else "the neuron does the same on every sample as it is"
        return row | {"note": "; ".join(filter(None, (why, note)))}
    followed = Followed.of(sheet, acts, levels)
    tried = [plain(Followed.of(sham, acts, levels)) for sham in shams]
    row |= measured(followed, sheet.others, np.random.default_rng([seed, 2]))
    note = "; ".join(filter(None, (note, row.get("note"))))
    row |= {f"sham_{name}": float(np.nanmean(values)) for name in MEASURES
            if np.isfinite(values := np.array([one[name] for one in tried], float)).any()}  # fmt: skip
    strong, brought = int(followed.strong.sum()), int(followed.brought.sum())
    if wanted.edit == EDIT:  # the picture without is another one, from which nothing was taken
        strong, n = 0, 0
        row |= {name: float("nan") for name in row if name.startswith(("necessity", "sham_necessity"))}
    elif strong and np.isnan(row["necessity_margin"]):
        note = "; ".join(filter(None, (note, "nothing else was tried to compare necessity with")))
    return row | {"n_sufficiency": brought, "n_necessity": strong, "n_weak": n - strong, "note": note}

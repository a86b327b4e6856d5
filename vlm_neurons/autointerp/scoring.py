"""`vn.score`: one row per neuron, every number beside its null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons._checks import whole
from vlm_neurons._files import write_atomic
from vlm_neurons.autointerp.explanation import Explanation, says_nothing
from vlm_neurons.autointerp.scorers import measures, nulls
from vlm_neurons.autointerp.scorers.others import swapped
from vlm_neurons.autointerp.scorers.pieces import Piece, of_side, pieces_of, resolved
from vlm_neurons.autointerp.scorers.specific import Chance, against_others
from vlm_neurons.autointerp.simulating import folder, pairs, simulate, simulator_of, text_of, wanted
from vlm_neurons.autointerp.simulations import FILE as SIMULATIONS
from vlm_neurons.autointerp.simulations import Simulation, in_front, settings_id, to_front, writable
from vlm_neurons.autointerp.simulators.purse import on_one_purse
from vlm_neurons.stats import false_discovery
from vlm_neurons.units import Neuron

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.autointerp.explanation import Explainer
    from vlm_neurons.autointerp.simulators import Prediction, Side, Simulator
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run

FILE = "scores.parquet"
NAN = float("nan")
FEW = 40  # images, below which an interval is called approximate (python examples/trust.py coverage)
FIRST = ("neuron", "explanation", "explainer", "simulator", "made_by", "label", "layer", "modality")
NUMBERS = ("r", "r_low", "r_high", "r_between", "r_within", "r_sample", "r_null", "r_empty", "p", "p_within", "q",
           "ceiling", "auroc", "iou", "spearman", "detection", "r_visual", "r_text", "r_image_to_text",
           "r_text_to_image")  # fmt: skip
LAST = ("n_null", "n_images", "n_exemplars", "n_failed", "approximate", "note")


def score(
    explanations: Mapping[str, Explanation | str],
    evidence: Mapping[str, Evidence],
    simulator: str | Simulator = "concepts",
    simulations: Mapping[str, Simulation] | None = None,
    out: Run | str | Path | None = None,
    n_null: int = 20,
    n_permutations: int = 9999,
    swap: str | Explainer | None = None,
    pool: Mapping[str, Explanation | str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How well explanations predict activations, on the split `"test"` only: half top, half random exemplars.

    Args:
        explanations: key of the evidence -> explanation, or plain string.
        evidence: of the same keys.
        simulator: see `simulate`. Its `max_cost` holds for all that is asked here: the explanations, those of other
            neurons and the swap, in this order.
        simulations: of the same explanations by the same simulator, where they were made before.
        out: a run or a directory: the table goes to its `scores.parquet`, simulations and replies as in `simulate`.
            Rows of other neurons by the same simulator that are there stay in it (and q is over all); the table
            of another simulator, or of other settings, is kept beside it, as `scores-NAME-SETTINGS.parquet`.
            Nothing is written where every simulation failed.
        n_null: explanations of other neurons tried on each neuron, at most. Each costs as much as a simulation.
        n_permutations: behind p and p_within; from 999 on.
        swap: explainer for the modality swap of multi-modal neurons; by default `"dissection"` where all explanations
            are its own, else none. It sees one side of the evidence, and what it says is simulated on the other.
        pool: explanations that those of other neurons are drawn from, with evidence of the same keys; those that are
            scored if not given. So one neuron that is scored anew has the same nulls as in a table of all.
        seed: of permutations and bootstrap.
        progress: show bars.

    Returns:
        One row per explanation:

        - `neuron, explanation, explainer, simulator, made_by` (a mark of its settings), `label, layer, modality`
          (the sides that are scored);
        - `r` over all places (patches, tokens of the response; sinks left out), `r_low`, `r_high` (95 %, bootstrap over
          exemplars within the two strata), `r_between` (of the means of images and of texts, each about that of its
          side), `r_within` (after subtracting them), `r_sample` (mean of every sample's own r, the paper's),
          `spearman`, `auroc` (of places above the paper's thresholds), `iou` (at the neuron's own 95th percentile),
          `detection` (top against random exemplars);
        - `r_null`: median r of up to `n_null` explanations of other neurons of the same layer and class, made from
          other top samples than those it is tried on (one that predicts the same everywhere counts as 0): how specific
          r is. `n_null`, of which it is; `r_empty`: of the empty explanation. A null that failed, or has predictions
          for less than 80 % of the exemplars that r rests on, is none: the note counts them;
        - `p` (maps moved to other images), `p_within` (maps shifted inside), both one-sided; `q`: p after
          Benjamini-Hochberg over the rows;
        - `ceiling`: r of the truth itself at the simulator's resolution;
        - `r_visual`, `r_text` and the swap, `r_image_to_text` and `r_text_to_image`, of multi-modal neurons;
        - `n_images` (samples with a prediction), `n_exemplars`, `n_failed` (samples without any), `approximate` (fewer
          than 40 images), `note` (why a number, or a side, is missing).

        NaN where a number does not exist: a constant simulation has no correlation, a failed one is no zero.

    Raises:
        ValueError: unknown simulator, parameters of wrong types or out of range, two explanations of one neuron (with
            `out`), or a damaged file in `out`.
        KeyError: an explanation without evidence.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> table = score({"it": "cyan regions"}, {"it": made}, n_permutations=999, progress=False)
    >>> bool(table.r[0] > 0.7), bool(table.p[0] < 0.01)
    (True, True)
    """
    import pandas as pd

    whole(999, n_permutations=n_permutations)
    whole(0, n_null=n_null, seed=seed)
    pairs(explanations, evidence, "explanations", out)
    pairs({} if pool is None else pool, evidence, "pool")
    if out is not None:
        for file in (FILE, SIMULATIONS):
            in_front(folder(out) / file)  # says now that it is damaged
    chosen = on_one_purse(simulator_of(simulator, out))
    chance = Chance(n_null, n_permutations, seed)
    made = _checked(simulations or {}, explanations, evidence, chosen)
    missing = {k: e for k, e in explanations.items() if k not in made}
    made |= simulate(missing, evidence, chosen, out, progress=progress)
    against = against_others(made, explanations if pool is None else pool, evidence, chosen, chance, progress)
    across = swapped(explanations, evidence, chosen, swap, progress)
    rows = []
    for key, explanation in explanations.items():
        row = _row(explanation, evidence[key], made.get(key), chosen, chance)
        row |= {**against.get(key, {}), **across.get(key, {})}
        if (lost := row.pop("n_lost", 0)) and np.isfinite(row["r"]):
            what = f"{lost} null simulations failed (other neurons' explanations, or the empty one)"
            row["note"] = "; ".join(n for n in (row["note"], what) if n)
        rows.append(row)
    table = pd.DataFrame(rows, columns=[*FIRST, *NUMBERS, *LAST])
    table["layer"], table["made_by"] = table["layer"].astype("Int64"), settings_id(chosen)
    written = None if nothing_came(table) else out
    if written is not None and rows:
        table = _with_earlier(table, folder(written), chosen)
    table["q"] = false_discovery(table["p"].to_numpy(float))
    if written is not None:
        write_atomic(folder(written) / FILE, lambda temporary: table.to_parquet(temporary, index=False))
    return table


def _checked(
    simulations: Mapping[str, Simulation], explanations: Mapping[str, Explanation | str],
    evidence: Mapping[str, Evidence], simulator: Simulator,
) -> dict[str, Simulation]:  # fmt: skip
    """Those that were made before, of the explanations that are scored.

    Raises:
        ValueError: one is of another simulator, explanation or evidence.
    """
    fitting = wanted({k: explanations[k] for k in simulations if k in explanations}, evidence, simulator)
    for key, one in fitting.items():
        if not isinstance(simulations[key], Simulation):
            raise ValueError(f"simulations[{key!r}]: {type(simulations[key]).__name__}; give what vn.simulate returned")
        if simulations[key].settings != one.settings:
            raise ValueError(
                f"{key}: its simulation was made by another simulator ({simulations[key].simulator}; scored with "
                f"{simulator.name}), of other words or from other evidence; pass simulator=, or simulate it again"
            )
    return {key: simulations[key] for key in fitting}


def _row(
    explanation: Explanation | str, evidence: Evidence, made: Simulation | None, simulator: Simulator, chance: Chance
) -> dict[str, Any]:
    """Everything about one neuron but what needs further simulations."""
    exemplars = evidence.split("test")
    row: dict[str, Any] = {
        "neuron": evidence.neuron, "explanation": writable(text_of(evidence.neuron, explanation)),
        "explainer": "" if isinstance(explanation, str) else explanation.explainer, "simulator": simulator.name,
        "label": evidence.label, "layer": _layer(evidence.neuron), "modality": "", **dict.fromkeys(NUMBERS, NAN),
        "n_null": 0, "n_images": 0, "n_exemplars": len(exemplars), "n_failed": 0, "approximate": True, "note": "",
    }  # fmt: skip
    if made is None:
        failure = explanation.failure if isinstance(explanation, Explanation) else None
        return {**row, "note": f"the explanation failed: {failure.kind}" if failure else "not simulated"}
    pieces = pieces_of(evidence, exemplars, made.predictions, made.sides)
    n_images, sides = len({p.exemplar for p in pieces}), [s for s in made.sides if of_side(pieces, s)]
    row["modality"] = "multimodal" if len(sides) == 2 else "".join(sides)
    row |= {"n_images": n_images, "n_failed": len(_lost(made, made.sides)), "approximate": n_images < FEW}
    numbers = _numbers(pieces, simulator, chance.rng(evidence.neuron), chance)
    return {**row, **numbers, "note": _note(made, pieces, numbers)}


def _numbers(
    pieces: Sequence[Piece], simulator: Simulator, rng: np.random.Generator, chance: Chance
) -> dict[str, float]:
    low, high = measures.interval(pieces, rng)
    found = {
        "r": measures.pooled(pieces), "r_low": low, "r_high": high, "r_between": measures.between(pieces),
        "r_within": measures.within(pieces), "r_sample": measures.per_sample(pieces),
        "p": nulls.p_images(pieces, chance.n_permutations, rng),
        "p_within": nulls.p_places(pieces, chance.n_permutations, rng),
        "ceiling": measures.pooled(resolved(pieces, simulator.resolution)), "auroc": measures.auroc(pieces),
        "iou": measures.iou(pieces), "spearman": measures.spearman(pieces), "detection": measures.detection(pieces),
    }  # fmt: skip
    if len({p.side for p in pieces}) == 2:
        found |= {f"r_{side}": measures.pooled(of_side(pieces, side)) for side in ("visual", "text")}
    return found


def _note(made: Simulation, pieces: Sequence[Piece], numbers: Mapping[str, float]) -> str:
    """Why there is no r, or no p, or one side only."""
    kinds = ", ".join(sorted({p.failure.kind for p in made.predictions if p.failure}))
    if not pieces:
        if kinds:
            return f"every simulation failed: {kinds}"
        return "no place with both an activation and a prediction" if made.samples else "no test exemplars"
    if np.isfinite(numbers["r"]):
        notes = [text for s in made.sides if (text := _missing(made, s, of_side(pieces, s)))]
        notes += _constant_sides(pieces, numbers)
        notes += [] if np.isfinite(numbers["p"]) else ["no p: too few images of the same shape"]
        return "; ".join(notes)
    return _constant(pieces)


def _constant(pieces: Sequence[Piece]) -> str:
    simulated = np.concatenate([p.pair[1] for p in pieces])
    return "constant simulation" if simulated.min() == simulated.max() else "constant activations"


def _constant_sides(pieces: Sequence[Piece], numbers: Mapping[str, float]) -> list[str]:
    """Which side of a multi-modal neuron has no r, so that r is of the other, or of the difference between them."""
    sides: tuple[Side, ...] = ("visual", "text")
    lacking = [side for side in sides if np.isnan(numbers.get(f"r_{side}", 0.0))]
    return [f"{_constant(of_side(pieces, side))} on the {side} side" for side in lacking]


def _missing(made: Simulation, side: Side, pieces: Sequence[Piece]) -> str:
    """What to say of a side that is missing, in all exemplars or in some that have the other."""
    lost = _lost(made, (side,))
    kinds = ", ".join(sorted({f.kind for p in lost if (f := p.failure)}))
    if not pieces:
        return f"no {side} side ({kinds or 'nothing there'})"
    n = len(lost) - len(_lost(made, made.sides))
    return f"no {side} side of {n} exemplars ({kinds})" if n else ""


def _lost(made: Simulation, sides: Sequence[Side]) -> list[Prediction]:
    """Of exemplars that failed and have no prediction on any of these sides."""
    there = {"visual": lambda p: bool(p.patch_acts), "text": lambda p: p.token_acts is not None}
    return [p for p in made.predictions if p.failure and not any(there[s](p) for s in sides)]


def _layer(neuron: str) -> int | None:
    try:
        return Neuron.parse(neuron).layer
    except ValueError:
        return None


def _with_earlier(table: pd.DataFrame, path: Path, simulator: Simulator) -> pd.DataFrame:
    """The table, and the rows of a file that it does not replace."""
    import pandas as pd

    for file in (FILE, SIMULATIONS):  # together: a table of scores beside its simulations
        to_front(path / file, simulator.name, settings_id(simulator))
    if not (path / FILE).is_file():
        return table
    earlier = pd.read_parquet(path / FILE)
    earlier = earlier[~earlier["neuron"].isin(table["neuron"])]
    return pd.concat([earlier, table], ignore_index=True) if len(earlier) else table


def nothing_came(table: pd.DataFrame) -> bool:
    """Whether simulations failed, and none of an explanation that names something gave a prediction."""
    came = (table["n_images"] > 0) & ~table["explanation"].map(says_nothing).astype(bool)
    return bool((table["n_failed"] > 0).any() and not came.any())


def load_scores(path: str | Path) -> pd.DataFrame:
    """The table of a run directory.

    Raises:
        FileNotFoundError: there is none.
    """
    import pandas as pd

    file = Path(path) / FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"no {FILE} in {path}; make it with vn.score(..., out=run), or vlm-neurons score {path}"
        )
    return pd.read_parquet(file)

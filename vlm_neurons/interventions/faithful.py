"""`vn.faithfulness`: does the model say what an explanation names, while the neuron is clamped?"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from tqdm import tqdm

from vlm_neurons._checks import check_seed
from vlm_neurons._files import changing, readable, write_atomic
from vlm_neurons.autointerp.asked import STRENGTHS, Asking, check_strengths, words_of
from vlm_neurons.autointerp.explainers.output import fingerprint_of, output_of
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.autointerp.jobs import Explanations, check_evidence, check_explanations, text_of
from vlm_neurons.autointerp.simulation import writable
from vlm_neurons.autointerp.spoken import Ways, says, ways_to_say
from vlm_neurons.autointerp.store import folder
from vlm_neurons.models.state import state_of

if TYPE_CHECKING:
    import pandas as pd

    from vlm_neurons.evidence import Evidence
    from vlm_neurons.models import HookedVLM
    from vlm_neurons.scanning import Run

FOLDER, TABLE = "faithfulness", "table.parquet"
FIRST_DRAW = 1000  # explainers by steering have others: nothing is judged on the answers that it was made from
OTHERS = 20  # units that the null is of, at most
DRAWS = 1000  # of the bootstrap
WORDS = ("neuron", "explanation", "note")
COLUMNS = ["neuron", "explanation", "faithfulness", "low", "high", "null", "p", "before", "share", "strength",
           "n_null", "n_strengths", "note"]  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What the model says while a unit is clamped.

    Attributes:
        answers: by strength; those at which text breaks down are left out.
        left_out: they.
        unit: what was clamped, on its positive pole: a gate and its `post` are one.
        fault: why there are none.
    """

    answers: dict[float, list[str]]
    left_out: list[float]
    unit: str = ""
    fault: str = ""


def faithfulness(
    model: HookedVLM,
    explanations: Explanations,
    evidence: Mapping[str, Evidence],
    strengths: Sequence[float] = STRENGTHS,
    n: int = 32,
    seed: int = 0,
    blank: bool = True,
    prompt: str | None = None,
    max_new_tokens: int = 24,
    batch_size: int = 32,
    out: Run | str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Whether clamping a neuron makes the model say what its explanation names (FADE, Puri et al., arXiv 2502.16994):

        max(0, max over m of s(m) - s(0)) / (1 - s(0))

    s(m) is the share of answers about blank pictures that say it while the neuron is clamped at m times its peak, s(0)
    without a clamp. Strengths at which text breaks down are left out, as in `vn.SteeringExplainer`; the answers are
    other ones than an explanation by steering was made from.

    Args:
        model: the model.
        explanations: neuron -> explanation, or plain string. An answer says it if it has the words of one of its
            alternatives (between semicolons), in the singular or the plural.
        evidence: of the same neurons, for their peaks (and the sign of a gate's `up`). Others are units of the null.
        strengths: of the clamp, in units of the neuron's peak.
        n: answers at each strength, and twice as many without a clamp.
        seed: of all that is drawn.
        blank: blank pictures of four shades, or none.
        prompt: what is asked; a plain "describe" if None.
        max_new_tokens: of an answer.
        batch_size: answers at once.
        out: a run or a directory, whose `faithfulness/` keeps what the model said of every unit, so that the same call
            goes on after an interruption, and `table.parquet`, in which rows of other neurons stay.
        progress: say on stderr what it takes, and show a bar.

    Returns:
        One row an explanation: `faithfulness` with `low` and `high` (95 %, bootstrap over answers); `null`: the
        median of the same words' faithfulness to other units, up to 20 of the evidence, whatever explains them (a
        gate and its `post`, or both poles, are one unit):
        words that any clamp makes the model say have a large one; `p`: the share of these, itself counted, to
        which they are as faithful; `before` s(0); `share` and `strength` of the maximum; `n_null`;
        `n_strengths` that are not left out; `note`. The largest of several shares is too large by chance, and
        so is the null's: read them together.

        NaN, noted, where s(0) is 1 (the model says it anyway), where the explanation names nothing that can be said,
        where text breaks down at every strength, and where the unit cannot be clamped.

    Raises:
        ValueError: explanations or evidence that are none, strengths that are no numbers above 0.
        KeyError: an explanation without evidence.

    >>> found = vn.faithfulness(model, {"L2N304": "pink regions"}, evidence, strengths=(0.5,), n=16, progress=False)
    >>> found[["before", "share", "faithfulness", "null"]].round(2).iloc[0].tolist()
    [0.38, 0.75, 0.6, 0.1]
    """
    import pandas as pd

    check_explanations(explanations, evidence)
    check_evidence(evidence)
    check_strengths(strengths)
    check_seed(seed)
    asking = Asking(model, blank, prompt, n, max_new_tokens, 1.0, seed, batch_size)
    where = None if out is None else folder(out) / FOLDER
    console = Console(stderr=True, quiet=not progress, soft_wrap=True, markup=False)
    console.print(f"faithfulness: {len(evidence)} units, {n} answers at each of up to {len(strengths)} strengths and "
                  f"{2 * n} without, of up to {max_new_tokens} tokens")  # fmt: skip
    state = state_of(model)
    before, limit = asking.unclamped(FIRST_DRAW)
    said = {}
    for key, one in tqdm(evidence.items(), desc="faithfulness", unit="unit", disable=not progress):
        said[key] = _said(asking, state, one, strengths, limit, where)
    ways = {key: ways_to_say(text_of(key, one)) for key, one in explanations.items()}
    rows = [
        {
            "neuron": key,
            "explanation": writable(text_of(key, one)),
            **_row(key, text_of(key, one), ways, before, said, seed),
        }
        for key, one in explanations.items()
    ]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table = table.astype({name: object if name in WORDS else float for name in COLUMNS}).fillna({"note": ""})
    if where is not None and len(table):
        with changing(where / TABLE):
            kept = kept_in(where / TABLE)
            others = None if kept is None else kept[~kept["neuron"].isin(table["neuron"])]
            every = table if others is None or others.empty else pd.concat([others, table], ignore_index=True)
            write_atomic(where / TABLE, lambda path: every.to_parquet(path, index=False))
    return table


def kept_in(file: Path) -> pd.DataFrame | None:
    """The table that was kept; None where there is none.

    Raises:
        ValueError: the file cannot be read.
    """
    import pandas as pd

    if not file.is_file():
        return None
    with readable(file, "vn.faithfulness(..., out=...) or vlm-neurons faithfulness RUN"):
        return pd.read_parquet(file, columns=COLUMNS)


def fade(shares: Float[np.ndarray, "draw strength"], before: Float[np.ndarray, "draw"]) -> Float[np.ndarray, "draw"]:
    """FADE's faithfulness; NaN where all of the unclamped answers show the concept.

    >>> fade(np.array([[0.25, 0.7], [0.1, 0.2], [1.0, 1.0]]), np.array([0.4, 0.4, 1.0])).round(2).tolist()
    [0.5, 0.0, nan]
    """
    room = np.where(before < 1, 1 - before, np.nan)
    return np.maximum(0, shares.max(1) - before) / room


def _row(
    key: str, text: str, ways: Mapping[str, Ways], before: list[str], said: Mapping[str, Said], seed: int
) -> dict[str, Any]:
    own, mine = ways[key], said[key]
    counts = {"n_strengths": len(mine.answers)}
    if not own:
        what = "the explanation names nothing" if says_nothing(text) else "it names nothing that an answer could say"
        return counts | {"note": what}
    s0 = _share(before, own)
    note = f"text breaks down at {', '.join(f'{s:g}' for s in mine.left_out)}" if mine.left_out else ""
    if mine.fault or not mine.answers:
        return counts | {"before": s0, "note": mine.fault or "text breaks down at every strength"}
    shares = {strength: _share(answers, own) for strength, answers in mine.answers.items()}
    best = max(shares, key=lambda strength: (shares[strength], -strength))
    row = counts | {"before": s0, "share": shares[best], "strength": best}
    if s0 == 1:
        return row | {"note": "the model says it without a clamp too, every time"}
    rng = np.random.default_rng([seed, 7, zlib.crc32(key.encode())])
    true = _fade([*shares.values()], s0)
    low, high = _interval([*shares.values()], len(next(iter(mine.answers.values()))), s0, len(before), rng)
    null = _null(key, own, said, s0, rng)
    p = (1 + sum(value >= true for value in null)) / (1 + len(null)) if null else float("nan")
    return row | {
        "faithfulness": true, "low": low, "high": high, "null": float(np.median(null)) if null else float("nan"),
        "p": p, "n_null": len(null), "note": note,
    }  # fmt: skip


def _null(key: str, own: Ways, said: Mapping[str, Said], s0: float, rng: np.random.Generator) -> list[float]:
    """Faithfulness of the same words to other units, each of which counts once, under whatever names it is there."""
    units = {one.unit: k for k, one in reversed([*said.items()]) if one.answers and one.unit != said[key].unit}
    others = [k for k in said if units.get(said[k].unit) == k]
    chosen = [others[i] for i in rng.permutation(len(others))[:OTHERS]]
    shares = ([_share(answers, own) for answers in said[k].answers.values()] for k in chosen)
    return [_fade([*one], s0) for one in shares]


def _fade(shares: list[float], before: float) -> float:
    return float(fade(np.array([shares]), np.array([before]))[0])


def _interval(
    shares: Sequence[float], n: int, s0: float, n_before: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Bootstrap over answers: of those at each strength, and of those without a clamp."""
    drawn = rng.binomial(n, shares, (DRAWS, len(shares))) / n
    values = fade(drawn, rng.binomial(n_before, s0, DRAWS) / n_before)
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def _share(answers: Sequence[str], ways: Ways) -> float:
    return float(np.mean([says(words_of(answer), ways) for answer in answers]))


def _said(
    asking: Asking, state: str, evidence: Evidence, strengths: Sequence[float], limit: float, where: Path | None
) -> Said:
    """What the model says while a unit is clamped: read where it is kept, or asked, and kept."""
    about = [evidence.digest, fingerprint_of(evidence)]
    told = [4, asking.settings(state), *about, [float(s) for s in strengths], FIRST_DRAW]
    file = None if where is None else where / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]}.json"
    if file is not None and file.is_file():
        with readable(file, "vn.faithfulness(..., out=...)"):
            kept = json.loads(file.read_text(encoding="utf-8"))
            return Said({float(k): list(v) for k, v in kept["answers"].items()}, list(kept["left_out"]), kept["unit"])
    try:
        output = output_of(asking.model, evidence, state)
        if not output.peak > 0:
            raise ValueError(f"{evidence.neuron} is never active, so that there is nothing to clamp it at")
        unit = replace(output.neuron, pole="+").id
        found = Said(*asking.while_held(output.neuron, output.peak, strengths, limit, FIRST_DRAW + 2), unit)
    except (ValueError, LookupError) as error:
        return Said({}, [], fault=str(error.args[0]))  # not kept: found again at once, unless it is mended
    if file is not None:
        text = json.dumps({"neuron": evidence.neuron, **asdict(found)}, ensure_ascii=False)
        write_atomic(file, lambda path: path.write_text(text, encoding="utf-8"))
    return found

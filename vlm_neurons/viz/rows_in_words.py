"""A neuron's rows of the tables and its explanation in words: class, score, what was said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.tokens import MODALITIES
from vlm_neurons.viz.wording import AT, NAMES, counted, decimals, number, share_words, small, visible

if TYPE_CHECKING:
    import pandas as pd


def record(row: pd.Series | pd.DataFrame | Mapping[str, Any] | None, neuron: str, name: str) -> dict[str, Any]:
    """One row of a table as a dict; a whole table gives the row of the neuron; None gives an empty one.

    Raises:
        ValueError: no row of the neuron, several, or a row of another one.
    """
    import pandas as pd

    if row is None:
        return {}
    if isinstance(row, pd.DataFrame):
        rows = row[row["neuron"] == neuron] if "neuron" in row else row
        if len(rows) != 1:
            raise ValueError(f"{name}= has {len(rows)} rows of {neuron}; pass one, such as table.iloc[0]")
        row = rows.iloc[0]
    if not isinstance(row, pd.Series | Mapping):
        raise ValueError(f"{name}={type(row).__name__}: pass a row of the table, a dict or a table with one row")
    found = {str(key): value for key, value in row.items()}
    if found.get("neuron", neuron) != neuron:
        raise ValueError(f"{name}= is the row of {found['neuron']}, the evidence is of {neuron}")
    return found


def score_records(score: pd.Series | pd.DataFrame | Mapping[str, Any] | None, neuron: str) -> list[dict[str, Any]]:
    """Rows of a score table as dicts: a single row, or of a whole table those of the neuron, one a side.

    Raises:
        ValueError: no row of the neuron, several of one side, or a row of another neuron.
    """
    import pandas as pd

    if not isinstance(score, pd.DataFrame):
        return [one] if (one := record(score, neuron, "score")) else []
    rows = score[score["neuron"] == neuron] if "neuron" in score else score
    if len(rows) != (rows["side"].nunique() if "side" in rows else 1) or rows.empty:
        raise ValueError(f"score= has {len(rows)} rows of {neuron}; pass one of each side, such as table.iloc[0]")
    return [record(row, neuron, "score") for _, row in rows.iterrows()]


@dataclass(frozen=True)
class Classes:
    """The class of a neuron.

    Attributes:
        label: `""` where it is not known.
        headline: in words.
        shares: class, its name, its share in words, its share; none where the shares are not known.
        notes: what else the table says, in words.
    """

    label: str
    headline: str
    shares: tuple[tuple[str, str, str, str], ...]
    notes: tuple[str, ...]


def classes(row: Mapping[str, Any], label: str | None, peak: float) -> Classes:
    """The class of a neuron from its row, or from the evidence's label where there is no row."""
    label = str(row.get("label", label or ""))
    notes = [f"largest activation {number(peak)}"]
    every = _number(row.get("peak_all_tokens"))
    if every > peak:
        notes.append(f"{number(every)} at template tokens")
    if (always := _number(row.get("always_on"))) >= 0:
        notes.append(f"{share_words(always)} of its mean activation on pictures that show nothing")
    if (poor := _number(row.get("poor"))) >= 0:
        notes.append(f"{share_words(poor)} of what it does lies where its dictionary explains little")
    known = label in MODALITIES and all(_number(row.get(f"p_{one}")) >= 0 for one in MODALITIES)
    if known:
        notes.append("a tie" if row.get("tie") else "confident" if row.get("confident") else "not confident")
        if "n_samples" in row:
            few = not row.get("confident") and _number(row.get(f"p_{label}")) > 0.8
            only = "only " if few else ""  # a large share of too few samples
            n = int(row["n_samples"])
            notes.append(f"shares of its {only}{n} top samples" if n > 1 else "shares of its only top sample")
    shares = tuple(
        (one, NAMES[one], share_words(row[f"p_{one}"]), f"{row[f'p_{one}']:.4f}") for one in MODALITIES if known
    )
    named = NAMES.get(label, {"not_applicable": "sees images only", "": ""}.get(label, visible(label)))
    return Classes(
        label if label in MODALITIES else "", f"{named} {share_words(row[f'p_{label}'])}" if known else named, shares,
        tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """A score in words, and the numbers of its picture.

    Attributes:
        sentence: the score with what it has to be compared with.
        details: how it was measured.
        r: the correlation; None where there is none, and then nothing is drawn.
        low: lower end of its interval.
        high: upper end.
        null: what other neurons' explanations reach.
        ceiling: the largest that the simulator's steps allow.
    """

    sentence: str
    details: str
    r: float | None = None
    low: float = float("nan")
    high: float = float("nan")
    null: float = float("nan")
    ceiling: float = float("nan")

    def places(self, left: float, width: float) -> tuple[Callable[[float], float], float]:
        """Of its numbers on a line from `left` on that ends with 1; and the number with which it begins, 0 or below."""
        least = min(
            0.0, *(float(np.floor(4 * v) / 4) for v in (self.r, self.low, self.null) if v == v and v is not None)
        )
        return lambda value: left + width * (value - least) / (1 - least), least


def scored(row: Mapping[str, Any]) -> Scored | None:
    """A row of the score table in words; None without one.

    >>> scored({"side": "text", "r": 0.41, "r_low": 0.3, "r_high": 0.52, "r_null": 0.03, "ceiling": 0.97}).sentence
    "on text: r = .41 [.30, .52], other neurons' explanations reach .03, ceiling .97"
    """
    if not row:
        return None
    r, low, high, null, ceiling = (_number(row.get(key)) for key in ("r", "r_low", "r_high", "r_null", "ceiling"))
    side = {"picture": "on pictures", "text": "on text"}.get(str(row.get("side")))
    if r != r:
        why = visible(str(row.get("note") or "the reason was not recorded"))
        return Scored(f"No score {side}: {why}." if side else f"No score: {why}.", _details(row))
    interval = f" [{decimals(low)}, {decimals(high)}]" if low == low else ""
    parts = [(f"{side}: " if side else "") + f"r = {decimals(r)}{interval}"]
    parts.append(f"other neurons' explanations reach {decimals(null)}" if null == null else "no null was measured")
    if ceiling == ceiling:
        parts.append(f"ceiling {decimals(ceiling)}")
    return Scored(", ".join(parts), _details(row), r, low, high, null, ceiling)


def answers(table: pd.DataFrame | None, neuron: str) -> list[str]:
    """What the pass over all data says that a neuron answers to, a sentence a side; none without a table.

    Args:
        table: what `run.concepts()` returns, or rows of it.
        neuron: whose.

    Raises:
        ValueError: it has no row of the neuron.

    >>> import pandas as pd
    >>> row = {"neuron": "L0N1", "side": "picture", "concept": "color:red", "phrase": "red regions"}
    >>> answers(pd.DataFrame([row | {"r": 0.61, "r_low": 0.5, "r_high": 0.7, "p_random": 0.002}]), "L0N1")
    ['Over all data, at image patches: red regions, r = .61 [.50, .70], p = .002 against random units']
    """
    if table is None:
        return []
    rows = table[table["neuron"] == neuron].to_dict("records")
    if not rows:
        raise ValueError(f"concepts= has no row of {neuron}; pass what run.concepts() returns, or rows of it")
    return [_answer(row) for row in rows]


def _answer(row: Mapping[str, Any]) -> str:
    where = f"Over all data, {AT[str(row['side'])]}"
    r, low, high, p = (_number(row.get(key)) for key in ("r", "r_low", "r_high", "p_random"))
    if not row["concept"] or not low > 0:
        return f"{where}: no concept for sure"
    also = f", also {visible(str(row['also']))}" if row.get("also") else ""
    luck = f", p = {small(p)} against random units".replace("= <", "< ") if p == p else ""
    return f"{where}: {visible(str(row['phrase']))}, r = {decimals(r)} [{decimals(low)}, {decimals(high)}]{luck}{also}"


def _details(row: Mapping[str, Any]) -> str:
    parts = []
    if row.get("simulator"):
        parts.append(f"simulator {visible(str(row['simulator']))}")
    q, n_failed = _number(row.get("q")), _number(row.get("n_failed"))
    if q == q:
        parts.append(f"q = {small(q)}".replace("= <", "< "))
    for key, name in (("n_images", "image"), ("n_exemplars", "sample")):
        if _number(row.get(key)) > 0:
            parts.append(counted(int(row[key]), name))
    if _number(row.get("n_null")) > 0:
        parts.append(f"null from {counted(int(row['n_null']), 'explanation')}")
    if n_failed > 0:
        parts.append(f"{counted(int(n_failed), 'simulation')} failed")
    if (stable := _number(row.get("stability"))) == stable:
        parts.append(f"the same explanation from {100 * stable:.0f} % of resampled samples")
    if row.get("approximate") in (True, np.True_):
        parts.append("interval approximate: fewer than 40 images")
    if row.get("note") and _number(row.get("r")) == _number(row.get("r")):
        parts.append(visible(str(row["note"])))
    return " · ".join(parts)


def _number(value: Any) -> float:
    """NaN for what is no number, infinities among it."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return float("nan")
    return found if np.isfinite(found) else float("nan")


@dataclass(frozen=True)
class Explained:
    """An explanation in words.

    Attributes:
        text: the explanation, or why there is none.
        description: more of it.
        source: who said it.
        failed: whether `text` says why there is none.
    """

    text: str
    description: str
    source: str
    failed: bool = False


def explained(explanation: Explanation | str | None) -> Explained | None:
    """An explanation in words; None without one. A failure is told as one.

    Raises:
        ValueError: neither an `Explanation` nor text.
    """
    if explanation is None:
        return None
    if isinstance(explanation, str):
        return Explained(_lines(explanation) or "the empty explanation", "", "")
    if not isinstance(explanation, Explanation):
        raise ValueError(f"explanation={type(explanation).__name__}: pass a vn.Explanation or a text")
    who = [visible(part) for part in (explanation.explainer, explanation.model) if part]
    if explanation.confidence == explanation.confidence:
        who.append(f"its own confidence {explanation.confidence:.2f}")
    if explanation.failure is not None:
        told = f"No explanation: {explanation.failure.kind}. {explanation.failure.detail}"
        return Explained(_lines(told), "", " · ".join(who), True)
    return Explained(_lines(explanation.text) or "no text", _lines(explanation.description), " · ".join(who))


def differ(explanation: Explanation | str | None, text: Any) -> bool:
    """Whether what was made from `text`, such as a score, is of other words than the explanation's; False where one of
    them does not tell.

    >>> differ("red things", "blue things"), differ("red things", "red things"), differ(None, "red")
    (True, False, False)
    """
    if explanation is None or not isinstance(text, str):
        return False
    said = explanation if isinstance(explanation, str) else explanation.text
    return said.split() != text.split()


def _lines(text: str) -> str:
    """Text with its blanks and line ends as blanks, and nothing invisible."""
    return visible(" ".join(text.split())) if text.strip() else ""

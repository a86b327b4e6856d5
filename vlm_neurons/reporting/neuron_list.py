"""The neurons of a report: which are shown, in which order, and their line in the list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.autointerp.protocols import Side
from vlm_neurons.autointerp.simulation import Simulation
from vlm_neurons.classification import clearest
from vlm_neurons.classification.thresholds import Thresholds, normalise
from vlm_neurons.evidence import Evidence, Exemplar
from vlm_neurons.reporting.run_results import LONGEST, Results, Score
from vlm_neurons.tokens import MODALITIES, NOT_APPLICABLE
from vlm_neurons.viz.wording import NAMES, decimals, number, share_words, shortened, site_name, small, visible

if TYPE_CHECKING:
    import pandas as pd

SECTIONS = ("scanned", "layers", "concepts", "thresholds", "scores", "neurons", "numbers", "made", "list", "filters")
_KINDS = {(True, False): "visual", (False, True): "text", (True, True): "multimodal", (False, False): "unknown"}
STRONGEST = 3  # samples of a neuron whose names and texts can be searched


@dataclass(frozen=True)
class Shown:
    """One neuron of the report.

    Attributes:
        neuron: its id.
        anchor: what stands behind `#` in its address; no two are the same.
        row: its row of the classification table; empty for evidence of something else, such as a probe.
        evidence: None where there is none.
        explanation: the last one.
        simulations: from that explanation, by side.
        scores: rows of the score table, of that explanation, one a side.
        earlier: which of these are left out for being of an earlier explanation, in words; `""` if none is.
        concepts: rows of the table of concepts, one a side.
    """

    neuron: str
    anchor: str
    row: dict[str, Any]
    evidence: Evidence | None
    explanation: Explanation | None
    simulations: Mapping[Side, Simulation]
    scores: Sequence[Score]
    earlier: str = ""
    concepts: Sequence[dict[str, Any]] = ()

    @property
    def told(self) -> list[Score]:
        """The scores as the page tells them: with what was left out among their notes; none where there is nothing."""
        found = []
        for score in self.scores or [{}] * bool(self.earlier):
            notes = [n for n in (score.get("note"), self.earlier) if isinstance(n, str) and n]
            found.append({**score, "note": "; ".join(notes)})
        return found

    @property
    def label(self) -> str:
        """Class; `"not_applicable"` where it has none."""
        found = self.row.get("label", self.evidence.label if self.evidence else None)
        return str(found) if found in MODALITIES else NOT_APPLICABLE


def choose(table: pd.DataFrame, results: Results, n: int) -> list[Shown]:
    """The clearest `n` of every site, pole and class, then those of it with an explanation or a score; at the end what
    is not in the table. Without evidence where `results` has none."""
    extra = set(results.neurons)
    rows: dict[str, dict[str, Any]] = {}
    for _, part in table.groupby(["site", "pole"], sort=False):
        for label in MODALITIES if part["label"].isin(MODALITIES).any() else (NOT_APPLICABLE,):
            more = part[part["neuron"].isin(extra) & (part["label"] == label)]
            for found in (clearest(part, label, n), clearest(more, label, len(more)), more):
                rows.update({r["neuron"]: r for r in found.to_dict("records") if r["neuron"] not in rows})
    ids = [*rows, *(name for name in results.neurons if name not in rows)]
    return [
        Shown(
            name, anchor, rows.get(name, {}), results.evidence.get(name), results.explanations.get(name),
            results.simulations.get(name, {}), results.scores.get(name, []), results.earlier.get(name, ""),
            results.concepts.get(name, []),
        )
        for name, anchor in zip(ids, anchors(ids), strict=True)
    ]  # fmt: skip


def with_evidence(shown: Iterable[Shown], found: Mapping[str, Evidence]) -> list[Shown]:
    """The same neurons; those of `found` get their strongest exemplars as evidence."""
    return [replace(s, evidence=_strongest(found[s.neuron])) if s.neuron in found else s for s in shown]


def _strongest(evidence: Evidence) -> Evidence:
    return replace(evidence, exemplars=tuple(e for e in evidence.exemplars if e.group == "top"))


def anchors(neurons: Sequence[str]) -> list[str]:
    """A name for each that is good in an address, whatever the neuron is called; its `file_name` is no other's.

    >>> anchors(["L3N17", "post:L3N17", "a b", "a_b", "layers"])
    ['L3N17', 'post:L3N17', 'a_b', 'a_b-2', 'layers-2']
    """
    taken, found = set(SECTIONS), []
    for neuron in neurons:
        plain = re.sub(r"[^A-Za-z0-9._:-]", "_", neuron)[:80].lstrip(".") or "_"
        name, count = plain, 2
        while file_name(name).lower() in taken:
            name, count = f"{plain}-{count}", count + 1
        taken.add(file_name(name).lower())
        found.append(name)
    return found


def file_name(anchor: str) -> str:
    """Name of a neuron's file, without ending."""
    return anchor.replace(":", "_")


def record(shown: Shown) -> dict[str, Any]:
    """All numbers about one neuron, as they stand in the JSON beside the page: of these the page shows some."""
    samples = shown.evidence.exemplars[:STRONGEST] if shown.evidence else ()
    return {
        "neuron": shown.neuron,
        **{name: value for name, value in shown.row.items() if name != "neuron"},
        "label": shown.label,
        "explanation": _explanation(shown.explanation),
        "scores": [{k: v for k, v in score.items() if k != "neuron"} for score in shown.scores],
        "earlier": shown.earlier,
        "concepts": [{k: v for k, v in row.items() if k not in shown.row} for row in shown.concepts],
        "samples": [{"id": e.seen.sample, "name": e.seen.name, "group": e.group, "split": e.split, "rank": e.rank,
                     "peak": e.peak} for e in samples],
    }  # fmt: skip


def _explanation(explanation: Explanation | None) -> dict[str, Any] | None:
    if explanation is None:
        return None
    failure = explanation.failure
    return {
        **{name: getattr(explanation, name) for name in ("text", "description", "confidence", "explainer", "model")},
        "failure": {"kind": failure.kind, "detail": failure.detail} if failure else None,
    }


def line(shown: Shown, numbers: dict[str, Any], href: str) -> dict[str, Any]:
    """A neuron's line in the list.

    Args:
        shown: the neuron.
        numbers: `record` of it.
        href: where its card is.
    """
    label, scores = shown.label, [score for score in shown.told if _is_number(score.get("r"))]
    best = max(scores, key=lambda score: float(score["r"]), default={})
    share = numbers.get(f"p_{label}")
    site = site_name(numbers["site"], numbers["pole"]) if "site" in numbers else "elsewhere"
    return {
        "neuron": visible(shown.neuron),
        "anchor": shown.anchor,
        "href": href,
        "site": visible(site).split(":")[0],
        "label": label,
        "words": NAMES.get(label, "no class"),
        "layer": numbers.get("layer", ""),
        "share": _cell(share, share_words),
        "peak": _cell(numbers.get("peak"), number),
        "explanation": _said(shown.explanation),
        "r": _cell(best.get("r"), decimals)[0],
        "null": _cell(best.get("r_null"), decimals)[0],
        "q": _cell(best.get("q"), small)[0],
        "scores": [_score(score, label == "multimodal" or len(shown.told) > 1) for score in shown.told or [{}]],
        "told": " ".join(_told(shown.explanation)),
        "samples": " ".join(_samples(shown)),
    }


def _said(explanation: Explanation | None) -> str:
    if explanation is None:
        return ""
    if explanation.failure:
        return f"failed: {explanation.failure.kind}"
    return shortened(visible(explanation.text), LONGEST) if explanation.text else ""


def _score(score: Score, many: bool) -> dict[str, str]:
    """A score as the list shows it, with its side where there may be many."""
    note = score.get("note")
    return {
        "side": str(score.get("side", "")) if many else "",
        "r": _cell(score.get("r"), decimals)[1],
        "interval": _interval(score),
        "null": _cell(score.get("r_null"), decimals)[1],
        "q": _cell(score.get("q"), small)[1],
        "note": visible(note) if isinstance(note, str) and note else "",
    }


def _is_number(value: Any) -> bool:
    return value is not None and value == value


def _cell(value: Any, words: Any) -> tuple[str, str]:
    """What the list sorts by, and what it shows; empty and a dash where there is no number."""
    return (f"{float(value):.6g}", words(float(value))) if _is_number(value) else ("", "–")


def _interval(score: Score) -> str:
    ends: list[Any] = [score.get("r_low"), score.get("r_high")]
    return f"[{', '.join(decimals(float(end)) for end in ends)}]" if all(map(_is_number, ends)) else ""


def _told(explanation: Explanation | None) -> Iterator[str]:
    """What the search finds of an explanation beside the words in the line."""
    if explanation:
        yield visible(explanation.description)
        if len(explanation.text) > LONGEST:
            yield visible(explanation.text)


def _samples(shown: Shown) -> Iterator[str]:
    """What the search finds of the strongest samples."""
    for e in shown.evidence.exemplars[:STRONGEST] if shown.evidence else ():
        yield visible(e.seen.name)
        yield visible("".join(t for t, is_text in zip(e.seen.tokens, e.seen.is_text, strict=True) if is_text))


def verdict(exemplar: Exemplar, peak: float, rule: Thresholds) -> str:
    """The class of a sample in words.

    Args:
        exemplar: a neuron on the sample.
        peak: the activation that is mapped to 10.
        rule: the thresholds.
    """
    sees = sum(_over(p, peak, rule.t_visual) for p in exemplar.patch_acts)
    reads = _over(exemplar.token_acts[exemplar.scored_tokens(sinks=True)], peak, rule.t_text)
    label = _KINDS[sees >= rule.n_visual, reads >= rule.n_text]
    patches, tokens = "patch" if sees == 1 else "patches", "token" if reads == 1 else "tokens"
    return f"{NAMES[label]} sample: {sees} {patches}, {reads} {tokens} above threshold"


def _over(values: Float[np.ndarray, "*n"], peak: float, threshold: float) -> int:
    """How many activations exceed a threshold, by the arithmetic of `classify`."""
    scaled = normalise(torch.from_numpy(values.astype(np.float32)).reshape(1, -1), torch.tensor([peak]))
    return int((scaled > threshold).sum())

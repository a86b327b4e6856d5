"""From evidence to a chat request; the words are in `prompts/*.jinja`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from vlm_neurons.autointerp.client import prompting
from vlm_neurons.autointerp.client.prompting import escape, fence, image_part, text_part
from vlm_neurons.autointerp.explainers.pictures import STYLES, Style, named, panel, written

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar

VERSION = "3"
WRITTEN = " without pictures"
MAX_TOKENS = 80  # of each sample, around the strongest


class Answer(BaseModel):
    """What a model has to answer.

    Attributes:
        phrase: one short phrase.
        description: a sentence or two.
        confidence: in [0, 1].
        clear_pattern: False where there is none.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    phrase: str
    description: str
    confidence: float
    clear_pattern: bool

    @field_validator("phrase")
    @classmethod
    def _short(cls, phrase: str) -> str:
        if not phrase.strip() or len(phrase) > 300:
            raise ValueError("a phrase of 1 to 300 characters")
        return " ".join(phrase.split())

    @field_validator("confidence")
    @classmethod
    def _chance(cls, confidence: float) -> float:
        if not 0 <= confidence <= 1:
            raise ValueError("confidence from 0 to 1")
        return confidence


def prompt_id(written: bool = False) -> str:
    """Version and SHA-256 of all prompt files; with `WRITTEN` behind it where pictures were written out."""
    return prompting.prompt_id("vlm_neurons.autointerp.explainers", VERSION) + WRITTEN * written


def render(template: str, **values: Any) -> str:
    """Text of one prompt file."""
    return prompting.render("vlm_neurons.autointerp.explainers", template, **values)


def shown(evidence: Evidence, n_on: int, n_off: int) -> tuple[list[Exemplar], list[Exemplar]]:
    """The strongest exemplars of the split `"explain"`, and random ones of it for contrast."""
    split = evidence.split("explain")
    return [e for e in split if e.group == "top"][:n_on], [e for e in split if e.group == "random"][:n_off]


def shows_something(evidence: Evidence, n_on: int, n_off: int) -> bool:
    """Whether a request would show any activation above 0, on the sides that the neuron's kind of prompt has."""
    kind = evidence.kind
    for e in (one for group in shown(evidence, n_on, n_off) for one in group):
        if kind != "text" and any(np.nan_to_num(evidence.scale(p)).max(initial=0) > 0 for p in e.patch_acts):
            return True
        if kind != "visual" and (evidence.scale(e.token_acts)[e.scored_tokens()] > 0).any():
            return True
    return False


def messages(
    evidence: Evidence,
    n_on: int = 8,
    n_off: int = 3,
    style: Style = "paper",
    detail: str = "auto",
    pictures: bool = True,
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """A request in the form of chat completions, and the ids of the samples in it.

    Pictures are PNG in `data:` addresses, or written out (`pictures.written`). Tokens are escaped and
    fenced with a mark that no sample contains.
    """
    kind = evidence.kind
    on, off = shown(evidence, n_on, n_off)
    mark = fence("".join(e.seen.tokens) for e in [*on, *off])
    parts: list[dict[str, Any]] = [text_part(render(kind, n_off=len(off), style=STYLES[style], pictures=pictures))]
    for number, e in enumerate([*on, *off], 1):
        if kind != "text":
            for i, patches in enumerate(e.patch_acts):
                scaled = np.nan_to_num(evidence.scale(patches))
                if pictures:
                    name = f"picture {number}" + (f", image {i + 1} of {len(e.patch_acts)}" if e.patch_acts[1:] else "")
                    sheet = named(panel(e.seen, i, scaled, style), name)
                    parts += [text_part(f"{name.capitalize()} (sample {number}):"), image_part(sheet, detail)]
                else:
                    parts.append(text_part(render("written", number=number, **written(e.seen, i, scaled))))
        if kind != "visual" and e.scored_tokens(sinks=True).any():
            rows, left_out = _rows(evidence, e)
            parts.append(text_part(render("tokens", fence=mark, number=number, off=number > len(on), rows=rows,
                                      left_out=left_out)))  # fmt: skip
    system = {"role": "system", "content": render("system", fence=mark)}
    return [system, {"role": "user", "content": parts}], tuple(e.seen.sample for e in [*on, *off])


def _rows(evidence: Evidence, e: Exemplar) -> tuple[list[tuple[str, int]], int]:
    """(token, 0-10) of the response, at most `MAX_TOKENS` of it around the strongest, and how many come before."""
    keep = np.flatnonzero(e.scored_tokens(sinks=True))
    values = np.where(e.seen.token_sinks[keep], 0, evidence.scale(e.token_acts[keep]))
    start = int(np.clip(values.argmax() - MAX_TOKENS // 2, 0, max(0, len(keep) - MAX_TOKENS)))
    window = range(start, min(start + MAX_TOKENS, len(keep)))
    return [(escape(e.seen.tokens[keep[i]]), round(float(values[i]))) for i in window], start

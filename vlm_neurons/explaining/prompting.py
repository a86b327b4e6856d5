"""From evidence to a chat request; the words are in `prompts/*.jinja`."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from vlm_neurons.explaining.overlays import STYLES, Style, panel

if TYPE_CHECKING:
    from PIL import Image

    from vlm_neurons.evidence import Evidence, Exemplar

VERSION = "1"
Kind = Literal["visual", "text", "multimodal"]
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


@cache
def prompt_id() -> str:
    """Version and SHA-256 of all prompt files."""
    folder = files("vlm_neurons.explaining").joinpath("prompts")
    total = hashlib.sha256()
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".jinja"):
            total.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"{VERSION} {total.hexdigest()}"


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("vlm_neurons.explaining", "prompts")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=False)


def render(template: str, **values: Any) -> str:
    """Text of one prompt file."""
    return str(_environment().get_template(f"{template}.jinja").render(**values))


def kind_of(evidence: Evidence) -> Kind:
    """Which prompt a neuron gets: by its class, or else by the sides on which it reaches a tenth of its peak."""
    if evidence.label in ("visual", "text", "multimodal"):
        return evidence.label  # type: ignore[return-value]
    shown = evidence.split("explain")
    image = any(np.nan_to_num(evidence.scale(p)).max(initial=0) >= 1 for e in shown for p in e.patches)
    text = any((evidence.scale(e.values)[e.scored_tokens()] >= 1).any() for e in shown)
    return "multimodal" if image and text else "text" if text else "visual"


def shown(evidence: Evidence, n_on: int, n_off: int) -> tuple[list[Exemplar], list[Exemplar]]:
    """The strongest exemplars of the split `"explain"`, and random ones of it for contrast."""
    split = evidence.split("explain")
    return [e for e in split if e.group == "top"][:n_on], [e for e in split if e.group == "random"][:n_off]


def messages(
    evidence: Evidence, n_on: int = 8, n_off: int = 3, style: Style = "paper", detail: str = "auto"
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """A request in the form of chat completions, and the ids of the samples in it.

    Pictures are PNG in `data:` addresses. Tokens are escaped and fenced with a mark that no sample contains.
    """
    kind = kind_of(evidence)
    on, off = shown(evidence, n_on, n_off)
    fence = _fence([*on, *off])
    parts: list[dict[str, Any]] = [_text(render(kind, n_off=len(off), style=STYLES[style]))]
    for number, e in enumerate([*on, *off], 1):
        if kind != "text":
            for i, patches in enumerate(e.patches):
                picture = panel(e.seen, i, np.nan_to_num(evidence.scale(patches)), style)
                parts += [_text(f"Sample {number}:"), image_part(picture, detail)]
        if kind != "visual" and e.scored_tokens(sinks=True).any():
            rows, left_out = _rows(evidence, e)
            parts.append(_text(render("tokens", fence=fence, number=number, off=number > len(on), rows=rows,
                                      left_out=left_out)))  # fmt: skip
    system = {"role": "system", "content": render("system", fence=fence)}
    return [system, {"role": "user", "content": parts}], tuple(e.seen.sample for e in [*on, *off])


def _rows(evidence: Evidence, e: Exemplar) -> tuple[list[tuple[str, int]], int]:
    """(token, 0-10) of the response, at most `MAX_TOKENS` of it around the strongest, and how many come before."""
    keep = np.flatnonzero(e.scored_tokens(sinks=True))
    values = np.where(e.seen.token_sinks[keep], 0, evidence.scale(e.values[keep]))
    start = int(np.clip(values.argmax() - MAX_TOKENS // 2, 0, max(0, len(keep) - MAX_TOKENS)))
    window = range(start, min(start + MAX_TOKENS, len(keep)))
    return [(escape(e.seen.tokens[keep[i]]), round(float(values[i]))) for i in window], start


def escape(token: str) -> str:
    r"""A token on one line, without tabs and characters that cannot be seen.

    >>> escape("a\tb\nc")
    'a\\tb\\nc'
    """
    plain = token.replace("\\", "\\\\")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def _fence(exemplars: list[Exemplar]) -> str:
    """A mark that is the same for the same samples, and in none of them."""
    text = "\0".join("".join(e.seen.tokens) for e in exemplars)
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    while mark in text:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:12]
    return f"-----{mark}"


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(image: Image.Image, detail: str = "auto") -> dict[str, Any]:
    """A picture as a part of a message."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}

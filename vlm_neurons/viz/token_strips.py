"""Tokens coloured by activation: in our own words, and in the form that circuitsvis takes.

circuitsvis writes tokens into the page as HTML, so that `<s>` vanishes and a crafted token would run; it hides every
token if one value is NaN or all are 0. What is handed to it here is proof against that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlm_neurons.tokens import TokenKind
from vlm_neurons.viz.card_content import an_evidence
from vlm_neurons.viz.colours import share_of
from vlm_neurons.viz.wording import joints, number, shortened, visible

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence, Exemplar, Seen

JOINER = "\u2060"  # has no width; after `<` and `&` it keeps a browser from reading a tag or a character's code
IMAGE = "<image>"
ORANGE = (0xE6, 0x9F, 0x00)
MOST = 400  # tokens that one strip shows
LONGEST = 200  # characters of a token


@dataclass(frozen=True)
class Cell:
    """A token as it is shown.

    Attributes:
        text: what stands there.
        index: its place in `seen.tokens`; -1 for the place of an image.
        title: its value in words.
        color: of its ground; `""` for white.
        kind: CSS classes: `"template"`, `"sink"`, `"image"`.
        joined: no line may break before it.
        newline: a line ends after it.
    """

    text: str
    index: int
    title: str
    color: str
    kind: str
    joined: bool
    newline: bool


@dataclass(frozen=True)
class Strip:
    """The tokens of an exemplar under one series of values.

    Attributes:
        name: of the series: `"real"` or `"simulated"`.
        cells: the tokens in order, with a mark where each image stands.
        values: of every token of the exemplar, for the script: numbers and blanks, `-` for none.
        top: end of the colour scale.
        more: tokens that are left out at the end.
    """

    name: str
    cells: tuple[Cell, ...]
    values: str
    top: str
    more: int


def strip(seen: Seen, values: Float[np.ndarray, "token"], top: float, name: str = "real") -> Strip:
    """The tokens of a sample, coloured where they count: tokens of the template and sinks have a value alone.

    Args:
        seen: the sample.
        values: one for each of its tokens, NaN for none.
        top: end of the colour scale, which begins at 0.
        name: of the series.
    """
    share = share_of(np.asarray(values, float), top)
    joined = joints(seen.tokens)
    every = list(_in_order(seen))
    cells = [
        _image_cell(-1 - index) if index < 0 else _cell(seen, index, float(values[index]), share[index], joined[index])
        for index in every[:MOST]
    ]
    return Strip(name, tuple(cells), plain(values), f"{top:.4g}", len(every) - len(cells))


def plain(values: Float[np.ndarray, "*n"]) -> str:
    """Numbers as the script reads them.

    >>> plain(np.array([1.23456, np.nan, -0.0]))
    '1.235 - 0'
    """
    return " ".join("-" if v != v else f"{round(v, 3) + 0.0:.4g}" for v in np.asarray(values, float).ravel().tolist())


def safe(token: str) -> str:
    """A token that circuitsvis shows as it reads: nothing vanishes, nothing runs.

    >>> safe("<s>").replace(JOINER, "|"), safe("\\n"), safe("&amp;").replace(JOINER, "|")
    ('<|s>', '↵', '&|amp;')
    """
    return visible(token).replace("<", f"<{JOINER}").replace("&", f"&{JOINER}")


def to_circuitsvis(evidence: Evidence | Sequence[Evidence], sample: int | None = None) -> dict[str, Any]:
    """One sample of a neuron in the form that functions of circuitsvis take.

    Tokens are changed only where circuitsvis would lose or run them: an invisible U+2060 stands after `<` and `&`,
    newlines and blanks of their own are shown by a sign. A token without value has 0. The bounds are explicit and
    symmetric, as circuitsvis shows nothing at all where it has to find them among zeros.

    Args:
        evidence: one neuron, for `colored_tokens`; or up to five that saw the sample, for `colored_tokens_multi`.
        sample: id of the sample, one of the evidence's; by default that of the first exemplar.

    Returns:
        Keyword arguments. One neuron: `tokens` (list of str, `"<image>"` where an image stands), `values` [token]
        (raw activations, rounded to 3 decimals), `min_value`, `max_value`. Several: `tokens`, `values` [token, neuron]
        (torch), `labels` (their names).

    Raises:
        TypeError: something that is no evidence.
        ValueError: no such sample, or one that a neuron did not see; no exemplars; no text; more than five neurons.

    >>> from circuitsvis.tokens import colored_tokens
    >>> import vlm_neurons as vn
    >>> evidence = vn.Evidence.from_arrays("probe", tokens=[["<s>", " cat"]], token_acts=[np.array([0.0, 2.0])])
    >>> vn.to_circuitsvis(evidence)["values"]
    [0.0, 2.0]
    >>> html = colored_tokens(**vn.to_circuitsvis(evidence))
    """
    several = isinstance(evidence, Sequence) and not isinstance(evidence, str)
    neurons = [an_evidence(one) for one in (evidence if several else [evidence])]  # type: ignore[union-attr]
    if not 1 <= len(neurons) <= 5:
        raise ValueError(f"{len(neurons)} neurons: circuitsvis shows one to five series of values well")
    exemplars = [_exemplar(one, sample) for one in neurons]
    seen = exemplars[0].seen
    if any(e.seen.sample != seen.sample or e.seen.tokens != seen.tokens for e in exemplars):
        raise ValueError("the neurons have different first samples; pass sample= with one that all of them saw")
    order = list(_in_order(seen))
    if not seen.tokens:
        raise ValueError(f"sample {seen.sample} ({seen.name}) has no text; circuitsvis shows tokens only")
    tokens = [safe(IMAGE if i < 0 else seen.tokens[i]) for i in order]
    series = [[0.0 if i < 0 else _finite(float(e.token_acts[i])) for i in order] for e in exemplars]
    if several:
        import torch

        # rounding may leave nothing but zeros, and then circuitsvis divides by their maximum
        values = torch.tensor(series).T.contiguous()
        values[0, values.abs().amax(0) == 0] = 1e-6
        return {"tokens": tokens, "values": values, "labels": [safe(one.neuron) for one in neurons]}
    top = max((abs(v) for v in series[0]), default=0.0) or 1.0
    return {"tokens": tokens, "values": series[0], "min_value": -top, "max_value": top}


def _exemplar(evidence: Evidence, sample: int | None) -> Exemplar:
    found = [e for e in evidence.exemplars if sample is None or e.seen.sample == sample]
    if not found:
        raise ValueError(
            f"{evidence.neuron} has no exemplars"
            if sample is None
            else f"{evidence.neuron} has no exemplar of sample {sample}; e.exemplars lists those it has"
        )
    return found[0]


def _in_order(seen: Seen) -> Iterator[int]:
    """Places of the tokens; -1 - i where image i stands."""
    for index in range(len(seen.tokens) + 1):
        for image, place in enumerate(seen.places):
            if place == index:
                yield -1 - image
        if index < len(seen.tokens):
            yield index


def _image_cell(image: int) -> Cell:
    return Cell(IMAGE, -1, f"image {image + 1} stands here", "", "image", False, False)


def _cell(seen: Seen, index: int, value: float, share: float, joined: bool) -> Cell:
    token = seen.tokens[index]
    template, sink = seen.kinds[index] != int(TokenKind.TEXT), bool(seen.token_sinks[index])
    words = "no value" if value != value else number(value)
    words += f"; the first of its {len(token):,} characters" if len(token) > LONGEST else ""
    words += "; template, not counted" if template else ""
    words += "; draws activation whatever the content (sink), not counted" if sink else ""
    warm = 0.0 if template or sink else share  # the caption does not count it either
    color = "#{:02x}{:02x}{:02x}".format(*(round(255 + (c - 255) * warm) for c in ORANGE))
    kind = " ".join([*(["template"] if template else []), *(["sink"] if sink else [])])
    return Cell(
        visible(shortened(token, LONGEST)), index, words, "" if color == "#ffffff" else color, kind, joined,
        "\n" in token,
    )  # fmt: skip


def _finite(value: float) -> float:
    return 0.0 if not np.isfinite(value) else round(value, 3) + 0.0

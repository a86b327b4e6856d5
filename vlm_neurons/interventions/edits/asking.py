"""From an explanation's words to the edits that test it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from vlm_neurons._checks import short
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.naming import Alternative, Named, named
from vlm_neurons.interventions.edits import generated, photographs
from vlm_neurons.interventions.edits.pixels import check_inpainting
from vlm_neurons.interventions.edits.rendered import KIND_OF
from vlm_neurons.interventions.edits.trials import Wanted
from vlm_neurons.protocols import SIDES, Side
from vlm_neurons.synthetic.editing import OF_THINGS

WORDS = ("word", "class", "after", "before")  # kinds of lexical concepts that words can be exchanged for
EDITS: dict[Side, tuple[str, ...]] = {"picture": (*KIND_OF, "object", *photographs.EDITS), "text": ("replace", "word")}


def check_edits(edits: Any, generate: Any) -> None:
    """Refuse kinds of edits that are none, or cannot be made.

    Args:
        edits: as `vn.input_effects` is given them.
        generate: likewise.

    Raises:
        ImportError: `"inpaint"` without scikit-image.
        TypeError: `generate` is no function.
        ValueError: `edits` is no list of kinds of edits.
    """
    if generate is not None and not callable(generate):
        raise TypeError(f"generate={short(generate)}: give a function from a prompt to a picture (PIL)")
    known = [
        *(edit for side in SIDES for edit in EDITS[side]),
        photographs.SLOW,
        *([generated.EDIT] if generate is not None else []),
    ]
    if isinstance(edits, str) or not isinstance(edits, Collection | None):
        raise ValueError(f"edits={short(edits)}: give a list, such as {known[:1]}, of {', '.join(known)}")
    if unknown := [str(edit) for edit in edits or () if edit not in known]:
        raise ValueError(f"edits={', '.join(unknown)}: choose from {', '.join(known)}")
    if photographs.SLOW in (edits or ()):
        check_inpainting()


def asked(explanation: str, boxed: str | None = None) -> tuple[list[Wanted], str]:
    """The edits that an explanation asks for, and what of it no edit tests.

    Args:
        explanation: in words.
        boxed: the neuron, where boxes say which regions of pictures its words name; whatever the words are.

    >>> wanted, untested = asked("small red circles; the word 'red'")
    >>> [one.edit for one in wanted], wanted[0].named
    (['repaint', 'reshape', 'resize', 'object', 'replace', 'word'],
     ((('color', 'red'), ('shape', 'circle'), ('size', 'small')),))
    >>> asked("horizontal edges of red regions")[1]
    'not edited: edge:horizontal'
    """
    if says_nothing(explanation):
        return [], "the explanation names nothing"
    read = named(explanation)
    if boxed is not None:
        colors = [(c.kind, c.value) for one in read.visual for c in one.concepts if c.kind == "color" and _drawn(c)]
        region = (("region", boxed), *dict.fromkeys(colors))
        return [
            *(Wanted("picture", edit, (region,)) for edit in (*photographs.EDITS, photographs.SLOW)),
            *_said(read),
        ], ""
    wanted = [*_seen(read), *_said(read)]
    untested = [f"no concept for {', '.join(read.unknown)}"] if read.unknown else []
    untested += [f"not edited: {name}" for name in dict.fromkeys(_untested(read))]
    if any(c.kind == "before" for one in read.text for c in one.concepts):
        untested.append("what stands before a word does not see it")
    if read.together and wanted:
        untested.append("one side is edited while the other stays")
    return wanted, "; ".join(untested)


def _seen(read: Named) -> Iterator[Wanted]:
    alternatives = []
    for one in read.visual:
        pairs = tuple(sorted((c.kind, c.value) for c in one.concepts if c.kind in OF_THINGS and _drawn(c)))
        if not one.negated and (pairs or any(c.kind == "object" for c in one.concepts)):
            alternatives.append(pairs)
    every = tuple(dict.fromkeys(alternatives))
    for edit, kind in KIND_OF.items():
        if any(kind in dict(one) for one in every):
            yield Wanted("picture", edit, every)
    if every:
        yield Wanted("picture", "object", every)


def _said(read: Named) -> Iterator[Wanted]:
    every = tuple(
        dict.fromkeys(
            ((c.kind, c.value),) for a in read.text if not a.negated for c in a.concepts[:1] if c.kind in WORDS
        )
    )
    if every:
        for edit in EDITS["text"]:
            yield Wanted("text", edit, every)


def _drawn(concept: Concept) -> bool:
    """Whether objects of scenes can have it: they are never gray."""
    return concept.value in OF_THINGS[concept.kind]


def _untested(read: Named) -> Iterator[str]:
    alternatives: tuple[Alternative, ...] = (*read.visual, *read.text)
    for one in alternatives:
        if one.negated:
            yield "what is negated"
        for c in one.concepts:
            if not (c.kind in WORDS or c.kind == "object" or (c.kind in OF_THINGS and _drawn(c))):
                yield c.name.rstrip(":")

"""From words to concepts: what an explanation names, of what the banks know."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from vlm_neurons.concepts.concept import Concept
from vlm_neurons.concepts.lexical import CLASSES
from vlm_neurons.concepts.lexical import words as _words
from vlm_neurons.concepts.visual import COLORS
from vlm_neurons.synthetic.scene import COLUMNS, ROWS, SHAPES, SIZES

TOGETHER = ", where the image shows them, and "  # both sides have to be there
_NOT = re.compile(r"^(anything|everything|all) (but|except) ")
_PLACE = re.compile(rf"\bat the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b(?! of)")
_POSITIONS = ("top", "bottom", "left side", "right side", "center", "edge", "corners")
_POSITION = re.compile(rf"\b(?:(?:at|in|on) )?the ({'|'.join(_POSITIONS)}) of the (?:image|picture)\b")
_EDGE = re.compile(r"\b(?:(horizontal|vertical|diagonal) )?edges?\b")
_EDGES = re.compile(r"\b(?:(horizontal|vertical|diagonal) )?edges\b")
_FILLERS = _words(
    "a an any the of in at on with are is that which colored coloured region regions area areas patch patches place "
    "places part parts thing things image images picture pictures presence"
)
_PLAIN: dict[str, tuple[Concept, ...]] = {
    "object": (Concept("object", ""),),
    **{c: (Concept("color", c),) for c in COLORS},
    "grey": (Concept("color", "gray"),),
    **{s: (Concept("shape", s),) for s in SHAPES},
    **{s: (Concept("size", s),) for s in SIZES},
    **{b: (Concept("brightness", b),) for b in ("bright", "dark")},
    **{t: (Concept("texture", t),) for t in ("textured", "smooth")},
}
_QUOTED = r"['\"‘’“”]?([^'\"‘’“”]+?)['\"‘’“”]?"
_ABOUT_WORDS = re.compile(r"\b(words?|punctuation|mark|capitali[sz]ed)\b")
_LEXICAL = (
    (re.compile(r"punctuation( marks)?", re.I), lambda m: Concept("punctuation", "any")),
    (re.compile(rf"the mark {_QUOTED}", re.I), lambda m: Concept("punctuation", m[1])),
    (re.compile(r"capitali[sz]ed words", re.I), lambda m: Concept("capital", "")),
    (re.compile(r"the (first word of (?:a sentence|the text))", re.I), lambda m: Concept("position", m[1])),
    (re.compile(r"(?:the )?words? for (.+)", re.I), lambda m: Concept("class", m[1])),
    (re.compile(rf"words? (after|before) {_QUOTED}", re.I), lambda m: Concept(m[1].lower(), m[2])),
    (re.compile(rf"the word {_QUOTED}", re.I), lambda m: Concept("word", m[1])),
)
_QUALIFIED = re.compile(rf"(the word {_QUOTED}) ((?:after|before) {_QUOTED})", re.I)


STRENGTHS = (("", 1.0), ("less strongly: ", 0.5), ("weakly: ", 0.25))  # how it is said -> share of the strongest


def weighed(phrase: str, weight: float) -> str:
    """A phrase with its weight in words; 1 is that of the strongest.

    >>> weighed("red regions", 0.9), weighed("orange regions", 0.4)
    ('red regions', 'less strongly: orange regions')
    """
    words, _ = min(STRENGTHS, key=lambda one: abs(np.log2(max(weight, 1e-9) / one[1])))
    return words + phrase


def strength_of(part: str) -> tuple[str, float]:
    """The phrase of a part of an explanation, and its weight.

    >>> strength_of("less strongly: orange regions")
    ('orange regions', 0.5)
    """
    for words, strength in STRENGTHS[1:]:
        if part.lower().startswith(words):
            return part[len(words) :], strength
    return part, 1.0


@dataclass(frozen=True)
class Alternative:
    """Concepts that hold together.

    Attributes:
        concepts: none stands for everything.
        negated: everything but where they hold.
        strength: of what a neuron does there, as a share of what it does for the strongest.
    """

    concepts: tuple[Concept, ...]
    negated: bool = False
    strength: float = 1.0


@dataclass(frozen=True)
class Named:
    """What an explanation names.

    Attributes:
        visual: alternatives in pictures.
        text: alternatives in words.
        together: the sides have to be there both.
        unknown: words that no bank has, so that the explanation is understood in part at best.
    """

    visual: tuple[Alternative, ...] = ()
    text: tuple[Alternative, ...] = ()
    together: bool = False
    unknown: tuple[str, ...] = ()

    @cached_property
    def regions(self) -> tuple[Alternative, ...]:
        """Alternatives in pictures; of an explanation that names words alone, what these say."""
        return self.visual or tuple(r for a in self.text for r in regions_of(a))

    @cached_property
    def words(self) -> tuple[Alternative, ...]:
        """Alternatives in words; of an explanation that names regions alone, the words that say them."""
        return self.text or tuple(w for a in self.visual for w in words_of(a))


@lru_cache(maxsize=4096)  # an explanation is asked of many samples
def named(explanation: str) -> Named:
    """Read an explanation. Alternatives stand between semicolons, with "less strongly:" or "weakly:" before some.

    >>> named("red circles; the word 'red'").visual[0].concepts
    (Concept(kind='color', value='red'), Concept(kind='shape', value='circle'))
    >>> named("dogs in snow").unknown
    ('dogs', 'snow')
    """
    text = " ".join(explanation.strip().rstrip(".").split())
    together = TOGETHER in text
    visual, lexical, unknown = [], [], []
    for part in (text.replace(TOGETHER, ";") if together else text).split(";"):
        part = part.strip()
        if not part:
            continue
        part, strength = strength_of(part)
        negated = bool(match := _NOT.match(part.lower()))
        rest = part[match.end() :] if match else part
        concepts = _lexical(rest)
        if concepts is not None:
            lexical.append(Alternative(concepts, negated, strength))
            continue
        found, odd = _visual(rest)
        if odd:
            unknown += odd
        else:
            visual.append(Alternative(found, negated, strength))
    return Named(tuple(visual), tuple(lexical), together, tuple(unknown))


def _lexical(text: str) -> tuple[Concept, ...] | None:
    """Concepts of an alternative about words; None if it is not one that is understood."""
    if text.lower() in ("all words", "any word", "words"):
        return ()
    if match := _QUALIFIED.fullmatch(text):
        return (*_known(match[1]), *_known(f"words {match[3]}")) or None
    parts = [_known(p) for p in text.split(" that are also ")]
    return tuple(c for p in parts for c in p) if all(parts) else None


def _known(text: str) -> tuple[Concept, ...]:
    """The concept of one phrase of `words_for`; empty if there is none."""
    if text.lower() in CLASSES:
        return (Concept("class", text.lower()),)
    for pattern, make in _LEXICAL:
        if match := pattern.fullmatch(text):
            concept = make(match)
            if concept.kind == "class" and concept.value not in CLASSES:
                return ()
            return (Concept(concept.kind, concept.value.lower()),)
    return ()


def _visual(text: str) -> tuple[tuple[Concept, ...], list[str]]:
    """Concepts of an alternative about pictures, and the words that are none."""
    text = text.lower()
    if _ABOUT_WORDS.search(text):
        return (), [text]
    concepts: list[Concept] = []
    for pattern, kind in ((_PLACE, "place"), (_POSITION, "position"), (_EDGES, "edge")):
        for match in pattern.finditer(text):
            concepts.append(Concept(kind, " ".join(part or "" for part in match.groups())))
        text = pattern.sub(" ", text)
    concepts += [Concept("edge", match[1] or "") for match in _EDGE.finditer(text)]
    text = _EDGE.sub(" ", text)
    odd = []
    for word in re.findall(r"[^\s,.'\"]+", text):
        plain = next((w for w in (word, word.removesuffix("s"), word.removesuffix("es")) if w in _PLAIN), None)
        if plain:
            concepts += _PLAIN[plain]
        elif word not in _FILLERS:
            odd.append(word)
    for kind in ("color", "shape", "size"):
        if len(both := {c.value for c in concepts if c.kind == kind}) > 1:
            odd.append(f"{' that is '.join(sorted(both))} (alternatives stand between semicolons)")
    return tuple(dict.fromkeys(concepts)), odd


def words_of(alternative: Alternative) -> tuple[Alternative, ...]:
    """A visual alternative as words that say it: red regions as the word 'red'. None where no word would."""
    said = [c.value for c in alternative.concepts if c.kind in ("color", "shape", "size")]
    if alternative.negated:
        return ()
    strength = alternative.strength
    return tuple(Alternative((Concept("word", w),), False, strength) for v in said for w in (v, f"{v}s"))


def regions_of(alternative: Alternative) -> tuple[Alternative, ...]:
    """A lexical alternative as regions of what it says: the word 'red' as red regions. None where there is none."""
    if alternative.negated or len(alternative.concepts) != 1:
        return ()
    (concept,) = alternative.concepts
    values: tuple[str, ...] = ()
    if concept.kind == "word":
        values = (concept.value, concept.value.removesuffix("s"))
    elif concept.kind == "class" and concept.value == "shapes":
        values = ("object",)
    found = [_PLAIN[v] for v in values if v in _PLAIN]
    return (Alternative(found[0], False, alternative.strength),) if found else ()

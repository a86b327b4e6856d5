"""What is said about scenes: descriptions, questions with answers, and lines without a picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vlm_neurons.synthetic.scene import COLORS, COLUMNS, ROWS, SHADES, SHAPES, SIZES, TEXTURES, Scene, Thing

DESCRIBE = "Could you describe the image?"
DESCRIBE_ALSO = ("Describe the image.", "What do you see?")
BRIEF = "Describe the image briefly."

WORD_CLASSES: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "place": ROWS + COLUMNS,
    "texture": TEXTURES,
    "shade": SHADES,
}
CLASS_OF_WORD = {word: kind for kind, words in WORD_CLASSES.items() for word in words}

_OBJECT = re.compile(rf"a (?P<size>{'|'.join(SIZES)}) (?P<color>{'|'.join(COLORS)}) (?P<shape>{'|'.join(SHAPES)})")
_PLACE = re.compile(
    rf"the (?P<color>{'|'.join(COLORS)}) (?P<shape>{'|'.join(SHAPES)}) is at the "
    rf"(?P<row>{'|'.join(ROWS)}) (?P<column>{'|'.join(COLUMNS)})\."
)
_GROUND = re.compile(rf"the background is (?P<shade>{'|'.join(SHADES)}) and (?P<texture>{'|'.join(TEXTURES)})\.")


@dataclass(frozen=True)
class Dialogue:
    """One or more turns about one picture, or about none.

    Attributes:
        turns: (prompt, response) pairs.
        kinds: what each turn asks: `"describe"`, `"brief"`, `"color"`, `"shape"`, `"size"`, `"where"`, `"exists"`,
            `"count"` or `"text"`.
    """

    turns: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]


def name(thing: Thing) -> str:
    """`"a large red circle"`."""
    return f"a {thing.size} {thing.color} {thing.shape}"


def brief(scene: Scene) -> str:
    """`"a large red circle and a small blue ring."`."""
    return " and ".join(name(t) for t in scene.things) + "."


def description(scene: Scene) -> str:
    """The full description: objects in reading order, a sentence on each place, the background."""
    places = [f"the {t.color} {t.shape} is at the {t.place}." for t in scene.things]
    return " ".join([brief(scene), *places, f"the background is {scene.shade} and {scene.texture}."])


def read_description(text: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Read a description back, however badly a model wrote it.

    Returns:
        One dictionary (size, color, shape, place) per object that the first sentence names, with place `""` where no
        sentence gives it; and the background (shade, texture), empty if it is not named.
    """
    first = text.split(".")[0]
    things = [m.groupdict() for m in _OBJECT.finditer(first)]
    places = {(m["color"], m["shape"]): f"{m['row']} {m['column']}" for m in _PLACE.finditer(text)}
    for thing in things:
        thing["place"] = places.get((thing["color"], thing["shape"]), "")
    ground = _GROUND.search(text)
    return things, ground.groupdict() if ground else {}


def facts(scene: Scene) -> tuple[list[dict[str, str]], dict[str, str]]:
    """What `read_description` finds in a perfect description."""
    things = [{"size": t.size, "color": t.color, "shape": t.shape, "place": t.place} for t in scene.things]
    return things, {"shade": scene.shade, "texture": scene.texture}


def questions(scene: Scene, rng: np.random.Generator, kinds: tuple[str, ...]) -> Dialogue:
    """One question of each kind, each about an object drawn at random."""
    turns, asked = [], []
    for kind in kinds:
        turn = _question(scene, rng, kind)
        if turn is not None:
            turns.append(turn)
            asked.append(kind)
    return Dialogue(tuple(turns), tuple(asked))


QUESTION_KINDS = ("color", "shape", "size", "where", "exists", "count")


def _question(scene: Scene, rng: np.random.Generator, kind: str) -> tuple[str, str] | None:
    """Ask about one object; None where the scene makes the question ambiguous."""
    thing = scene.things[rng.integers(len(scene.things))]
    same_shape = sum(t.shape == thing.shape for t in scene.things)
    same_color = sum(t.color == thing.color for t in scene.things)
    match kind:
        case "color":
            return None if same_shape > 1 else (f"What color is the {thing.shape}?", f"{thing.color}.")
        case "shape":
            return None if same_color > 1 else (f"What shape is the {thing.color} object?", f"{thing.shape}.")
        case "size":
            return f"What size is the {thing.color} {thing.shape}?", f"{thing.size}."
        case "where":
            return f"Where is the {thing.color} {thing.shape}?", f"{thing.place}."
        case "count":
            return "How many objects are there?", "two." if len(scene.things) == 2 else "one."
        case "exists":
            return _exists(scene, rng, thing)
    raise ValueError(f"unknown kind of question {kind!r}: choose from {', '.join(QUESTION_KINDS)}")


def _exists(scene: Scene, rng: np.random.Generator, thing: Thing) -> tuple[str, str]:
    """Half of the answers are yes; half of the false questions recombine what the scene itself shows."""
    color, shape = thing.color, thing.shape
    if rng.random() < 0.5:
        return f"Is there a {color} {shape}?", "yes."
    pairs = {(t.color, t.shape) for t in scene.things}
    own = [(a.color, b.shape) for a in scene.things for b in scene.things if (a.color, b.shape) not in pairs]
    if own and rng.random() < 0.5:
        color, shape = own[rng.integers(len(own))]
    while (color, shape) in pairs:
        color, shape = rng.choice(list(COLORS)), rng.choice(SHAPES)
    return f"Is there a {color} {shape}?", "no."


def text_line(rng: np.random.Generator) -> Dialogue:
    """A dialogue without a picture: what a word means, or a question about a sentence."""
    if rng.random() < 0.4:
        word = rng.choice(list(CLASS_OF_WORD))
        return Dialogue(((f"What is {word}?", f"{word} is a {CLASS_OF_WORD[word]}."),), ("text",))
    (c1, c2), (s1, s2) = rng.choice(list(COLORS), 2, replace=False), rng.choice(SHAPES, 2, replace=False)
    z1, z2 = rng.choice(list(SIZES), 2)
    told = f"There is a {z1} {c1} {s1} and a {z2} {c2} {s2}."
    ask = [
        (f"What color is the {s1}?", c1),
        (f"What color is the {s2}?", c2),
        (f"What shape is the {c1} object?", s1),
        (f"What shape is the {c2} object?", s2),
        (f"What size is the {c1} {s1}?", z1),
        (f"What size is the {c2} {s2}?", z2),
    ]
    question, answer = ask[rng.integers(len(ask))]
    return Dialogue(((f"{told} {question}", f"{answer}."),), ("text",))


def words() -> tuple[str, ...]:
    """Every word that this language uses, for a tokenizer."""
    articles = ("a", "an", "and", "is", "are", "at", "the", "of", "in", "there", "There", "The", "its", "it")
    nouns = (
        "object",
        "objects",
        "background",
        "picture",
        "image",
        "color",
        "shape",
        "size",
        "place",
        "texture",
        "shade",
    )
    asking = ("Could", "you", "describe", "Describe", "briefly", "What", "do", "see", "Where", "Is", "How", "many")
    rest = ("one", "two", "yes", "no", "USER", "ASSISTANT", ":", ".", ",", "?", "!")
    return (*CLASS_OF_WORD, *articles, *nouns, *asking, *rest)

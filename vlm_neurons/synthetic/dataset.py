"""Scenes as data to scan, with the truth about every patch and every word; and opening of data by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vlm_neurons._checks import of_kind, whole
from vlm_neurons.data import ImageTextData, Sample
from vlm_neurons.data.kinds import open_path, open_source
from vlm_neurons.synthetic import language
from vlm_neurons.synthetic.scene import GRID, Scene, Split, coverage, draw_scene, render

TRAINING_SEED = 7_000_000  # streams from here on are for training: scenes() never meets them
Task = Literal["describe", "brief", "question", "text"]
KINDS = ("color", "shape", "size", "place")  # of concepts; besides, "object"
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Word:
    """One word of a response.

    Attributes:
        start: first character in the response.
        end: one past the last character.
        text: the word.
        kind: `"color"`, `"shape"`, `"size"`, `"place"`, `"texture"`, `"shade"`, or `""` for all other words.
    """

    start: int
    end: int
    text: str
    kind: str


class Scenes(ImageTextData):
    """Drawn pictures with true descriptions; what `scenes` returns.

    Attributes:
        worlds: the `Scene` behind every sample (for text-only lines: one that is not shown).
        asked: what each sample asks: `"describe"`, `"brief"`, a kind of question, or `"text"`.
    """

    def __init__(
        self, n: int, seed: int, split: Split, objects: Literal[1, 2] | None, task: Task, responses: bool
    ) -> None:
        self.worlds = tuple(draw_scene(seed, i, split=split, objects=objects) for i in range(n))
        dialogues = [_dialogue(w, task, np.random.default_rng([seed, 3, i])) for i, w in enumerate(self.worlds)]
        self.asked = tuple(d.kinds[0] for d in dialogues)
        spec = f"scenes:n={n},seed={seed}" + (f",split={split}" if split != "any" else "")
        spec += (f",objects={objects}" if objects else "") + (f",task={task}" if task != "describe" else "")
        spec += "" if responses else ",responses=False"
        super().__init__(_Drawn(self.worlds, dialogues, task != "text", responses), spec)

    def things(self, i: int) -> Float[np.ndarray, "things 8 8"]:
        """Share of every patch of sample i that each of its objects covers, in [0, 1]; rows first."""
        return coverage(self.worlds[i])

    def concept(self, kind: str, word: str | None = None) -> Float[np.ndarray, "sample 8 8"]:
        """Share of every patch that objects with one property cover.

        Args:
            kind: `"color"`, `"shape"`, `"size"`, `"place"`, or `"object"` for all objects.
            word: the property, such as `"red"`; None with `"object"`.

        Raises:
            ValueError: no such concept; the message lists what there is.

        >>> scenes(2, seed=0).concept("color", "red").shape
        (2, 8, 8)
        """
        if kind != "object" and (kind not in KINDS or word not in _words(kind)):
            listed = "; ".join(f"{k}: {', '.join(_words(k))}" for k in KINDS)
            raise ValueError(f"no concept {kind!r}, {word!r}: choose 'object', or {listed}")
        return np.stack([truth[kind, word or ""] for truth in self._truths])

    @cached_property
    def _truths(self) -> list[dict[tuple[str, str], np.ndarray]]:
        return [truth_of(world) for world in self.worlds]

    def words(self, i: int, response: str | None = None) -> list[Word]:
        """The words of a response with their kinds.

        Args:
            i: the sample.
            response: another text than the sample's own, such as what a model said.
        """
        text = self.samples[i].response if response is None else response
        return [
            Word(m.start(), m.end(), m[0], language.CLASS_OF_WORD.get(m[0], "")) for m in _WORD.finditer(text or "")
        ]


def scenes(
    n: int = 1000,
    seed: int = 0,
    *,
    split: Split = "any",
    objects: Literal[1, 2] | None = None,
    task: Task = "describe",
    responses: bool = True,
) -> Scenes:
    """A procedural world with ground truth: shapes x colours x sizes x places on textured backgrounds.

    Args:
        n: number of samples.
        seed: stream; sample i of a stream is the same whatever n is. Training used streams beyond those allowed here.
        split: `"seen"`: every object's (shape, colour, size, cell) occurred in training; `"held_out"`: none did;
            `"any"`: both may occur.
        objects: 1 or 2 in every picture; None mixes.
        task: what the prompt asks: a full description, a brief one, one question, or (`"text"`) a line without picture.
        responses: give the true responses; False leaves them to the model.

    Returns:
        64 x 64 pixel images; `.concept(kind, word)` and `.words(i)` are the truth.

    Raises:
        ValueError: n or seed out of range, or an unknown split, task or number of objects.

    >>> scenes(1, seed=0)[0].response.split(".")[0]
    'a large purple cross and a small pink cross'
    """
    whole(0, seed=seed)
    whole(1, n=n)
    if not 0 <= seed < TRAINING_SEED:
        raise ValueError(f"seed={seed}: from 0 to {TRAINING_SEED - 1:,}")
    if task not in ("describe", "brief", "question", "text"):
        raise ValueError(f"task {task!r}: choose 'describe', 'brief', 'question' or 'text'")
    if objects not in (None, 1, 2):
        raise ValueError(f"objects={objects!r}: a scene has 1 or 2; None mixes")
    return Scenes(n, seed, split, objects, task, responses)


class _Drawn(Sequence[Sample]):
    """Draws a picture when it is asked for, so that a hundred thousand scenes cost no memory."""

    def __init__(
        self, worlds: tuple[Scene, ...], dialogues: list[language.Dialogue], shown: bool, responses: bool
    ) -> None:
        self.worlds, self.dialogues, self.shown, self.responses = worlds, dialogues, shown, responses

    def __len__(self) -> int:
        return len(self.worlds)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} scenes")
        prompt, response = self.dialogues[i].turns[0]
        images = (Image.fromarray(_pixels(self.worlds[i])),) if self.shown else ()
        return Sample(i, images, prompt, response if self.responses else None, f"scene {i}",
                      partial(truth_of, self.worlds[i]) if self.shown else None)  # fmt: skip


@lru_cache(maxsize=1024)  # 12 MiB: a run looks at its data three to five times
def _pixels(world: Scene) -> UInt8[np.ndarray, "64 64 3"]:
    return render(world)


def truth_of(world: Scene) -> dict[tuple[str, str], Float[np.ndarray, "8 8"]]:
    """Share of every patch that objects with each property cover; what the scene lacks is 0 everywhere.

    Returns:
        (kind, word) -> shares, of every kind that `Scenes.concept` knows; all objects are `("object", "")`.

    >>> truth = truth_of(scenes(1, seed=0).worlds[0])
    >>> bool(truth["color", "pink"].any()), bool(truth["color", "red"].any())
    (True, False)
    """
    covered = coverage(world)
    found = {("object", ""): covered.sum(0)}
    found |= {(kind, word): np.zeros((GRID, GRID)) for kind in KINDS for word in _words(kind)}
    for own, thing in zip(covered, world.things, strict=True):
        for kind in KINDS:
            found[kind, getattr(thing, kind)] += own
    return found


def _dialogue(world: Scene, task: Task, rng: np.random.Generator) -> language.Dialogue:
    match task:
        case "describe":
            return language.Dialogue(((language.DESCRIBE, language.description(world)),), ("describe",))
        case "brief":
            return language.Dialogue(((language.BRIEF, language.brief(world)),), ("brief",))
        case "text":
            return language.text_line(rng)
        case "question":
            kinds = [str(k) for k in rng.permutation(language.QUESTION_KINDS)]
            every = language.questions(world, rng, tuple(kinds))  # some are ambiguous: the first that is not
            return language.Dialogue(every.turns[:1], every.kinds[:1])


@cache
def _words(kind: str) -> tuple[str, ...]:
    if kind == "place":
        return tuple(f"{row} {column}" for row in language.ROWS for column in language.COLUMNS)
    return language.WORD_CLASSES[kind]


def open_data(spec: str | Path, images: str | Path | None = None) -> ImageTextData:
    """Data from a path, whose kind is found from the file, or from what `source` says.

    Args:
        spec: a directory of pictures, a `.jsonl` file, LLaVA's conversations or COCO's captions in `.json`, tar shards
            (`"shards-{000..099}.tar"`), `"scenes:n=100,seed=0"`, or the `source` of data.
        images: folder of the pictures, for conversations and captions.

    Returns:
        the samples; `data.source` opens the same again, `data.summary()` says what was found.

    Raises:
        ValueError: none of these.
        FileNotFoundError: a source whose file or folder is gone.

    >>> open_data("scenes:n=2,seed=0")
    Scenes(2 samples, source='scenes:n=2,seed=0')
    """
    of_kind("data", spec, str | Path, "give vn.ImageTextData (from_samples takes a list), or a path")
    spec = str(spec)
    kind, _, rest = spec.partition(":")
    if images is not None and (kind == "scenes" or open_source(spec) is not None):
        raise ValueError(f"images={str(images)!r}: {spec} says itself where its pictures are; leave it out")
    if kind == "scenes" and rest:
        arguments = _scene_arguments(spec, rest)
        try:
            return scenes(**arguments)
        except TypeError as error:  # an unknown name, or a word where a number belongs
            raise ValueError(f"{spec!r}: write scenes:n=100,seed=0 ({error})") from None
    data = open_source(spec)
    if data is None:
        data = open_path(spec, images)
    if data is None:
        raise ValueError(
            f"{spec!r} is no data: pass a directory of images, a .jsonl file, LLaVA's or COCO's .json, tar shards, or "
            "scenes:n=100,seed=0; data made in memory has to be passed as an ImageTextData"
        )
    return data


def _scene_arguments(spec: str, text: str) -> dict[str, Any]:
    known: dict[str, Any] = {"True": True, "False": False, "None": None}
    arguments = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"{spec!r}: write scenes:n=100,seed=0")
        if name in ("n", "seed") and not value.isdecimal():
            raise ValueError(f"{spec!r}: {name}={value} is no whole number; write scenes:n=100,seed=0")
        arguments[name] = known[value] if value in known else int(value) if value.isdecimal() else value
    return arguments

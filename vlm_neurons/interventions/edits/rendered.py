"""Rendered pairs: one attribute of one object of a scene is changed, or the object added."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from vlm_neurons.data import DEFAULT_PROMPT
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Pair, Row, Trial, Wanted
from vlm_neurons.synthetic.dataset import Scenes
from vlm_neurons.synthetic.editing import OF_GROUND, OF_THINGS, altered, fits, showing
from vlm_neurons.synthetic.scene import Scene, Thing, render

KIND_OF = {"repaint": "color", "reshape": "shape", "resize": "size", "move": "place"}
JPEG = 90  # quality of what is only encoded anew


@dataclass(frozen=True)
class Change:
    """Scenes around one object.

    Attributes:
        inputs: where pictures get their numbers.
        world: the scene as drawn.
        rest: its other objects.
        prompt: what is asked.
        seed: of what is drawn.
    """

    inputs: Inputs
    world: Scene
    rest: tuple[Thing, ...]
    prompt: str
    seed: tuple[int, ...]

    def show(self, thing: Thing | None, again: bool = False) -> int:
        """The scene with an object, or without."""
        return self.see(showing(self.world, self.rest if thing is None else (*self.rest, thing)), again)

    def see(self, scene: Scene, again: bool = False) -> int:
        """The number of a scene's picture."""
        return self.inputs.number((scene, self.prompt, again), lambda: _row(scene, self.prompt, again))

    def values(self, kind: str) -> Iterator[str]:
        """All values of an attribute, in an order of this sample, the same for all who ask."""
        every = (OF_THINGS | OF_GROUND)[kind]
        order = np.random.default_rng([*self.seed, zlib.crc32(kind.encode())]).permutation(len(every))
        return (every[i] for i in order)

    def other(self, thing: Thing, kind: str, named: Wanted, but: Sequence[str] = ()) -> Thing | None:
        """The object with another value of an attribute, so that nothing named is left; None if none can be drawn."""
        for value in self.values(kind):
            new = altered(thing, kind, value)
            if value not in (getattr(thing, kind), *but) and not is_named(new, named) and fits(new, self.rest):
                return new
        return None


def _row(scene: Scene, prompt: str, again: bool) -> Row:
    image = Image.fromarray(render(scene))
    if again:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG)
        image = Image.open(buffer).convert("RGB")
    return Row([image], prompt, None)


def is_named(thing: Thing, wanted: Wanted) -> bool:
    """Whether an object has all that one of the alternatives names."""
    return any(all(getattr(thing, kind) == value for kind, value in one) for one in wanted.named)


def natural(data: Scenes, samples: Sequence[int], inputs: Inputs, prompt: str = DEFAULT_PROMPT) -> list[int]:
    """Numbers of the pictures as they are."""
    found = []
    for i in samples:
        found.append(Change(inputs, data.worlds[i], (), data[i].question(prompt), ()).see(data.worlds[i]))
    return found


def trials(data: Scenes, samples: Sequence[int], wanted: Wanted, inputs: Inputs, seed: int) -> list[Trial]:
    """One trial a sample, where it can be made."""
    kind = KIND_OF.get(wanted.edit)
    alternatives = [dict(one) for one in wanted.named if kind is None or kind in dict(one)]
    found = []
    for turn, i in enumerate(samples):
        world = data.worlds[i]
        sought = Wanted(wanted.side, wanted.edit, (tuple(alternatives[turn % len(alternatives)].items()),))
        having = [j for j, thing in enumerate(world.things) if is_named(thing, sought)]
        j = having[0] if having else int(np.random.default_rng([seed, i]).integers(len(world.things)))
        rest = tuple(thing for k, thing in enumerate(world.things) if k != j)
        change = Change(inputs, world, rest, data[i].question(DEFAULT_PROMPT), (seed, i))
        one = _trial(i, change, world.things[j], dict(sought.named[0]), wanted)
        if one is not None:
            found.append(one)
    return found


def _trial(sample: int, change: Change, drawn: Thing, named: dict[str, str], wanted: Wanted) -> Trial | None:
    """None where another object is what is named too, or where there is no room."""
    thing = drawn
    for name, value in named.items():
        thing = altered(thing, name, value)
    if any(is_named(t, wanted) for t in change.rest) or not fits(thing, change.rest):
        return None
    kind, brought = KIND_OF.get(wanted.edit), drawn != thing
    present, again = change.show(thing), change.show(thing, again=True)
    if kind is None:
        absent, control = change.show(None), _unnamed(change, thing, named, wanted)
        others = ground(change, thing, present) | ({} if control == MISSING else {"another object": control})
        return Trial(sample, present, absent, brought, others, control, again)
    plain = drawn  # the sample as it is, where it lacks nothing else that is named
    for name, value in named.items():
        plain = plain if name == kind else altered(plain, name, value)
    ready = not is_named(plain, wanted) and fits(plain, change.rest)
    without = plain if ready else change.other(thing, kind, wanted)
    if without is None:
        return None
    return Trial(
        sample, present, change.show(without), brought,
        _others(change, thing, wanted, present) | ground(change, thing, present),
        _control(change, thing, without, kind, wanted), again,
    )  # fmt: skip


def _unnamed(change: Change, thing: Thing, named: dict[str, str], wanted: Wanted) -> Pair:
    """An object of other attributes in the same place, or of the same ones elsewhere: with and without it."""
    for kind in named:
        new = change.other(thing, kind, wanted)
        thing = thing if new is None else new
    return MISSING if is_named(thing, wanted) else (change.show(thing), change.show(None))


def _others(change: Change, thing: Thing, wanted: Wanted, present: int) -> dict[str, Pair]:
    """Every attribute of the object that no alternative names, changed alone."""
    named = {kind for one in wanted.named for kind, _ in one}
    found = {}
    for kind in [k for k in OF_THINGS if k not in named]:
        for value in change.values(kind):
            new = altered(thing, kind, value)
            if value != getattr(thing, kind) and fits(new, change.rest):
                found[kind] = present, change.show(new)
                break
    return found


def ground(change: Change, thing: Thing, present: int) -> dict[str, Pair]:
    """The background's attributes, each changed alone."""
    scene, found = showing(change.world, (*change.rest, thing)), {}
    for kind in OF_GROUND:
        new = next(v for v in change.values(kind) if v != getattr(scene, kind))
        found[kind] = present, change.see(replace(scene, **{kind: new}))  # type: ignore[arg-type]
    return found


def _control(change: Change, thing: Thing, without: Thing, kind: str, wanted: Wanted) -> Pair:
    """The same object with two values that are not named; of an attribute with two values the other object changes."""
    third = change.other(without, kind, wanted, but=[getattr(thing, kind)])
    if third is not None:
        return change.show(without), change.show(third)
    for k, neighbour in enumerate(change.rest):
        rest = (*change.rest[:k], *change.rest[k + 1 :], thing)
        new = replace(change, rest=rest).other(neighbour, kind, wanted)
        if new is not None:
            return change.show(thing), change.see(showing(change.world, (*rest, new)))
    return MISSING

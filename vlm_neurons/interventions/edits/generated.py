"""Pictures that a text-to-image function makes from an explanation's words, beside those from other neurons' words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vlm_neurons.data import DEFAULT_PROMPT
from vlm_neurons.interventions.edits.photographs import encoded
from vlm_neurons.interventions.edits.sharing import shared
from vlm_neurons.interventions.edits.trials import MISSING, Inputs, Row, Trial, Wanted

Generate = Callable[[str], Image.Image]
EDIT, KIND = "generate", "prompt"
PROMPTS = (
    "{}", "a photo of {}", "a close-up of {}", "{} on a plain background", "{} in the distance", "a bright photo of {}",
    "a dark photo of {}", "a drawing of {}", "{} seen from above", "{} in the corner of a picture",
)  # fmt: skip


def name_of(generate: Generate) -> str:
    """What a function is known by: pictures are kept under it."""
    return f"{getattr(generate, '__module__', '')}.{getattr(generate, '__qualname__', type(generate).__qualname__)}"


def wanted_for(words: Sequence[str]) -> Wanted:
    """Pictures of all alternatives that an explanation names."""
    return Wanted("picture", EDIT, tuple(((KIND, one),) for one in words))


def trials(generate: Generate, every: Sequence[Wanted], wanted: Wanted, inputs: Inputs, seed: int) -> list[Trial]:
    """One trial a prompt and alternative: a picture of its words, one of another neuron's by the same prompt, and as a
    control one more of yet another's. None where no other neuron names something else.

    Args:
        generate: makes pictures.
        every: what all neurons ask for.
        wanted: what this one does.
        inputs: where pictures get their numbers.
        seed: of which words are the others.
    """
    others = [one for w in every if w.edit == EDIT and not shared(wanted, w, {}) for one in w.named]
    found: list[Trial] = []
    for turn, own in enumerate(wanted.named if others else ()):
        for i, prompt in enumerate(PROMPTS):
            rng = np.random.default_rng([seed, turn, i])
            absent, *third = [others[j] for j in rng.permutation(len(others))[:2]]
            first, second = (_number(generate, prompt, one, inputs) for one in (own, absent))
            control = (second, _number(generate, prompt, third[0], inputs)) if third else MISSING
            again = _number(generate, prompt, own, inputs, again=True)
            found.append(Trial(len(found), first, second, True, {}, control, again))
    return found


def _number(
    generate: Generate, prompt: str, named: Sequence[tuple[str, str]], inputs: Inputs, again: bool = False
) -> int:
    text = prompt.format(dict(named)[KIND])

    def make() -> Row:
        image = inputs.kept((EDIT, name_of(generate), text), lambda: _picture(generate, text))
        return Row([encoded(image) if again else image], DEFAULT_PROMPT, None)

    return inputs.number((EDIT, text, again), make)


def _picture(generate: Generate, text: str) -> Image.Image:
    """
    Raises:
        TypeError: the function gives no picture.
    """
    image: Any = generate(text)
    if not isinstance(image, Image.Image):
        raise TypeError(f"generate({text!r}) gave a {type(image).__name__}: give a function str -> PIL.Image")
    return image.convert("RGB")

"""The families that the tests in this folder are run with: NAME -> function that gives a model and its processor.

Every `built_*.py` beside this file has a table `FAMILIES` of functions without arguments. Each returns a random Hugging
Face model, small enough for a forward pass of milliseconds, and the family's real processor class with a tokenizer made
by hand and its published chat template. That is all that a family costs: the tests know nothing else of it. Where one
differs by nature, its file may have

- `ROUNDING`: NAME -> by how much (a share of the largest value) the bridge may differ from transformers unpadded;
- `ASKED`: NAME -> function of the text of a row as rendered, that gives what the processor is to be asked for the same
  tokens (PaliGemma's puts images and BOS in front by itself), or None where it cannot be asked.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from vlm_neurons import HookedVLM

FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {}
ROUNDING: dict[str, float] = {}
ASKED: dict[str, Callable[[str], str | None]] = {}
for _file in sorted(Path(__file__).parent.glob("built_*.py")):
    _built = import_module(_file.stem)
    FAMILIES |= _built.FAMILIES
    ROUNDING |= getattr(_built, "ROUNDING", {})
    ASKED |= getattr(_built, "ASKED", {})


@dataclass(frozen=True, eq=False)
class Made:
    """A tiny model of a family.

    Attributes:
        name: in the table.
        model: of this package.
        reference: the same weights in transformers, untouched, with eager attention.
        processor: as transformers has it.
    """

    name: str
    model: HookedVLM
    reference: Any
    processor: Any

    @property
    def rounding(self) -> float:
        """By how much the bridge may differ from transformers where nothing is padded: by nothing."""
        return ROUNDING.get(self.name, 0.0)

    def own(self, text: str, images: Sequence[Any]) -> dict[str, Any] | None:
        """What the processor itself makes of a row as rendered; None where it cannot be asked."""
        asked = ASKED[self.name](text) if self.name in ASKED else text
        if asked is None:
            return None
        bos = self.processor.tokenizer.bos_token
        given = {"images": [list(images)]} if images else {}
        doubled = bool(bos and asked.startswith(bos))  # a BOS that the template wrote must not get a second one
        return dict(self.processor(text=[asked], add_special_tokens=not doubled, return_tensors="pt", **given))


def parameters(model: Any) -> list[str]:
    """What the forward pass of a transformers model takes by name."""
    return list(inspect.signature(model.forward).parameters)


@cache
def made(name: str) -> Made:
    """Made once in a process. Tests leave it as it is."""
    hf, processor = FAMILIES[name]()
    reference = copy.deepcopy(hf)
    return Made(name, HookedVLM(hf, processor), reference, processor)

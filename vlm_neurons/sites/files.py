"""What all formats of dictionaries are read with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from vlm_neurons.sites.coder import Coder

Raw = dict[str, Tensor]


class Read(NamedTuple):
    """What files say.

    Attributes:
        coder: the dictionary.
        hook: what was encoded, if the files say: a hook, a module of transformers, or `"layer 12"`.
        hook_out: of a transcoder, what its output stands for; empty where that is not said.
    """

    coder: Coder
    hook: str | None
    hook_out: str | None


def tensors_of(file: Path, name: str) -> Raw:
    """All tensors of a safetensors file, in float32.

    Raises:
        ValueError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {key: value.float() for key, value in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name}: {file} cannot be read ({error}); download it again") from error


def facts_of(file: Path, name: str) -> dict[str, Any]:
    """The settings in a JSON file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {file} cannot be read ({error}); it has to be beside the weights") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{name}: {file} holds {type(facts).__name__}, not settings")
    return facts


def take(raw: Raw, name: str, *wanted: str) -> list[Tensor]:
    """Weights by their names.

    Raises:
        ValueError: one is missing.
    """
    if missing := [key for key in wanted if key not in raw]:
        remedy = (
            ": a dictionary trained with BatchTopK or JumpReLU has a threshold in use; save it for use (SAELens: "
            "save_inference_model)"
            if "threshold" in missing
            else ": the file is of another format, or not whole"
        )
        raise ValueError(f"{name}: the weights lack {', '.join(missing)} (there are {', '.join(sorted(raw))}){remedy}")
    return [raw[key] for key in wanted]

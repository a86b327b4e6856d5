"""Models and processors of transformers, by name or from a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm_neurons.models.load import find


def open_model(kind: str, name_or_dir: str | Path, device: Any = None, dtype: Any = None) -> tuple[Any, Any]:
    """A model and its processor. Images go by PIL where the processor has that way, so that torchvision is not needed.

    Args:
        kind: class of transformers that loads it, such as `"AutoModel"`.
        name_or_dir: name on the hub or of an embedded model, or a directory.
        device: where it computes.
        dtype: of its weights; float32 if not given.

    Raises:
        OSError: it is not there, or not complete.
        ValueError: it is of another kind, or its processor needs torchvision.
    """
    import torch
    import transformers

    where = find(name_or_dir)
    try:
        options = {"dtype": dtype or torch.float32, "trust_remote_code": False}  # None would ask on the terminal
        model = getattr(transformers, kind).from_pretrained(where, **options).eval()
        processor = transformers.AutoProcessor.from_pretrained(where, backend="pil", trust_remote_code=False)
    except ImportError as error:
        raise ValueError(
            f"{name_or_dir}: its processor needs a package that is missing ({_line(error)}); pip install "
            "'vlm-neurons[grounded]', or take a checkpoint whose processor works with PIL"
        ) from error
    except OSError as error:
        raise OSError(
            f"{name_or_dir}: no directory here, or not complete, and not to be had ({_line(error)})"
        ) from error
    return model if device is None else model.to(device), processor


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

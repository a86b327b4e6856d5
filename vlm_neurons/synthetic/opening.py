"""Data from what its `source` says: the one place that knows every kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from vlm_neurons.data import ImageTextData
from vlm_neurons.synthetic.dataset import scenes


def open_data(spec: str | Path) -> ImageTextData:
    """Data from a path or from what `source` says.

    Args:
        spec: a directory, a `.jsonl` file, `"folder:/abs"`, `"jsonl:/abs"` or `"scenes:n=100,seed=0"`.

    Returns:
        the samples; `data.source` opens the same again.

    Raises:
        ValueError: none of these.
        FileNotFoundError: a source whose file or folder is gone.

    >>> open_data("scenes:n=2,seed=0")
    Scenes(2 samples, source='scenes:n=2,seed=0')
    """
    spec = str(spec)
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        return ImageTextData.from_folder(rest)
    if kind == "jsonl" and rest:
        return ImageTextData.from_jsonl(rest)
    if kind == "scenes" and rest:
        arguments = _scene_arguments(spec, rest)
        try:
            return scenes(**arguments)
        except TypeError as error:  # an unknown name, or a word where a number belongs
            raise ValueError(f"{spec!r}: write scenes:n=100,seed=0 ({error})") from None
    path = Path(spec)
    if path.is_dir():
        return ImageTextData.from_folder(path)
    if path.is_file():
        if path.suffix.lower() in Image.registered_extensions():
            raise ValueError(f"{path} is an image; pass its folder, {path.absolute().parent}")
        return ImageTextData.from_jsonl(path)
    raise ValueError(
        f"{spec!r} is no data: pass a directory of images, a .jsonl file, or scenes:n=100,seed=0; "
        "data made in memory has to be passed as an ImageTextData"
    )


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

"""What every prompt is made of: template files, data behind a fence, pictures."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image


@cache
def prompt_id(package: str, version: str) -> str:
    """Version and SHA-256 of all prompt files of a package."""
    total = hashlib.sha256()
    for file in sorted(files(package).joinpath("prompts").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".jinja"):
            total.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"{version} {total.hexdigest()}"


@cache
def _environment(package: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader(package, "prompts")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=False)


def render(package: str, template: str, **values: Any) -> str:
    """Text of one prompt file of a package."""
    return str(_environment(package).get_template(f"{template}.jinja").render(**values))


def escape(token: str) -> str:
    r"""A token on one line, without tabs and characters that cannot be seen.

    >>> escape("a\tb\nc")
    'a\\tb\\nc'
    """
    plain = token.replace("\\", "\\\\")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def fence(texts: Iterable[str]) -> str:
    """A mark that is the same for the same texts, and in none of them."""
    text = "\0".join(texts)
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    while mark in text:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:12]
    return f"-----{mark}"


def text_part(text: str) -> dict[str, Any]:
    """Words as a part of a message."""
    return {"type": "text", "text": text}


def image_part(image: Image.Image, detail: str = "auto") -> dict[str, Any]:
    """A picture as a part of a message: PNG in a `data:` address."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def picture(url: str) -> Image.Image:
    """The picture in a `data:` address."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")

"""A piece of a page, and a page made of pieces."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from vlm_neurons.viz.colours import data_uri
from vlm_neurons.viz.wording import shortened, visible

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = files("vlm_neurons.viz") / "templates"
LONGEST = 200  # characters of a title
WHOLE = 600  # characters of an explanation that is shown at once


@dataclass(frozen=True)
class Fragment:
    """HTML that stands inside a page, and what the page has to include once for all pieces.

    Attributes:
        html: the piece; all text in it is escaped. It has no script and no style sheet of its own.
        css: its style sheet; the same string for all pieces of a kind.
        js: its script; the same string for all pieces of a kind, and safe to run more than once.
        images: CSS class -> `data:` address. The class is named after the pixels, so that pieces share pictures.
        circuitsvis: whether tokens are drawn by circuitsvis where its bundle is on the page.
    """

    html: str
    css: str = ""
    js: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    circuitsvis: bool = False


def picture_class(image: Any, images: dict[str, str]) -> str:
    """Name of the CSS class that shows a picture; the picture is added to `images`."""
    address = data_uri(image)
    name = f"vi{hashlib.sha256(address.encode()).hexdigest()[:16]}"
    images[name] = address
    return name


def styles(fragments: Iterable[Fragment]) -> str:
    """The style sheets and the pictures of some pieces, each once."""
    pieces = list(fragments)
    sheets = dict.fromkeys(f.css for f in pieces if f.css)
    pictures = {name: address for f in pieces for name, address in f.images.items()}
    return "\n".join(sheets) + "".join(
        f'\n.{name}{{background-image:url("{address}")}}' for name, address in pictures.items()
    )


def scripts(fragments: Iterable[Fragment], bundle: bool = True) -> list[str]:
    """The scripts of some pieces, each once; at the end the one that unpacks circuitsvis, if a piece wants it.

    Args:
        fragments: the pieces.
        bundle: False where another part of the page brings circuitsvis.
    """
    pieces = list(fragments)
    found = list(dict.fromkeys(f.js for f in pieces if f.js))
    return [*found, unpacking()] if bundle and any(f.circuitsvis for f in pieces) else found


def allowed(inline: Iterable[str], circuitsvis: bool) -> str:
    """The value of `script-src` that lets exactly these scripts run, and circuitsvis if it is there."""
    texts = [*inline, bundle_text()] if circuitsvis else list(inline)
    return " ".join(f"'sha256-{_digest(text)}'" for text in texts) or "'none'"


def policy(inline: Iterable[str], images: str = "data:", circuitsvis: bool = False, further: bool = False) -> str:
    """What a page may do: run these scripts (and `further` ones that they read), show pictures from there, and nothing
    else."""
    scripts = allowed(inline, circuitsvis) + " 'strict-dynamic'" * further
    return (
        f"default-src 'none'; script-src {scripts}; img-src {images}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def document(fragments: Iterable[Fragment], title: str) -> str:
    """A page that needs no network: the pieces one below the other, under a policy that lets nothing else run."""
    pieces = list(fragments)
    inline = scripts(pieces)
    rules = policy(inline, circuitsvis=any(f.circuitsvis for f in pieces))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{rules}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(shortened(visible(title), LONGEST))}</title>\n<style>{styles(pieces)}</style>\n</head>\n"
        '<body class="vn-page">\n<main>\n'
        + "\n".join(f.html for f in pieces)
        + "\n</main>\n"
        + "\n".join(f"<script>{text}</script>" for text in inline)
        + "\n</body>\n</html>\n"
    )


@cache
def template(name: str) -> Template:
    """A file of the templates, to be filled in: every text that comes in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("vlm_neurons.viz"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["longest"] = WHOLE
    return environment.get_template(name)


@cache
def template_text(name: str) -> str:
    """A file of the templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def bundle_text() -> str:
    """The script of circuitsvis, as its package brings it."""
    text = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    return text.replace("\n//# sourceMappingURL=iife.js.map", "")  # a file that a page without network cannot have


@cache
def unpacking() -> str:
    """A script that puts circuitsvis on the page: packed, 0.5 MB instead of 1.3."""
    packed = base64.b64encode(gzip.compress(bundle_text().encode(), mtime=0)).decode("ascii")
    return template_text("circuitsvis.js").replace("PACKED", packed)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

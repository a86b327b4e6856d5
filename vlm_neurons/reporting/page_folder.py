"""The folder beside a report: a page of each neuron, its pictures stored once, and pieces of the other neurons."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_neurons._files import told_where
from vlm_neurons.reporting.other_neurons import on_page

MARKER = "made_by_vlm_neurons.txt"
PIECES = "others"


def write_folder(
    out: Path,
    folder: Path,
    pages: Iterable[tuple[str, str]],
    images: Mapping[str, str],
    others: Iterable[tuple[str, Any]],
) -> None:
    """The folder of a report, all new: that of an earlier one goes.

    Args:
        out: the report's page.
        folder: the folder.
        pages: (name, HTML) of every neuron with a page of its own.
        images: names of their pictures, and `data:` addresses with these.
        others: (name, value) of pieces that tell of neurons without a card.

    Raises:
        ValueError: the folder is there and not of an earlier report.
        OSError: the disk is full or cannot be written to; an earlier report stays.
    """
    if folder.exists() and not (folder / MARKER).is_file():
        raise ValueError(f"{folder} is there and not of an earlier report; move it away, or choose another out=")
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        with told_where(folder):
            for part in ("images", PIECES):
                (new / part).mkdir(parents=True)
            text = f"This folder belongs to {out.name} and is replaced with it.\n"
            (new / MARKER).write_text(text, encoding="utf-8")
            for name, html in pages:
                (new / f"{name}.html").write_text(html, encoding="utf-8")
            for name, address in images.items():
                (new / image_file(name, address)).write_bytes(base64.b64decode(address.split(",", 1)[1]))
            for name, value in others:
                (new / PIECES / f"{name}.js").write_text(f'piece("{name}",{on_page(value)});\n', encoding="ascii")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)


def image_file(name: str, address: str) -> str:
    """Where a picture is, seen from the folder."""
    ending = "png" if address.startswith("data:image/png") else "jpg"
    return f"images/{name}.{ending}"

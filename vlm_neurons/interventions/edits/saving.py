"""Edited pictures for people to look at.

A file is named after its pixels, by nothing that data, words or models say: no name can lead out of the folder, and the
same picture is there once, whoever made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_neurons._files import told_where, write_atomic
from vlm_neurons.interventions.edits.planning import Plan

INDEX = "edits.jsonl"


def folder_for(path: str | Path) -> Path:
    """The folder that pictures go to, made if it is not there.

    Raises:
        ValueError: it is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"save_images={str(path)!r} is a file: give a folder for the edited pictures")
    with told_where(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def save_pictures(home: Path, plan: Plan) -> None:
    """Write the pictures of all trials as PNG, and what they are to `edits.jsonl`: a line a trial, with `changed` false
    where the edit leaves the picture as it is, which is no trial of the table."""
    names: dict[int, str] = {}

    def name(number: int) -> str | None:
        if number >= 0 and number not in names:
            names[number] = put(home, plan.inputs.made[number]().images[0])
        return names.get(number)

    def lines() -> Iterator[dict[str, Any]]:
        for wanted, sheet in plan.sheets.items():
            for i, sample in enumerate(sheet.sample.tolist()):
                before, after = sheet.control[i].tolist()
                ends = name(int(sheet.present[i])), name(int(sheet.absent[i]))
                yield {"edit": wanted.edit, "named": [dict(one) for one in wanted.named], "sample": sample,
                       "made": "with" if sheet.brought[i] else "without", "changed": ends[0] != ends[1],
                       "with": ends[0], "without": ends[1],
                       "control": None if before < 0 else [name(before), name(after)]}  # fmt: skip

    text = "".join(f"{json.dumps(line)}\n" for line in lines())
    write_atomic(home / INDEX, lambda path: path.write_text(text, encoding="utf-8"))


def put(home: Path, image: Image.Image) -> str:
    """Name of a picture's file, which is written if it is not there."""
    plain = Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())  # pixels alone: no EXIF
    name = f"{hashlib.sha256(f'{plain.size}'.encode() + plain.tobytes()).hexdigest()[:32]}.png"
    if not (home / name).is_file():
        write_atomic(home / name, lambda path: plain.save(path, "PNG"))
    return name

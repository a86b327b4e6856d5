"""Samples of data sets for training and evaluation in one JSON file: LLaVA's conversations, COCO's captions."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from vlm_neurons._checks import short
from vlm_neurons.data.fields import TURNS, Found, check_file, count_unused
from vlm_neurons.data.sample import Sample, make_sample
from vlm_neurons.data.sources import KeyTwice, no_key_twice, read_records

_ASKS, _ANSWERS, _SYSTEM = ("human", "user"), ("gpt", "assistant", "model"), ("system",)
_MARK = re.compile(r"\s*<image>\s*")
# What such files say of a picture beside its name; no text.
_COCO_IMAGE = ("id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured")


def read_json(path: Path) -> Any:
    """The content of a JSON file, or the records of a JSONL.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no JSON; the message names the file.
    """
    check_file(path, "pass the JSON file of the annotations")
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # a mark that Windows writes
    try:
        return json.loads(content, object_pairs_hook=no_key_twice)
    except KeyTwice as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{") and b"\n" in content.strip():  # an object a line
            return [record for _, record in read_records(path, content)]
        raise ValueError(f"{path}: not read as JSON ({type(error).__name__}: {str(error)[:120]})") from None


def read_llava(path: Path, images: Path | None) -> tuple[list[Sample], str, Found]:
    """See `ImageTextData.from_llava`."""
    path = path.absolute()
    base = path.parent if images is None else images.absolute()
    records = read_json(path)
    if isinstance(records, dict) and _turns_of(records) is not None:
        records = [records]  # a JSONL of one line
    if not isinstance(records, list):
        raise ValueError(f"{path}: {short(records)}, not a list of conversations; write [{{...}}, ...]")
    samples: list[Sample] = []
    odd: Counter[str] = Counter()
    for i, record in enumerate(records):
        where = f"{path}, record {i}"
        if not isinstance(record, dict) or not isinstance(_turns_of(record), list):
            raise ValueError(f'{where}: no "conversations" in it; write {{"image": path, "conversations": [...]}}')
        turns = [_turn(turn, where) for turn in _turns_of(record)]
        if "image" not in record and record.get("images") is not None:
            raise ValueError(f'{where}: no "image", but "images", which is not read: call it "image"')
        image = record.get("image")
        shown = len(image) if isinstance(image, list) else int(image is not None)
        marks = sum(text.count("<image>") for role, text in turns if role == "ask")
        odd["records whose <image> marks are not as many as their pictures"] += marks not in (0, shown)
        odd["records with a video, which is not read"] += "video" in record
        answered = _answers(turns, odd)
        odd["records without a question"] += not answered
        for prompt, response, n_marks in answered:
            then = _shown_by_then(image, n_marks if marks == shown else shown)
            entry = {"image": then, "prompt": prompt, "response": response}
            if not then:
                entry["name"] = str(record.get("id", f"record {i}"))
            samples.append(make_sample(len(samples), entry, where, base))
    if not samples:
        raise ValueError(f"{path}: no conversation with a question in it")
    unread = [{field: 1 for field in record if field != _turns_field(record)} for record in records]
    unused = count_unused(unread, ("id", "image", "video"))
    notes = tuple(f"{n:,} {what}" for what, n in odd.items() if n)
    found = Found("LLaVA conversations", ("image", "conversations"), unused, notes).tell(path)
    return samples, _source("llava", path, base), found


def _turns_field(record: dict[str, Any]) -> str:
    return next((name for name in TURNS if name in record), TURNS[0])


def _turns_of(record: dict[str, Any]) -> Any:
    return record.get(_turns_field(record))


def _turn(turn: Any, where: str) -> tuple[str, str]:
    """`"ask"`, `"answer"` or `"system"`, and the text."""
    turn = turn if isinstance(turn, dict) else {}
    role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    for kind, names in (("ask", _ASKS), ("answer", _ANSWERS), ("system", _SYSTEM)):
        if role in names and isinstance(text, str):
            return kind, text
    raise ValueError(
        f'{where}: a turn is {short(role)}, {short(text)}; write {{"from": "human", "value": text}} or "gpt"'
    )


def _shown_by_then(image: Any, n: int) -> Any:
    """The first pictures of a record, whose marks have stood in the turns so far."""
    return image[:n] if isinstance(image, list) else image if n else None


def _answers(turns: list[tuple[str, str]], odd: Counter[str]) -> list[tuple[str, str | None, int]]:
    """(prompt, answer, marks of pictures so far) of every answer; the prompt has the earlier turns before its question,
    a line each. The last question may have no answer: the model is to give it."""
    said: list[str] = []
    found: list[tuple[str, str | None, int]] = []
    asked, marks = False, 0
    for role, text in turns:
        marks += text.count("<image>") if role == "ask" else 0
        if role == "answer":
            if asked:
                found.append(("\n".join(said), text, marks))
            else:
                odd["answers without a question of their own"] += 1
        said.append(_plain(text) if role == "ask" else text)
        asked = role == "ask" or (asked and role == "system")
    return [*found, ("\n".join(said), None, marks)] if asked else found


def _plain(text: str) -> str:
    """A question without the marks of its pictures at either end: pictures go before it by themselves."""
    while (mark := _MARK.match(text)) is not None:
        text = text[mark.end() :]
    while text.rstrip().endswith("<image>"):
        text = text.rstrip().removesuffix("<image>").rstrip()
    return text


def read_coco(path: Path, images: Path | None, joined: bool) -> tuple[list[Sample], str, Found]:
    """See `ImageTextData.from_coco`."""
    path = path.absolute()
    base = path.parent if images is None else images.absolute()
    content = read_json(path)
    parts = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations")]
    pictures, annotations = ([one for one in part if isinstance(one, dict)] if isinstance(part, list) else None
                             for part in parts)  # fmt: skip
    if pictures is None or annotations is None or [pictures, annotations] != parts:
        raise ValueError(f'{path}: no "images" and "annotations" in it, each a list of objects, as COCO has them')
    if annotations and not any("caption" in one for one in annotations):
        raise ValueError(
            f"{path}: its annotations have no captions; captions_*.json has them, instances_*.json has not"
        )
    names: dict[Any, str] = {}
    for i, one in enumerate(pictures):
        where = f"{path}, image {i}"
        number, name = one.get("id"), one.get("file_name")
        if not isinstance(number, int | str) or not isinstance(name, str) or not name:
            raise ValueError(f'{where}: no "id" and "file_name" in it')
        if number in names:
            raise ValueError(f"{where}: id {short(number)} is that of {names[number]!r} already")
        names[number] = name
    captions: dict[Any, list[str]] = {number: [] for number in names}
    stray = 0
    for i, one in enumerate(annotations):
        if not isinstance(one.get("caption"), str):
            raise ValueError(f"{path}, annotation {i}: its caption is {short(one.get('caption'))}; write a string")
        number = one.get("image_id")
        if isinstance(number, int | str) and number in captions:
            captions[number].append(one["caption"])
        else:
            stray += 1
    samples: list[Sample] = []
    for number, name in names.items():
        texts: list[Any] = captions[number] or [None]
        for text in [" ".join(one.strip() for one in texts)] if joined and captions[number] else texts:
            samples.append(make_sample(len(samples), {"image": name, "response": text}, f"{path}, {name}", base))
    if not samples:
        raise ValueError(f"{path}: no images in it")
    unused = count_unused(pictures, _COCO_IMAGE) | count_unused(annotations, ("id", "image_id", "caption"))
    notes = (f"{stray:,} captions of pictures that the file does not list",) if stray else ()
    found = Found("COCO captions", ("file_name", "caption"), unused, notes).tell(path)
    return samples, _source("coco", path, base) + (",joined" if joined else ""), found


def _source(kind: str, path: Path, base: Path) -> str:
    return f"{kind}:{path}" + ("" if base == path.parent else f",images={base}")

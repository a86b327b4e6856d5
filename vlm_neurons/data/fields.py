"""Which fields of the user's data are read, and what is said of those that are not."""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

# what others call what we read
_MEANT = {
    "image": "img images image_path image_file file_name filename file path url picture photo jpg png",
    "response": "caption captions text texts txt answer answers output completion description responses sentence "
    "sentences conversations conversation messages label",
    "prompt": "question questions instruction query prompts input user",
}
_READ_AS = {word: field for field, words in _MEANT.items() for word in words.split()}
TURNS = ("conversations", "messages")  # what LLaVA's form, and its kin, call the turns; the first that is there
WRITTEN = ("name", "generated_by", "error")  # by `describe`, beside image, prompt and response


@lru_cache(4096)
def nearest(field: str) -> str:
    """The field that is read, and was perhaps meant; empty where none is like it.

    >>> nearest("Response"), nearest("captions"), nearest("promt"), nearest("license")
    ('response', 'response', 'prompt', '')
    """
    low = field.strip().lower()
    close = difflib.get_close_matches(low, [*_MEANT, *_READ_AS], 1, 0.8)
    found = close[0] if close else ""
    return _READ_AS.get(found, found)


def check_fields(record: Mapping[str, Any], where: str) -> None:
    """Refuse a record whose text, or question, stands under a name that is not read: the model would write another.

    Raises:
        ValueError: the message names the field, and what to call it.
    """
    for key, value in record.items():
        field = str(key)
        meant = nearest(field)
        if field != meant and meant in ("response", "prompt") and meant not in record and value is not None:
            kind = " (LLaVA's form? ImageTextData.from_llava reads it)" if field in TURNS else ""
            raise ValueError(
                f'{where}: no "{meant}", but {field!r}, which is not read{kind}: call it "{meant}", or write '
                f'"{meant}": null to leave {"the text to the model" if meant == "response" else "it to the scan"}'
            )


@dataclass(frozen=True)
class Found:
    """What was found where data was read from.

    Attributes:
        kind: what it is, such as "COCO captions".
        used: fields that were read.
        unused: fields that were not, and in how many records they stand; 0 where that is not known.
        notes: what else was left out, or put together, one sentence each.
    """

    kind: str
    used: tuple[str, ...]
    unused: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def fields(self) -> str:
        """Fields that were read, and not, in words."""
        unused = [
            f"{name} ({said})" if (said := "; ".join(self._of(name, n))) else name for name, n in self.unused.items()
        ]
        return f"fields used: {', '.join(self.used)}; not used: {', '.join(unused) or 'none'}"

    def _of(self, name: str, n: int) -> list[str]:
        near = nearest(name)
        return [*([f"{n:,}"] if n else []), *([f"{near!r} is"] if near and near not in self.used else [])]

    def tell(self, where: object) -> Found:
        """Warn of what was not read; itself."""
        said = [f"fields not used: {self.fields.partition('not used: ')[2]}"] if self.unused else []
        if said or self.notes:
            warnings.warn(f"{where}: {'; '.join([*said, *self.notes])}", stacklevel=5)
        return self


def count_unused(records: Iterable[Mapping[str, Any]], known: Iterable[str]) -> dict[str, int]:
    """Fields of some records beyond those that are known, most frequent first."""
    known = {*known}
    return dict(Counter(str(field) for record in records for field in record if field not in known).most_common())


def check_file(path: Path, remedy: str) -> None:
    """Raise OSError for what is no file.

    >>> check_file(Path("."), "pass a .jsonl file")
    Traceback (most recent call last):
    IsADirectoryError: .: a directory, not a file; pass a .jsonl file
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a directory, not a file; {remedy}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")

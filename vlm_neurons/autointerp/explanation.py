"""An explanation, and where it came from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence

NO_PATTERN = "no clear pattern"
FAILURES = ("refusal", "length", "filter", "schema", "network", "server", "request", "capability", "cost")


def says_nothing(explanation: str) -> bool:
    """Whether an explanation names nothing: the empty one, or "no clear pattern"."""
    return explanation.strip().rstrip(".").lower() in ("", NO_PATTERN)


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. Never text that could be taken for one.

    Attributes:
        kind: `"refusal"`, `"length"` (the answer was cut off), `"filter"`, `"schema"` (not what was asked for),
            `"network"`, `"server"` (429 or 5xx until the last try), `"request"` (4xx), `"capability"` (the model takes
            no images) or `"cost"` (`max_cost` would have been passed; nothing was sent).
        detail: what was said, without keys.
    """

    kind: str
    detail: str


@dataclass(frozen=True)
class Explanation:
    """What an explainer said of one neuron.

    Attributes:
        neuron: its id.
        text: one short phrase; `"no clear pattern"` where the explainer found none; `""` where it failed.
        description: longer.
        confidence: in [0, 1], the explainer's own; NaN where there is none.
        explainer: name.
        model: as the server called it in its answer; `""` where there is none.
        prompt: version and SHA-256 of the prompt's files; ends in `" without pictures"` where the model takes none, and
            was sent activations as numbers with what can be measured of the pixels.
        exemplars: ids of the samples that it was shown, all of the split `"explain"`.
        seed: of the evidence.
        support: what speaks for it: of the dissection explainer the concepts with their correlations.
        tokens_in: of all its requests; 0 where there was none.
        tokens_out: the same.
        cost: in US dollars; 0 for what the cache answered.
        failure: None if it did not fail.
        settings: SHA-256 of explainer and evidence: the same question has the same.

    >>> explanations["L2N304"].text, sorted(explanations["L2N304"].concepts)
    ('pink regions', ['color:pink'])
    >>> line = vn.Explanation("L2N304", "pink things", confidence=0.5).to_json()
    >>> vn.Explanation.from_json(line).text
    'pink things'
    """

    neuron: str
    text: str
    description: str = ""
    confidence: float = float("nan")
    explainer: str = ""
    model: str = ""
    prompt: str = ""
    exemplars: tuple[int, ...] = ()
    seed: int = 0
    support: tuple[dict[str, Any], ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    failure: Failure | None = None
    settings: str = ""

    @property
    def concepts(self) -> frozenset[str]:
        """Names of the concepts that support it (dissection explainer)."""
        return frozenset(name for s in self.support for name in s["concepts"])

    def to_json(self) -> str:
        """One line; NaN becomes null."""
        record = asdict(self)
        record["confidence"] = self.confidence if self.confidence == self.confidence else None
        return json.dumps(record, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Explanation:
        """Read what `to_json` wrote."""
        record = json.loads(line)
        record["confidence"] = float("nan") if record["confidence"] is None else record["confidence"]
        record["exemplars"], record["support"] = tuple(record["exemplars"]), tuple(record["support"])
        record["failure"] = Failure(**record["failure"]) if record["failure"] else None
        return cls(**record)


class Explainer(Protocol):
    """What `vn.explain` takes."""

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        ...

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key of the evidence, explanation) of every neuron, failures included, as they come. It may use the split
        `"explain"` only."""
        ...


@dataclass(frozen=True)
class Log:
    """`explanations.jsonl`: one line per neuron and attempt, the last one counting.

    Attributes:
        path: the file.
    """

    path: Path

    def read(self) -> dict[str, Explanation]:
        """The last explanation of every neuron. A last line that a crash cut off is left out."""
        found: dict[str, Explanation] = {}
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else []  # U+2028 ends no line
        for number, line in enumerate(lines):
            try:
                one = Explanation.from_json(line.decode())
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) - 1:
                    continue
                raise ValueError(f"{self.path}, line {number + 1}: no explanation ({error}); remove it") from None
            found[one.neuron] = one
        return found

    def append(self, explanations: Iterable[Explanation]) -> None:
        """Add lines; each is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and _torn(self.path):
            there = self.path.read_bytes()
            with self.path.open("rb+") as file:  # a crash cut the last line off
                file.truncate(there.rfind(b"\n") + 1)
        with self.path.open("a", encoding="utf-8") as file:
            for one in explanations:
                file.write(one.to_json() + "\n")
                file.flush()


def _torn(path: Path) -> bool:
    """Whether the last line of a file lacks its end. Reads one byte, however long the file."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

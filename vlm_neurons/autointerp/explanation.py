"""An explanation, and where it came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

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
            no images; the unit writes no words, or cannot be clamped) or `"cost"` (`max_cost` would have been passed;
            nothing was sent).
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
        support: what speaks for it: of the dissection explainer the concepts with their correlations; of explainers of
            what a unit does the words that it raises and, in an entry of their own, those that it lowers.
        tokens_in: of all its requests; 0 where there was none.
        tokens_out: the same.
        cost: in US dollars; 0 for what the cache answered.
        failure: None if it did not fail.
        settings: SHA-256 of explainer and evidence: the same question has the same.
        by_side: the words of each side (`"picture"`, `"text"`), where the explainer knows which is which.

    >>> explanations["L2N304"].text, sorted(explanations["L2N304"].concepts)
    ('pink regions', ['color:pink'])
    >>> explanations["L3N3"].by_side
    {'picture': 'edges of cyan regions', 'text': "words before 'cyan'; the word 'cyan'"}
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
    by_side: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it has to be asked for again."""
        return self.failure is not None

    @property
    def concepts(self) -> frozenset[str]:
        """Names of the concepts that support it (dissection explainer)."""
        return frozenset(name for s in self.support for name in s["concepts"])

    def to_record(self) -> dict[str, Any]:
        """All of it as what JSON can hold; NaN becomes None."""
        return asdict(self) | {"confidence": self.confidence if self.confidence == self.confidence else None}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Explanation:
        """Read what `to_record` made."""
        return cls(**{
            **record, "exemplars": tuple(record["exemplars"]), "support": tuple(record["support"]),
            "confidence": float("nan") if record["confidence"] is None else record["confidence"],
            "failure": Failure(**record["failure"]) if record["failure"] else None,
        })  # fmt: skip

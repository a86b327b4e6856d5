"""Two explainers, such as one of what a neuron reads and one of what it writes, as one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.explanation import NO_PATTERN, Explanation, says_nothing
from vlm_neurons.autointerp.protocols import Explainer
from vlm_neurons.autointerp.registry import explainer_of

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence


@dataclass(frozen=True, eq=False)
class JoinedExplainer(Explainer):
    """What one explainer says of a neuron and what another says, as alternatives of one explanation: from inputs, and
    from outputs (Gur-Arieh et al., arXiv 2501.08319, "concatenation").

    Attributes:
        first: an explainer, or a name.
        second: the same.

    Where one names nothing the other stands alone. Where one failed, so has the whole. It asks no server: join
    explanations that did with `vn.autointerp.joined`.

    >>> explainer = vn.explainers.JoinedExplainer("dissection", vn.VocabularyExplainer(model, n_null=200))
    >>> vn.explain({"L2N304": evidence["L2N304"]}, explainer, progress=False)["L2N304"].text
    "pink regions; the word 'size'"
    """

    first: str | Explainer
    second: str | Explainer

    def __post_init__(self) -> None:
        for one in self._both:
            one.settings()

    @property
    def _both(self) -> tuple[Explainer, Explainer]:
        return explainer_of(self.first), explainer_of(self.second)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Both names."""
        return "+".join(one.name for one in self._both)

    def settings(self) -> str:
        """All that decides its answers, as one string."""
        return json.dumps(["joined", *(one.settings() for one in self._both)])

    def settings_of(self, evidence: Evidence) -> str:
        """What decides the answers of both."""
        return "".join(one.settings_of(evidence) for one in self._both)

    def effort(self, evidence: Mapping[str, Evidence]) -> str:
        """What both take."""
        return "\n".join(filter(None, (one.effort(evidence) for one in self._both)))

    def with_cache(self, file: Path) -> JoinedExplainer:
        """The same, with a file of replies for those that keep some."""
        return JoinedExplainer(*(one.with_cache(file) for one in self._both))

    def explain(self, evidence: Mapping[str, Evidence]) -> Iterator[tuple[str, Explanation]]:
        """(key, explanation) of every neuron, failures included."""
        first, second = self._both
        ones: dict[str, Explanation] = {}
        others: dict[str, Explanation] = {}
        for (i, a), (j, b) in zip(first.explain(evidence), second.explain(evidence), strict=True):
            ones[i], others[j] = a, b
            for key in {i, j} & ones.keys() & others.keys():
                yield key, joined(ones.pop(key), others.pop(key))


def joined(first: Explanation, second: Explanation) -> Explanation:
    """Two explanations of one neuron as alternatives of one; what both say is said once. `by_side` has both, unless one
    of them says something without saying of which side; `settings` is empty, since the question is neither's.

    Raises:
        ValueError: they are of two neurons.

    >>> a, b = vn.Explanation("L0N1", "red regions"), vn.Explanation("L0N1", "the word 'red'")
    >>> vn.autointerp.joined(a, b).text
    "red regions; the word 'red'"
    """
    if first.neuron != second.neuron:
        raise ValueError(f"explanations of {first.neuron} and {second.neuron}: only those of one neuron are joined")
    name = f"{first.explainer}+{second.explainer}"
    counts: dict[str, Any] = {n: getattr(first, n) + getattr(second, n) for n in ("tokens_in", "tokens_out", "cost")}
    failed = first if first.failed else second if second.failed else None
    if failed is not None:
        return replace(failed, explainer=name, support=(), by_side={}, settings="", **counts)
    speaking = [e for e in (first, second) if not says_nothing(e.text)]
    apart = all(e.by_side for e in speaking)  # else what one says would be on neither side
    sides = dict.fromkeys(side for e in speaking for side in e.by_side) if apart else {}
    return replace(
        first,
        text=_alternatives(e.text for e in speaking) or NO_PATTERN,
        description=" ".join(filter(None, (first.description, second.description))),
        explainer=name,
        model="; ".join(dict.fromkeys(filter(None, (first.model, second.model)))),
        exemplars=tuple(dict.fromkeys((*first.exemplars, *second.exemplars))),
        support=(*first.support, *second.support),
        settings="",
        by_side={side: _alternatives(e.by_side.get(side, "") for e in speaking) for side in sides},
        confidence=first.confidence if first.confidence == second.confidence else float("nan"),
        prompt="; ".join(dict.fromkeys(filter(None, (first.prompt, second.prompt)))),
        **counts,
    )


def _alternatives(texts: Iterable[str]) -> str:
    """What texts say, each alternative once."""
    parts = (part.strip() for text in texts if not says_nothing(text) for part in text.split(";"))
    return "; ".join(dict.fromkeys(part for part in parts if part))

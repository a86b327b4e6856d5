"""Evidence that was gathered: a dict whose values may still be on disk."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import ref

from vlm_neurons.evidence.evidence import Evidence

if TYPE_CHECKING:
    from vlm_neurons.evidence.stored import Stored


class Gathered(UserDict[str, Any]):
    """Neuron -> evidence, in the order in which it was asked for, as a dict: others can be added, or taken away. What
    was written is read when it is asked for, and stays in memory as long as somebody has it.

    >>> both = evidence | {"mine": vn.Evidence("mine", 1.0, ())}
    >>> len(both) - len(evidence), both["L2N304"].peak == evidence["L2N304"].peak
    (1, True)
    """

    data: dict[str, Any]

    @classmethod
    def of(cls, stored: Stored, names: Iterable[str], labels: Mapping[str, str | None] | None = None) -> Gathered:
        """Neurons of a directory, of the classes that are given, or else those with which they were stored."""
        known = labels or {}
        return cls({name: _Kept(stored, known.get(name, stored.about(name)["label"])) for name in names})

    def __getitem__(self, key: str) -> Evidence:
        found = self.data[key]
        return found.read(key) if isinstance(found, _Kept) else found


class Part(Mapping[str, Evidence]):
    """Some neurons of a mapping, of which no more is read than is asked for."""

    def __init__(self, evidence: Mapping[str, Evidence], names: Sequence[str]) -> None:
        self._evidence, self._names = evidence, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Evidence:
        if name not in self._names:
            raise KeyError(name)
        return self._evidence[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Kept:
    """Evidence that is stored, with a label."""

    def __init__(self, stored: Stored, label: str | None) -> None:
        self.stored, self.label = stored, label
        self._held: ref[Evidence] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, (self.stored, self.label)

    def read(self, name: str) -> Evidence:
        found = self._held() if self._held is not None else None
        if found is None:
            found = self.stored[name]
            found = found if found.label == self.label else replace(found, label=self.label)
            self._held = ref(found)
        return found

"""`vn.explain`: any explainer over evidence, with a record that a later run goes on from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_neurons.autointerp.explainers.prompting import WRITTEN
from vlm_neurons.autointerp.explanation import Explainer, Explanation, Log, says_nothing

if TYPE_CHECKING:
    from vlm_neurons.evidence import Evidence
    from vlm_neurons.scanning import Run


def explain(
    evidence: Mapping[str, Evidence],
    explainer: str | Explainer = "dissection",
    out: Run | str | Path | None = None,
    redo: bool = False,
    progress: bool = True,
) -> dict[str, Explanation]:
    """What neurons respond to, in words.

    Args:
        evidence: from `gather_evidence`, `Evidence.from_arrays` or `vlm_neurons.evidence.load`.
        explainer: `"dissection"`, or an explainer object: `OpenAIExplainer(model=...)`, `LocalExplainer(...)`,
            `DissectionExplainer(...)`, or anything with `name`, `settings()` and `explain(evidence)`.
        out: a run or a directory: results go to its `explanations.jsonl`, one line per neuron and attempt, and replies
            to its `cache.sqlite`. Neurons that have an explanation there, made in the same way from the same evidence,
            are not asked for again; those that failed are.
        redo: ask for them all again. (The cache still answers what it has; `attempt=` asks anew.)
        progress: show a bar.

    Returns:
        key of the evidence -> explanation. Failures are explanations with a `failure` and no text.

    Raises:
        ValueError: an unknown explainer, no key for one that needs it, or what is no evidence.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> explain({"it": made}, progress=False)["it"].text
    'cyan regions'
    """
    from tqdm import tqdm

    chosen = _explainer(explainer)
    _check(evidence)
    log = Log(_folder(out) / "explanations.jsonl") if out is not None else None
    if out is not None and getattr(chosen, "cache", "none") is None:
        chosen = replace(chosen, cache=_folder(out) / "cache.sqlite")  # type: ignore[type-var]
    settings = {key: _settings(chosen, one) for key, one in evidence.items()}
    known = log.read() if log and not redo else {}
    found: dict[str, Explanation] = {}
    for key, one in evidence.items():
        last = known.get(one.neuron)
        if last is not None and last.failure is None and last.settings == settings[key]:
            found[key] = last
    todo = {key: one for key, one in evidence.items() if key not in found}
    with tqdm(total=len(todo), desc=chosen.name, unit="neuron", disable=not progress or not todo) as bar:
        for key, explanation in chosen.explain(todo) if todo else ():
            found[key] = replace(explanation, settings=settings[key])
            if log is not None and not (explanation.failure and explanation.failure.kind == "cost"):
                log.append([found[key]])
            bar.update()
    return {key: found[key] for key in evidence if key in found}


def summary(explanations: Mapping[str, Explanation] | Iterable[Explanation]) -> str:
    """One sentence: how many have an explanation, how many have none, how many failed and why, and what it cost."""
    every = list(explanations.values() if isinstance(explanations, Mapping) else explanations)
    failed = Counter(e.failure.kind for e in every if e.failure)
    none = sum(e.failure is None and says_nothing(e.text) for e in every)
    text = f"{len(every) - none - failed.total()} of {len(every)} neurons explained, {none} without a clear pattern"
    if failed:
        text += f", {failed.total()} failed ({', '.join(f'{n} {kind}' for kind, n in failed.most_common())})"
    if blind := sum(e.prompt.endswith(WRITTEN) for e in every):
        text += f"; {blind} were asked without pictures, which the model does not take"
    tokens = sum(e.tokens_in + e.tokens_out for e in every)
    return text + (f"; {tokens} tokens, ${sum(e.cost for e in every):.4f}" if tokens else "")


def _explainer(explainer: str | Explainer) -> Explainer:
    from vlm_neurons.autointerp.explainers.dissection import DissectionExplainer

    if explainer == "dissection":
        return DissectionExplainer()
    parts = ("name", "settings", "explain")
    if isinstance(explainer, str | type) or not all(hasattr(explainer, part) for part in parts):
        what = f"the class {explainer.__name__}" if isinstance(explainer, type) else repr(explainer)
        raise ValueError(
            f"explainer {what}: 'dissection', or an object such as vn.OpenAIExplainer(model='gpt-4o') or "
            "vn.LocalExplainer(hf_model, processor), or of your own with name, settings() and explain(evidence)"
        )
    return explainer


def _check(evidence: object) -> None:
    from vlm_neurons.evidence import Evidence

    every = list(evidence.values()) if isinstance(evidence, Mapping) else [evidence]
    wrong = [one for one in every if not isinstance(one, Evidence)]
    if wrong or not isinstance(evidence, Mapping):
        what = type((wrong or every)[0]).__name__
        raise ValueError(f"evidence: {what}; give a mapping of names to Evidence, such as {{'L0N3': one}}")


def _folder(out: Any) -> Path:
    return Path(out) if isinstance(out, str | Path) else Path(out.path)


def _settings(explainer: Explainer, evidence: Evidence) -> str:
    return hashlib.sha256(f"{explainer.settings()}\n{evidence.digest}".encode()).hexdigest()

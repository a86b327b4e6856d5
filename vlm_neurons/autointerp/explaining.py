"""`vn.explain`: any explainer over evidence, with a record that a later run goes on from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from vlm_neurons.autointerp.explainers.requests import WRITTEN
from vlm_neurons.autointerp.explanation import Explanation, says_nothing
from vlm_neurons.autointerp.from_concepts import from_concepts
from vlm_neurons.autointerp.jobs import asked_of, checked
from vlm_neurons.autointerp.protocols import Explainer
from vlm_neurons.autointerp.registry import explainer_of
from vlm_neurons.autointerp.store import REPLIES, answered, append_explanations, folder, read_explanations
from vlm_neurons.evidence import Evidence
from vlm_neurons.evidence.gathered import Part
from vlm_neurons.scanning import Run
from vlm_neurons.scanning.concept_table import MIN_IMAGES


def explain(
    evidence: Mapping[str, Evidence] | Run | str | Path,
    explainer: str | Explainer | None = None,
    out: Run | str | Path | None = None,
    redo: bool = False,
    progress: bool = True,
    *,
    min_images: int = MIN_IMAGES,
) -> dict[str, Explanation]:
    """What neurons respond to, in words.

    Args:
        evidence: neuron -> evidence, from `gather_evidence`, `Evidence.from_arrays` or `vlm_neurons.evidence.load`.
            Or a run, or its directory, that was scanned with concepts: all of its neurons are explained from
            `run.concepts()`, in seconds; a side counts where its interval is above 0 and, if the run has labels, the
            neuron's class has that side.
        explainer: `"dissection"` (as if not given), or an explainer object: `OpenAIExplainer(model=...)`,
            `LocalExplainer(...)`, `DissectionExplainer(...)`, or one of a class that inherits
            `vlm_neurons.autointerp.Explainer`. None for a run.
        out: a run or a directory: results go to its `explanations.jsonl`, one line per neuron and attempt, and replies
            to its `cache.sqlite`. Neurons that have an explanation there, made in the same way from the same evidence,
            are not asked for again; those that failed are. A failure does not take the place of an explanation.
        redo: ask for them all again; what comes takes the place of what is there. (The cache still answers what it has;
            `attempt=` asks anew.)
        progress: say on stderr what takes long or costs something, and show a bar, with what it has cost so far.
        min_images: of a run: concepts that fewer images of a half of the data have are not chosen.

    Returns:
        neuron -> explanation. Failures are explanations with a `failure` and no text.

    Raises:
        ValueError: an unknown explainer, no key for one that needs it, what is no evidence, or a key that is not its
            neuron.

    >>> from vlm_neurons import planted
    >>> made = planted.neurons("color", n=1)[0].evidence
    >>> explain({made.neuron: made}, progress=False)[made.neuron].text
    'cyan regions'
    """
    if isinstance(evidence, Run | str | Path):
        evidence = Run.load(evidence)
        if explainer is not None:
            raise ValueError(f"explainer={explainer!r} needs evidence of neurons: a run is explained by its concepts")
        made = from_concepts(evidence, min_images)
        if out is not None:
            known = {} if redo else read_explanations(folder(out))
            differs = [e for n, e in made.items() if n not in known or known[n].to_record() != e.to_record()]
            append_explanations(folder(out), differs, redo)
        return made
    chosen = explainer_of("dissection" if explainer is None else explainer)
    if out is not None:
        chosen = chosen.with_cache(folder(out) / REPLIES)
    own = chosen.settings()
    settings = {key: asked_of(own + chosen.settings_of(one), one) for key, one in checked(evidence)}
    known = {} if out is None or redo else read_explanations(folder(out), [*settings])
    found = answered(known, settings)
    todo = Part(evidence, [key for key in evidence if key not in found])
    if progress and todo and (effort := chosen.effort(todo)):
        Console(stderr=True, soft_wrap=True, markup=False, emoji=False).print(effort)
    cost = 0.0
    with tqdm(total=len(todo), desc=chosen.name, unit="neuron", disable=not progress or not todo) as bar:
        for key, explanation in chosen.explain(todo) if todo else ():
            found[key] = replace(explanation, settings=settings[key])
            if cost := cost + explanation.cost:
                bar.set_postfix_str(f"${cost:.4f}", refresh=False)
            if out is not None and not (explanation.failure and explanation.failure.kind == "cost"):
                append_explanations(folder(out), [found[key]], redo)
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

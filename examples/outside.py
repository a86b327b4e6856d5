"""Explanations from what a neuron reads and from what it writes, by tests of both sides.

    python examples/outside.py planted [--model DIR] [--out runs/outside]     # neurons whose two sides are known
    python examples/outside.py trained [--model DIR] [--out runs/outside]     # trained neurons against random gates

planted: neurons of one layer that read a colour or shape and write a word, the same one or another; the shares whose
explanation names what they read, as regions of pictures, and the word that they write.
trained: the clearest visual and multi-modal neurons of the model, and of random gates; AUROC is of the two.

Tests: `r` over the data; sufficiency and necessity (mean over edits of pictures); faithfulness, and its null from other
units. With `--api-model NAME [--api-url URL]` a model behind OpenAI, or behind a server that speaks as it does, is one
explainer more, which says what neurons read. A word stands for the regions of it, unless regions are named beside it, as in the concept simulator. What says
nothing, or cannot be tested, counts as 0 (in the null it is left out); named is the share that says something.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from causes import markdown

import vlm_neurons as vn
from vlm_neurons import planted, stats
from vlm_neurons.autointerp import joined
from vlm_neurons.autointerp.explanation import says_nothing
from vlm_neurons.autointerp.spoken import says, ways_to_say
from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.concepts.naming import named
from vlm_neurons.synthetic.editing import OF_THINGS

LAYER = 2  # of planted neurons: what they read is there, and what they write is read by one layer more
FIT, SCAN, EDITED = 200, 400, 60  # scenes that probes are fitted on; that are scanned; that are edited
TRIALS = 30  # of every edit
EDITS = ("repaint", "reshape", "resize", "move", "object")
ANSWERS, TOKENS = 24, 12  # at every strength; of each
EACH, COLOURS = 8, 5  # neurons of a class, or pairs of a kind
CLASSES = ("visual", "multimodal")
TESTS = ("r", "sufficiency", "necessity", "faithfulness")


@dataclass(frozen=True)
class Pair:
    """What a planted neuron reads, and what it writes."""

    reads: Concept
    writes: str


def pairs(seed: int) -> dict[str, list[Pair]]:
    """Pairs that agree, and pairs that do not, of some colours and shapes."""
    rng = np.random.default_rng(seed)
    sizes = {"color": COLOURS, "shape": EACH - COLOURS}
    concepts = [
        Concept(kind, str(value)) for kind, n in sizes.items() for value in rng.permutation(OF_THINGS[kind])[:n]
    ]
    return {
        "the same": [Pair(c, c.value) for c in concepts],
        "another": [Pair(c, str(rng.choice([v for v in OF_THINGS[c.kind] if v != c.value]))) for c in concepts],
    }


@contextmanager
def sown(model: vn.HookedVLM, every: Mapping[str, list[Pair]], seed: int) -> Iterator[dict[str, tuple[str, Pair]]]:
    """Plant all pairs in one layer: neuron -> kind and pair."""
    fit = vn.scenes(FIT, seed=1000 + seed)
    reading = planted.read(model, fit, planted.READS["gate"].format(layer=LAYER))
    found, index = {}, 0
    with ExitStack() as stack:
        for kind, those in every.items():
            for pair in those:
                made = stack.enter_context(planted.plant(
                    model, fit, pair.reads, "gate", LAYER, index, words=False, peaks=True, reading=reading,
                    writes=pair.writes,
                ))  # fmt: skip
                found[made.neuron.id], index = (kind, pair), index + 1
        yield found


def pictured(text: str) -> str:
    """An explanation in words for pictures: the word "red" as red regions."""
    regions = [one.concepts for one in named(text).regions if not one.negated]
    return "; ".join(dict.fromkeys(phrase(one) for one in regions if one))


def explained(
    model: vn.HookedVLM, evidence: Mapping[str, vn.Evidence], out: Path, api: vn.explainers.OpenAIExplainer | None
) -> dict[str, dict[str, vn.Explanation]]:
    """Explanations of every explainer, and of two together.

    Raises:
        RuntimeError: the server gave none of some neuron, which is not that it says nothing.
    """
    found = {
        "dissection": vn.explain(evidence, out=out / "dissection"),
        "steering": vn.explain(
            evidence, vn.SteeringExplainer(model, n=ANSWERS, max_new_tokens=TOKENS), out=out / "steering"
        ),
        "vocabulary": vn.explain(evidence, vn.VocabularyExplainer(model), out=out / "vocabulary"),
    }
    for second in ("vocabulary", "steering"):
        both = found["dissection"], found[second]
        found[f"dissection + {second}"] = {key: joined(both[0][key], both[1][key]) for key in evidence}
    if api is not None:
        said = vn.explain(evidence, api, out=out / "api")
        if failed := [one.failure.detail for one in said.values() if one.failure is not None]:
            raise RuntimeError(f"{api.name}: {len(failed)} of {len(said)} explanations failed ({failed[0]}); the same "
                               "command asks again for these alone")  # fmt: skip
        found[api.model] = said
    return found


def tested(
    model: vn.HookedVLM,
    data: vn.ImageTextData,
    evidence: Mapping[str, vn.Evidence],
    out: Path,
    api: vn.explainers.OpenAIExplainer | None = None,
) -> pd.DataFrame:
    """A row an explainer and neuron."""
    parts = []
    for explainer, explanations in explained(model, evidence, out, api).items():
        table = pd.DataFrame({"neuron": list(evidence), "text": [explanations[key].text for key in evidence]})
        seen = {key: words for key, e in explanations.items() if (words := pictured(e.text))}
        if seen:
            scores = vn.score(seen, evidence, n_null=0, n_permutations=999, progress=False)
            table = table.merge(scores[scores["side"] == "picture"][["neuron", "r"]], how="left", on="neuron")
            edits = vn.input_effects(model, data, seen, EDITS, n=TRIALS, out=out / explainer, progress=False)
            edits = edits.groupby("neuron")[["sufficiency", "necessity"]].mean().reset_index()
            table = table.merge(edits, how="left", on="neuron")
        said = vn.faithfulness(
            model, explanations, evidence, n=ANSWERS, max_new_tokens=TOKENS, out=out / "answers", progress=False
        )
        table = table.merge(said[["neuron", "faithfulness", "null"]], how="left", on="neuron")
        parts.append(table.assign(explainer=explainer, named=~table["text"].map(says_nothing)))
    found = pd.concat(parts, ignore_index=True)
    return found.fillna({name: 0.0 for name in TESTS if name in found})


def evidence_of(model: vn.HookedVLM, out: Path, neurons: list[str] | None, seed: int) -> dict[str, vn.Evidence]:
    """Of the neurons, or of the clearest of each class, on scenes that are not edited."""
    data = vn.scenes(SCAN, seed=seed + 11)
    run = vn.scan(model, data, batch_size=32, out=out / "run")
    table = vn.classify(run)
    run.save(table)
    if neurons is None:
        neurons = [n for label in CLASSES for n in vn.classification.clearest(table, label, EACH)["neuron"]]
    return vn.gather_evidence(model, data, run, neurons, out=run)


def planted_tables(model: vn.HookedVLM, out: Path, seed: int, api: vn.explainers.OpenAIExplainer | None) -> str:
    """A table a kind of pair."""
    with sown(model, pairs(seed), seed) as sides:
        evidence = evidence_of(model, out, list(sides), seed)
        found = tested(model, vn.scenes(EDITED, seed=seed + 12), evidence, out, api)
    found["kind"] = found["neuron"].map(lambda n: sides[n][0])
    found["reads"] = [phrase([sides[n][1].reads]) in pictured(t).split("; ")
                      for n, t in zip(found["neuron"], found["text"], strict=True)]  # fmt: skip
    found["writes"] = [says([sides[n][1].writes], ways_to_say(t))
                       for n, t in zip(found["neuron"], found["text"], strict=True)]  # fmt: skip
    return "\n".join(markdown(summary(rows, f"writes {kind}")) for kind, rows in found.groupby("kind", sort=False))


def summary(found: pd.DataFrame, head: str) -> pd.DataFrame:
    """Shares and means of every explainer."""
    rows = []
    for explainer, own in found.groupby("explainer", sort=False):
        shares = {name: f"{100 * own[column].mean():.0f}" for name, column in
                  (("named, %", "named"), ("what it reads, %", "reads"), ("what it writes, %", "writes"))}  # fmt: skip
        means = {name: f"{own[name].mean():.2f}" for name in (*TESTS, "null")}
        rows.append({f"{head}, {len(own)}": explainer, **shares, **means})
    return pd.DataFrame(rows)


def trained_table(model: vn.HookedVLM, out: Path, seed: int, api: vn.explainers.OpenAIExplainer | None) -> str:
    """Means of the model's own neurons / of random gates', and AUROC."""
    parts = []
    for who in ("own", "random"):
        with nullcontext() if who == "own" else vn.interventions.random_gates(model, seed):
            evidence = evidence_of(model, out / who, None, seed)
            found = tested(model, vn.scenes(EDITED, seed=seed + 12), evidence, out / who, api)
        parts.append(found.assign(who=who))
    found = pd.concat(parts)
    rows = []
    for explainer, each in found.groupby("explainer", sort=False):
        own, other = (each[each["who"] == who] for who in ("own", "random"))
        cells = {"named, %": f"{100 * own['named'].mean():.0f} / {100 * other['named'].mean():.0f}"}
        for name in TESTS:
            low, high = stats.auroc_interval(own[name].to_numpy(float), other[name].to_numpy(float))
            both = each[name].to_numpy(float)
            area = stats.auroc(both, (each["who"] == "own").to_numpy())
            cells[name] = f"{own[name].mean():.2f} / {other[name].mean():.2f}; {area:.2f} ({low:.2f} - {high:.2f})"
        cells["null"] = f"{own['null'].mean():.2f} / {other['null'].mean():.2f}"
        rows.append({f"{len(own)} / {len(other)} neurons": explainer, **cells})
    return markdown(pd.DataFrame(rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["planted", "trained"])
    parser.add_argument("--model", default="tiny-llava-scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/outside"), help="what is kept, and gone on with")
    parser.add_argument("--api-model", help="such as gpt-4o (needs OPENAI_API_KEY): a row more")
    parser.add_argument("--api-url", help="of the server that has it (default: OPENAI_BASE_URL, or OpenAI)")
    args = parser.parse_args()
    if args.api_url and not args.api_model:
        parser.error("--api-url: name a model of that server, with --api-model")
    api = None
    if args.api_model:
        api = vn.explainers.OpenAIExplainer(args.api_model, base_url=args.api_url, retry_failures=True)
    tables = {"planted": planted_tables, "trained": trained_table}
    print(tables[args.what](vn.HookedVLM.from_pretrained(args.model), args.out / args.what, args.seed, api))


if __name__ == "__main__":
    main()

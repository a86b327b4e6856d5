"""Does the neuron follow? `vn.input_effects` is judged on neurons whose rule is known.

    python examples/edits.py planted [--n 30] [--seeds 3]     # rules planted in the weights of the embedded model
    python examples/edits.py trained [--model DIR] [--out runs/edits]     # trained neurons against random gates

planted: n neurons of every kind and seed are edited into the embedded model, every second one so that it acts on what
comes after, and explained in true words. Probes that do not find their own rule (`refused`) are drawn anew. First:
nothing else moves the neuron as much as what is named (specificity above 0), in every row of the neuron. Most necessary:
nothing else takes away as much of its activation (necessity_margin above 0), in every row; one without a number, in whose
trials the neuron is never strong, counts as not. Interval reaches 0: nothing else is shown to move it more. Neurons with the same rule, layer and seed are the same and count once.
Sham: the same with the words of other planted neurons.
trained: neurons of the model and of random gates, each with the best specific concept of a scan.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from causes import markdown
from trained_edits import trained

import vlm_neurons as vn
from vlm_neurons import planted, stats
from vlm_neurons.concepts.concept import Concept, phrase
from vlm_neurons.synthetic.editing import OF_THINGS

KINDS = ("color", "shape", "position", "conjunction", "word", "picture_or_word")
FIT, FIT_RARE = 300, 900  # scenes that probes are fitted on; one in fifty has a given colour and shape together
TEST, TRIALS = 300, 40  # scenes that are edited from; of every edit
LAYERS = (2, 3)  # before, few probes find shapes and places
FOLLOWS = 0.98  # AUROC of pictures, or texts, by a probe that is planted; those below do not have the rule
EDITS = ("repaint", "reshape", "resize", "move", "replace")  # of one attribute, or word, each


def drawn(kind: str, rng: np.random.Generator) -> tuple[tuple[Concept, ...], str]:
    """Concepts of a rule, and what says it."""
    color, shape, place = (Concept(k, str(rng.choice(OF_THINGS[k]))) for k in ("color", "shape", "place"))
    match kind:
        case "color" | "shape" | "position":
            one = {"color": color, "shape": shape, "position": place}[kind]
            return (one,), phrase([one])
        case "conjunction":
            return (color, shape), phrase([color, shape])
        case "word":
            return (color,), f"the word '{color.value}'"
        case _:
            return (color,), f"{phrase([color])}; the word '{color.value}'"


@contextmanager
def sown(model: vn.HookedVLM, n: int, seed: int) -> Iterator[pd.DataFrame]:
    """Plant n neurons of every kind; a row each: neuron, kind, acts, explanation, probes refused before."""
    rng = np.random.default_rng(seed)
    fits = {kind: vn.scenes(FIT_RARE if kind == "conjunction" else FIT, seed=1000 + seed) for kind in KINDS}
    free = {layer: rng.permutation(384).tolist() for layer in LAYERS}
    rows = []
    with ExitStack() as stack:
        for layer in sorted(free, reverse=True):  # from the last layer on: what acts does not change what others read
            hook = planted.READS["gate"].format(layer=layer)
            readings = {len(fit): planted.read(model, fit, hook) for fit in {len(f): f for f in fits.values()}.values()}
            for kind, i in [(kind, i) for kind in KINDS for i in range(n) if LAYERS[i % len(LAYERS)] == layer]:
                fit, refused = fits[kind], -1
                while True:
                    refused += 1
                    concepts, text = drawn(kind, rng)
                    attempt, acts = ExitStack(), i // len(LAYERS) % 2 == 1
                    made = attempt.enter_context(planted.plant(
                        model, fit, concepts, "gate", layer, free[layer][0], words="word" in kind,
                        regions=kind != "word", acts=acts, peaks=True, reading=readings[len(fit)],
                    ))  # fmt: skip
                    if made.auroc >= FOLLOWS:
                        break
                    attempt.close()
                stack.push(attempt)
                free[layer].pop(0)
                rows.append({"neuron": made.neuron.id, "kind": kind, "acts": acts, "text": text, "refused": refused})
        yield pd.DataFrame(rows)


def planted_table(n: int, seeds: int) -> pd.DataFrame:
    """One row a kind."""
    model, every = vn.HookedVLM.from_pretrained("tiny-llava-scenes"), []
    for seed in range(seeds):
        with sown(model, n, seed) as rows:
            found = vn.input_effects(
                model, vn.scenes(TEST, seed=2000 + seed), dict(zip(rows["neuron"], rows["text"], strict=True)),
                edits=EDITS, n=TRIALS, seed=seed,
            )  # fmt: skip
            every.append(found.merge(rows, on="neuron").assign(seed=seed))
    table = distinct(pd.concat(every))
    return pd.DataFrame([summary(kind, table[table["kind"] == kind]) for kind in KINDS])


def distinct(table: pd.DataFrame) -> pd.DataFrame:
    """One neuron of a rule, layer and seed: another one has the same probe. One that acts, if there is one."""
    layer = table["neuron"].map(lambda neuron: vn.Neuron.parse(neuron).layer)
    refused = table.groupby(["kind", "seed", "neuron"])["refused"].first().groupby("kind").sum()  # of all, not of these
    table = table.assign(layer=layer, refused=table["kind"].map(refused)).sort_values(
        "acts", ascending=False, kind="stable"
    )
    return table.drop_duplicates(["seed", "layer", "kind", "text", "edit"]).sort_index(kind="stable")


def summary(kind: str, rows: pd.DataFrame) -> dict[str, str]:
    """How the neurons of a kind did."""
    each = rows.groupby(["seed", "neuron"])
    first = each["specificity"].min() > 0  # one that is never active on the scenes as they are has no number
    low, high = stats.wilson(int(first.sum()), len(first))
    needed = each["necessity_margin"].agg(lambda rows: rows.min(skipna=False)) > 0
    least, most = stats.wilson(int(needed.sum()), len(needed))
    acting = first[each["acts"].first()]
    not_below = each["specificity_high"].min() >= 0
    sham = (rows["sham_specificity"] > 0).mean()
    return {
        "rule": kind, "distinct": f"{len(first)}", "never active": f"{int(each['specificity'].count().eq(0).sum())}",
        "first, %": f"{100 * first.mean():.1f} ({100 * low:.1f} - {100 * high:.1f})",
        "most necessary, %": f"{100 * needed.mean():.1f} ({100 * least:.1f} - {100 * most:.1f})",
        "of those that act": f"{100 * acting.mean():.1f}", "interval reaches 0, %": f"{100 * not_below.mean():.1f}",
        "refused": f"{rows['refused'].iloc[0]}",
        "change": f"{rows['change'].median():.2f}", "largest other": f"{rows['other_change'].median():.2f}",
        "control": f"{rows['control'].median():.2f}", "sham": f"{rows['sham_change'].median():.2f}",
        "sham first, %": f"{100 * sham:.1f}",
        "sham most necessary, %": f"{100 * (rows['sham_necessity_margin'] > 0).mean():.1f}",
        "necessity": f"{rows['necessity'].median():.2f}",
        "q < .05, %": f"{100 * (rows['q'] < 0.05).mean():.1f}",
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["planted", "trained"])
    parser.add_argument("--n", type=int, default=30, help="neurons of each kind and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="tiny-llava-scenes")
    parser.add_argument("--out", type=Path, default=Path("runs/edits"), help="where scans are kept, and gone on with")
    args = parser.parse_args()
    if args.what == "planted":
        print(markdown(planted_table(args.n, args.seeds)))
    else:
        print(trained(vn.HookedVLM.from_pretrained(args.model), args.out))


if __name__ == "__main__":
    main()

"""What the dissection explainer finds in planted neurons: a table with 95 % Wilson intervals.

    python examples/planted.py [--n 30] [--seed 0] [--kinds color noise]

Right: exactly the concepts of the rule on each side, no more and no fewer. Of noise: "no clear pattern". Rules that are
not in the bank have no right answer there; the table says how often the explainer kept silent. Bank and world are both
this project's own: the table shows that the explainer finds what it has a word for, not that neurons of other models
have such rules.
"""

from __future__ import annotations

import argparse
from collections import Counter

from rich.console import Console
from rich.table import Table

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.explanation import NO_PATTERN

GROUPS = {
    "visual": ("color", "shape", "size", "position", "conjunction", "polysemantic"),
    "text": ("word", "word_class", "context"),
    "multi-modal": ("picture_or_word", "picture_and_word"),
    "noise": ("noise",),
    "not in the bank": ("outside", "sign_flipped"),
}
PIXELS = ("color", "position", "noise", "shape", "size")


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(v, 3) for v in wilson(9, 10)]
    [0.596, 0.982]
    """
    p, d = k / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, (middle - half) / d), min(1.0, (middle + half) / d)


def measure(kind: str, n: int, seed: int, truth: bool) -> tuple[int, int, Counter[str]]:
    """Right answers, silent ones, and what was said otherwise."""
    made = planted.neurons(kind, n=n, seed=seed)
    explained = vn.explain(
        {p.evidence.neuron: p.evidence for p in made}, vn.explainers.DissectionExplainer(truth=truth), progress=False
    )
    right = silent = 0
    wrong: Counter[str] = Counter()
    for p in made:
        e = explained[p.evidence.neuron]
        good = e.concepts == p.rule.concepts and p.rule.sign > 0
        right += good
        silent += e.text == NO_PATTERN
        if not good and e.text != NO_PATTERN:
            wrong[f"{p.rule.explanations['true'] or 'noise'} -> {e.text}"] += 1
    return right, silent, wrong


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(planted.KINDS), choices=planted.KINDS)
    args = parser.parse_args()
    table = Table("group", "kind", "bank", "n", "right", "95 %", "no clear pattern", "otherwise, most often")
    totals: Counter[str] = Counter()
    rows = [(g, kind, True) for g, kinds in GROUPS.items() for kind in kinds]
    rows += [("pixels only", kind, False) for kind in PIXELS]
    rows = [row for row in rows if row[1] in args.kinds]
    for group, kind, truth in rows:
        right, silent, wrong = measure(kind, args.n, args.seed, truth)
        low, high = wilson(right, args.n)
        said = wrong.most_common(1)[0][0] if wrong else ""
        outside = group == "not in the bank" or (not truth and kind in ("shape", "size"))
        share = "-" if outside else f"{right}"
        interval = "-" if outside else f"{low:.3f}-{high:.3f}"
        bank = "pixels and truth" if truth else "pixels"
        table.add_row(group, kind, bank if kind not in GROUPS["text"] + ("outside",) else "words", str(args.n), share,
                      interval, str(silent), said)  # fmt: skip
        if truth:
            totals[group] += right
    Console(width=150).print(table)
    for group, kinds in list(GROUPS.items())[:-1]:
        n = args.n * len(set(kinds) & set(args.kinds))
        if not n:
            continue
        low, high = wilson(totals[group], n)
        Console().print(f"{group}: {totals[group]} of {n} = {totals[group] / n:.3f} ({low:.3f}-{high:.3f})")


if __name__ == "__main__":
    main()

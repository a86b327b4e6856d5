"""The part `sums` of trust.py: explanations of several concepts against one, on scenes that they were not made from."""

from __future__ import annotations

import tempfile

import numpy as np
from rich.console import Console
from rich.table import Table

import vlm_neurons as vn

SCENES = 1000


def judge(n: int, seed: int, name: str) -> None:
    """Print r with the sum and with its strongest concept alone, by class, and how many neurons have a sum."""
    model = vn.HookedVLM.from_pretrained(name)
    bank = vn.concepts.Pixels() + vn.concepts.Truth() + vn.concepts.Words()
    with tempfile.TemporaryDirectory() as folder:
        run = vn.scan(model, vn.scenes(SCENES, seed=seed + 107), batch_size=32, concepts=bank, out=f"{folder}/own")
        run.save(vn.classify(run))
        with vn.interventions.random_gates(model, seed):
            random = vn.scan(model, vn.scenes(SCENES, seed=seed + 107), batch_size=32, concepts=bank,
                             out=f"{folder}/random")  # fmt: skip
        others = vn.scenes(SCENES, seed=seed + 108)
        again = vn.scan(model, others, batch_size=32, out=f"{folder}/others")
        again.save(vn.classify(again))
        several = _sums(run)
        rng = np.random.default_rng(seed)
        chosen = [str(one) for one in rng.permutation(sorted(several))[:n]]
        evidence = vn.gather_evidence(model, others, again, chosen, seed=seed)
        sums, alone = ({k: several[k][i] for k in chosen} for i in (0, 1))
        tables = [vn.score(texts, evidence, n_null=0, seed=seed, full=True) for texts in (sums, alone)]
        found = vn.autointerp.compare(*tables)
        shares = [len(_sums(one)) / run.concepts()["neuron"].nunique() for one in (run, random)]
    table = Table("class", "neurons", "r of the sum", "r of one concept", "difference (95 %)", "sum better, %")
    for row in found.itertuples():
        difference = f"{row.difference:.3f} ({row.low:.3f} - {row.high:.3f})"
        table.add_row(row.label, f"{row.n}", f"{row.a:.2f}", f"{row.b:.2f}", difference, f"{100 * row.a_better:.0f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"neurons with a sum on some side: {100 * shares[0]:.1f} %; of random gates {100 * shares[1]:.1f} %")


def _sums(run: vn.Run) -> dict[str, tuple[str, str]]:
    """Of every neuron with a weighted sum on some side, the explanation with it, and with its strongest concept alone."""
    found, explanations = {}, vn.explain(run)
    for neuron, rows in run.concepts().groupby("neuron"):
        one = explanations[str(neuron)]
        if any(len(row["concepts"]) > 1 for row in one.support):
            plain = dict(zip(rows["side"], rows["phrase"], strict=True))
            found[str(neuron)] = one.text, "; ".join(plain[side] for side in one.by_side)
    return found

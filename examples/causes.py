"""Do the classes of the embedded model's neurons matter? Every table on this in its card comes from here.

    python examples/causes.py runs/causes                      # everything, about half an hour on one core
    python examples/causes.py runs/causes --only effects       # or one part

Classes and neurons are chosen on other scenes than those that are measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from single_neurons import single_neurons

import vlm_neurons as vn

SCAN, MEASURE = 107, 210  # seeds of the scenes
TOP = 60


def classes(model: vn.HookedVLM, out: Path) -> pd.DataFrame:
    """Scan 1,000 scenes and classify, once."""
    run = vn.scan(model, vn.scenes(1000, seed=SCAN), site="gate", batch_size=32, out=out / "scan")
    return vn.classify(run)


def data(n: int, seed: int) -> dict[str, Any]:
    """Descriptions, questions and lines without a picture, by seed."""
    first = MEASURE + 10 * seed
    return {
        "data": vn.scenes(n, seed=first),
        "questions": vn.scenes(n, seed=first + 1, task="question"),
        "text": vn.scenes(n, seed=first + 2, task="text"),
    }


PLACES = (None, "visual", ("template", "text"))


def effects(model: vn.HookedVLM, out: Path, args: Any, seed: int = 0) -> pd.DataFrame:
    """The 60 clearest neurons of every class, and all of them, against matched controls; under another seed than 0
    only the 60 clearest at image patches and at words."""
    table = classes(model, out)
    groups: dict[str, Any] = {
        f"{name}, top {TOP}": rows for name, rows in vn.interventions.class_groups(table, top=TOP).items()
    }
    if seed == 0:
        groups |= {f"{name}, all": rows for name, rows in vn.interventions.class_groups(table).items()}
    found = vn.causal_effects(
        model, groups=groups, controls=args.controls, where=PLACES if seed == 0 else PLACES[1:], seed=seed,
        **data(args.n, seed),
    )  # fmt: skip
    found.to_csv(out / f"effects-{seed}.csv", index=False)
    return found


def show_effects(found: pd.DataFrame) -> str:
    """Groups and places down, measures across: effect minus that of matched controls, with its interval."""
    cell = found.apply(lambda r: f"{r['difference']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]", axis=1)
    wanted = ["description loss", "shape", "color", "place", "question right", "text loss"]
    wide = found.assign(cell=cell).pivot_table(
        index=["group", "where", "n_neurons", "n_control", "size_ratio"], columns="measure", values="cell",
        aggfunc="first", sort=False, dropna=True,
    )  # fmt: skip
    return markdown(wide[[w for w in wanted if w in wide]].reset_index().round({"size_ratio": 2}))


def by_layer(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """Every class in every layer."""
    groups = vn.interventions.class_groups(classes(model, out), by_layer=True)
    found = vn.causal_effects(
        model, groups=groups, controls=4, where=(None, "visual"), **{"data": data(args.n // 2, 0)["data"]}
    )
    found.to_csv(out / "by-layer.csv", index=False)
    return show_effects(found)


def seeds(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """The cells that both seeds have: other scenes, other controls."""
    runs = []
    for seed in (0, 1):
        path = out / f"effects-{seed}.csv"
        runs.append(pd.read_csv(path) if path.exists() else effects(model, out, args, seed))
    compared = vn.interventions.compare_effects(*runs)
    compared.to_csv(out / "seeds.csv", index=False)
    share = 100 * compared["covers_zero"].mean()
    return f"{share:.1f} % of {len(compared)} cells: the interval of the change between two seeds covers zero\n"


def controls(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """MLPs silenced, gates drawn at random."""
    found = vn.interventions.controls(model, data(args.n, 0)["data"], draws=2)
    found.to_csv(out / "controls.csv", index=False)
    names = ["check", "condition", "description loss", "change", "low", "high", "color", "shape", "place"]
    return markdown(found[[*names, "visual", "text", "multimodal", "unknown"]].round(3))


def pruning(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """Loss against the share of neurons removed."""
    found = vn.interventions.pruning_curve(
        model, data(args.n, 0)["data"], classes(model, out), shares=(0.1, 0.2, 0.3, 0.4, 0.5, 0.7), draws=2
    )
    found.to_csv(out / "pruning.csv", index=False)
    wide = found.pivot_table(index="share", columns="order", values="change", aggfunc="mean")
    return markdown(wide.round(3).reset_index())


def neurons(model: vn.HookedVLM, out: Path, args: Any) -> str:
    """The clearest colour neurons, one by one and together: ablation and steering of the colour word."""
    found = single_neurons(model, n=args.n, draws=args.controls)
    found.to_csv(out / "neurons.csv", index=False)
    return markdown(found.round(3))


def markdown(table: pd.DataFrame) -> str:
    """A table as the card shows it."""
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    rows += [["" if isinstance(v, float) and np.isnan(v) else str(v) for v in row] for row in table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def main() -> None:
    """Run the parts and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny-llava-scenes")
    parser.add_argument("--n", type=int, default=60, help="samples per task")
    parser.add_argument("--controls", type=int, default=6, help="draws of matched random neurons")
    parser.add_argument("--only", nargs="*", default=["effects", "seeds", "controls", "neurons", "pruning", "layers"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    model = vn.HookedVLM.from_pretrained(args.model)
    parts: dict[str, Callable[[], str]] = {
        "effects": lambda: show_effects(effects(model, args.out, args, 0)),
        "seeds": lambda: seeds(model, args.out, args),
        "controls": lambda: controls(model, args.out, args),
        "neurons": lambda: neurons(model, args.out, args),
        "pruning": lambda: pruning(model, args.out, args),
        "layers": lambda: by_layer(model, args.out, args),
    }
    for name in args.only:
        text = parts[name]()
        (args.out / f"{name}.md").write_text(text, encoding="utf-8")
        print(f"## {name}\n{text}")


if __name__ == "__main__":
    main()

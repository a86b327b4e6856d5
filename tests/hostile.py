"""A run of a tiny random model over hostile data, and what was said about its neurons."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seeds
import tiny
from PIL import Image

from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.protocols import Prediction, Side, sides_of
from vlm_neurons.autointerp.simulation import Simulation
from vlm_neurons.autointerp.store import append_explanations, save_scores, save_simulations
from vlm_neurons.classification import classify
from vlm_neurons.data import ImageTextData
from vlm_neurons.evidence import Evidence, Exemplar, gather_evidence
from vlm_neurons.evidence import save as save_evidence
from vlm_neurons.models import HookedVLM
from vlm_neurons.reporting import report
from vlm_neurons.scanning import Run, scan

# each sets window.pwned, or asks the network, if it is ever read as HTML
HOSTILE = [
    "</script><img src=x onerror=window.pwned=1>",
    "<script>window.pwned=1</script>",
    "</style></title><svg onload=window.pwned=1>",
    "\" onmouseover=window.pwned=1 x='\" style='background:url(http://evil.example/a)",
    "<img src=http://evil.example/b.png>{{ 7 * 7 }}{% raw %}",
    "<meta http-equiv=refresh content='0;url=http://evil.example/c'><link rel=stylesheet href=http://evil.example/d>",
    "&lt;b&gt; &amp; \u202eright to left\u2066 \x00\x1b[31m \U0001f980 \n\n\t three  blanks",
]
SIMULATOR = HOSTILE[3]


@dataclass(frozen=True)
class Made:
    """A model, its data and a run of it."""

    model: HookedVLM
    data: ImageTextData
    run: Run
    table: Any
    page: str


def hostile_data(rng: np.random.Generator) -> ImageTextData:
    samples: list[dict[str, Any]] = []
    for i in range(20):
        text = HOSTILE[i % len(HOSTILE)]
        image: Any = tiny.image(int(rng.integers(20, 60)), int(rng.integers(20, 60)), rng)
        image = None if i == 7 else [image, tiny.image(30, 50, rng)] if i == 11 else image
        prompt = text if i % 3 == 0 else None
        samples.append({"image": image, "response": f"{text} {i} dogs", "prompt": prompt, "name": f"{i}{text}"})
    samples.append({"image": tiny.image(rng=rng), "response": "", "name": f"empty {HOSTILE[0]}"})
    samples.append({"image": f"/nowhere/{HOSTILE[4]}.png", "response": "x", "name": HOSTILE[1]})
    made = ImageTextData.from_samples(samples)
    return ImageTextData(made.samples, source=f"memory of {HOSTILE[0]}")


def make(folder: Path) -> Made:
    model = HookedVLM(tiny.llava(), tiny.processor(), name=f"tiny{HOSTILE[2]}")
    data = hostile_data(seeds.rng())
    run = scan(
        model, data, site=["gate", "post", "projector"], top_n=8, batch_size=4, progress=False,
        out=folder / "run",
    )  # fmt: skip
    table = classify(run)
    run.save(table)
    page = report(run, out=run, model=model, data=data).read_text(encoding="utf-8")
    return Made(model, data, run, table, page)


def strongest(made: Made, neurons: list[str], n: int = 3) -> dict[str, list[Exemplar]]:
    """What some neurons did on their top samples."""
    found = gather_evidence(made.model, made.data, made.run, neurons, n_top=n, n_spare=0, progress=False)
    return {name: [e for e in one.exemplars if e.group == "top"] for name, one in found.items()}


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(float)


@dataclass(frozen=True)
class Told:
    """A run with evidence, explanations, simulations and scores, all of them hostile, and its report.

    Attributes:
        run: the run directory.
        page: the report in it.
        numbers: the JSON beside it.
        scores: the table of scores in it.
    """

    run: Path
    page: Path
    numbers: dict[str, Any]
    scores: pd.DataFrame


def tell(made: Made, path: Path) -> Told:
    """`path` is where its run is copied to."""
    rng = seeds.rng()
    shutil.copytree(made.run.path, path)
    run = Run.load(path)
    active = made.table[made.table["peak"] > 0]
    ids = [*active.groupby("label").head(3)["neuron"], "P0N1"]
    evidence = gather_evidence(made.model, made.data, run, ids, n_top=4, n_spare=4, out=run, progress=False)
    probe = Evidence.from_arrays(
        f"probe {HOSTILE[0]}", images=[tiny.image(rng=rng) for _ in range(8)], patch_acts=list(rng.random((8, 4, 4))),
        tokens=[HOSTILE] * 8, token_acts=list(rng.random((8, len(HOSTILE)))), names=[*HOSTILE, "last"],
    )  # fmt: skip
    probe = replace(probe, label=HOSTILE[4])  # a file may say so, `from_arrays` would refuse it
    save_evidence({"probe": probe}, path / "evidence")
    evidence[probe.neuron] = probe
    explanations, simulations, scores = [], [], []
    for i, one in enumerate(evidence.values()):
        text = HOSTILE[i % len(HOSTILE)]
        failure = Failure(text, text) if i % 5 == 4 else None
        said = "" if failure else f"{text} {i}"
        explanations.append(Explanation(one.neuron, said, text, explainer=text, model=text, failure=failure))
        for side in sides_of(one):
            simulations.append(simulation(one, said, side, text, rng))
            scores.append(score_row(one, side, text, rng, i) | {"explanation": said})
    append_explanations(path, explanations)
    save_simulations(simulations, path)
    table = save_scores(pd.DataFrame(scores), path, SIMULATOR, "x")
    page = report(path, out=path, n_neurons=0)
    return Told(path, page, json.loads(page.with_suffix(".json").read_text(encoding="utf-8")), table)


def simulation(evidence: Evidence, explanation: str, side: Side, text: str, rng: np.random.Generator) -> Simulation:
    """Random predictions of one side, one of them a failure."""
    test = evidence.split("test")
    predictions = [
        Prediction(tuple(rng.random(p.shape).astype(np.float32) * 10 for p in e.patch_acts))
        if side == "picture"
        else Prediction(
            token_acts=np.where(e.seen.is_text, rng.random(len(e.token_acts)) * 10, np.nan).astype(np.float32)
        )
        for e in test
    ]
    predictions[-1:] = [Prediction(failure=Failure(text, text))]
    samples = tuple(e.seen.sample for e in test)
    return Simulation(evidence.neuron, side, explanation, SIMULATOR, samples, tuple(predictions), made_by="x")


def score_row(evidence: Evidence, side: Side, text: str, rng: np.random.Generator, i: int) -> dict[str, Any]:
    """A row of the score table with random numbers; every fourth has no score."""
    numbers = "r r_low r_high r_between r_within r_sample r_null p p_within q ceiling auroc iou spearman detection"
    row: dict[str, Any] = {name: float(rng.uniform(-0.2, 1)) for name in numbers.split()}
    row["p"] = abs(row["p"])
    row["r_low"], row["r"], row["r_high"] = sorted([row["r_low"], row["r"], row["r_high"]])
    if i % 4 == 3:
        row |= {"r": np.nan, "r_low": np.nan, "r_high": np.nan, "p": np.nan}
    return row | {
        "neuron": evidence.neuron, "side": side, "explanation": text, "explainer": text, "simulator": SIMULATOR,
        "made_by": "x", "label": evidence.label, "layer": 0, "r_of_other_side": np.nan, "n_null": 3,
        "r_empty": np.nan, "n_images": 8, "n_exemplars": 8, "n_failed": 1, "approximate": True,
        "note": text if i % 4 == 3 else "",
    }  # fmt: skip

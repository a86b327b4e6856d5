"""The model card: card.json as a page that a person reads."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from meaning import BARS

# What was aimed at before training; the card says where the model falls short.
TARGET_JOINT = {"1 object, held-out": 97.0, "2 objects, held-out": 92.0}
TARGET_WHERE = 75.0
TARGET_A = 30.0
TARGET_B = {
    "colour AUROC > .98 or shape > .95": 2.0,
    "colour F1 > .6 when firing": 3.0,
    "patch and word of one concept, both F1 > .5": 4.0,
}

WRITTEN = "## What its neurons show\n"  # from here on the page is not measured but written
INTRO = """---
license: mit
library_name: transformers
pipeline_tag: image-text-to-text
---
# tiny-llava-scenes

A `LlavaForConditionalGeneration` of a million parameters that describes 64 x 64 pixel scenes of one or two coloured
shapes, trained from nothing by `python examples/tiny_llava/train.py --out vlm_neurons/zoo/tiny-llava-scenes`
({minutes:.0f} minutes on two CPU cores that were busy with other work too). It exists so that neurons of a
vision-language model can be studied anywhere, with exact ground truth, in seconds. It knows 8 colours, 6 shapes, 2 sizes,
9 places and 8 backgrounds, and nothing else: on photographs its words mean little.

CLIP tower of one layer (LLaVA reads the layer before the last, so the backbone sees linear patch embeddings with
position and LayerNorm; the neurons of the tower's layer do not reach the logits), GELU projector 96-128-128, LLaMA with
4 layers of 384 MLP neurons, width 128, 4 heads; 64 visual tokens.

All numbers: `python examples/tiny_llava/card.py vlm_neurons/zoo/tiny-llava-scenes`, written to `card.json`. Scenes of
these measurements were used neither for training nor, in C, for choosing neurons. One training run, seed 0.
"""


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write README.md beside the model from the parts that were measured; what people wrote below them stays."""
    page = folder / "README.md"
    old = page.read_text() if page.exists() else ""
    written = old[old.index(WRITTEN) :] if WRITTEN in old else ""
    log = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    seconds = sum(max(r["seconds"] for r in log if r["stage"] == stage) for stage in (1, 2))
    text = INTRO.format(minutes=seconds / 60)
    for name, section in (
        ("accuracy", _accuracy),
        ("A", _control_a),
        ("B", _control_b),
        ("C", _control_c),
        ("D", _classes),
    ):
        if name in card:
            text += "\n" + section(card[name], card)
    page.write_text(text + _curve(log) + (f"\n{written}" if written else ""))


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _accuracy(found: dict[str, Any], card: dict[str, Any]) -> str:
    keys = ["size", "color", "shape", "place", "joint", "background"]
    rows = [[name, *(values[k] for k in keys)] for name, values in found.items() if "object" in name]
    joint = [f"{name} {found[name]['joint']} % (target {t} %)" for name, t in TARGET_JOINT.items()]
    questions = [[kind, value, found["questions_n"][kind]] for kind, value in found["questions"].items()]
    return (
        f"## Accuracy\nGreedy descriptions, {card['n']} scenes per row, % right. *joint*: size, colour, shape and place of"
        " every object are right together. *Held-out*: every object is a (shape, colour, size, cell) tuple that training"
        f" never showed.\n\n{_table(['scenes', *keys], rows)}\nJointly right: {'; '.join(joint)}.\n\n"
        f"Questions (*text*: without a picture):\n\n{_table(['kind', '% right', 'n'], questions)}\n"
        f"*where*: target {TARGET_WHERE} %.\n"
        "\nWhat was tried: a first run of the same script with `--steps-1 1500 --steps-2 2750 --easy-until 0.75` reached 77 % and"
        " 40 % (held-out, one and two objects, 100 scenes each); all that was missing was shape (77 % and 68.5 % right). Shape is"
        " what stage 1 learns last, so stage 1 was doubled. Still longer training was not tried.\n"
    )


def _control_a(found: dict[str, Any], card: dict[str, Any]) -> str:
    keys = ["size", "color", "shape", "place", "joint", "background"]
    text = (
        "## Control A: MLPs silenced\nThe MLPs' outputs are set to zero at some positions of the prompt; held-out scenes,"
        f" {card['n_controls']} per row, % right. (Each target: zeroing all of them at visual positions costs >= "
        f"{TARGET_A:.0f} points.)\n"
    )
    for objects, conditions in found.items():
        rows = [[name, *(v[k] for k in keys)] for name, v in conditions.items()]
        cost = conditions["intact"]["joint"] - conditions["visual positions, all layers"]["joint"]
        text += f"\n**{objects}**: silencing all MLPs at visual positions costs {cost:.1f} points (joint).\n\n"
        text += _table(["silenced", *keys], rows)
    return text


def _control_b(found: dict[str, Any], card: dict[str, Any]) -> str:
    rows = []
    for name, values in found.items():
        average = mean(values["random"])
        ratio = f"{values['trained'] / average:.1f}" if average else "-"
        rows.append([name, values["trained"], ", ".join(map(str, values["random"])), ratio, TARGET_B.get(name, "")])
    return (
        "## Control B: random gates\nEvery row of every gate_proj is replaced by a random direction of the same norm "
        f"({card['draws']} draws); neurons of 1,536 that pass each bar on 300 new scenes (SiLU(gate); *fires*: above a fifth"
        " of the neuron's maximum). Where random gates do as well, the measure says nothing about learning.\n\n"
        + _table(["neurons with", "trained", "random", "ratio to mean", "target"], rows)
    )


def _control_c(found: dict[str, Any], card: dict[str, Any]) -> str:
    rows = []
    for word, v in found.items():
        rows.append(
            [word, v["n"], v["this"], v["others"], f"{mean(v['random_this']):.1f}", f"{mean(v['random_others']):.1f}"]
        )
    means = [mean(v[k] for v in found.values()) for k in ("this", "others")]
    means += [mean(mean(v[k]) for v in found.values()) for k in ("random_this", "random_others")]
    rows.append(["**mean**", "", *(f"{m:.1f}" for m in means)])
    return (
        "## Control C: concept neurons ablated\nThe 20 neurons of all layers whose activation is best correlated with a"
        " colour's coverage (chosen on other scenes) are zeroed at visual positions; % of colours right on 400 new scenes"
        f" with one object. Matched controls: as many random neurons of the same layers, mean of {card['draws']} draws.\n\n"
        + _table(["colour", "n", "this colour", "other colours", "control: this", "control: others"], rows)
    )


def _classes(found: dict[str, Any], card: dict[str, Any]) -> str:
    rows = []
    for label, bar in BARS.items():
        trained, random = found["trained"][label], [d[label] for d in found["random"]]
        rows.append(
            [
                bar,
                f"{trained['pass']} of {trained['neurons']}",
                ", ".join(f"{r['pass']} of {r['neurons']}" for r in random),
            ]
        )
    width = 384
    examples = [
        [f"L{r['neuron'] // width}N{r['neuron'] % width}", label, r["concept"], f"{r['f1']:.2f}"]
        for label in BARS
        for r in found["examples"][label][:4]
    ]
    return (
        "## Do the classes mean something?\nClasses from 1,000 scenes (paper's rule), the concept of each neuron from 300 others,"
        " judged on 300 more; the same with random gates.\n\n"
        + _table(["class and bar", "trained", "random gates"], rows)
        + "\nThe best ones (F1 when firing, on the judging scenes):\n\n"
        + _table(["neuron", "class", "concept", "F1"], examples)
    )


def _curve(log: list[dict[str, Any]]) -> str:
    keys = ["patch", "language", "sparsity"]
    picked = [r for r in log if r["step"] % 250 == 0 or r is log[-1]]
    rows = [[r["stage"], r["step"], *(r.get(k, "") for k in keys)] for r in picked]
    return "\n## Training curve\nWeighted losses of single batches; all in `training.jsonl`.\n\n" + _table(
        ["stage", "step", *keys], rows
    )

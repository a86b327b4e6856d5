"""Measure the embedded model and write its card: accuracy, and three controls that its neurons do work.

python examples/tiny_llava/card.py vlm_neurons/zoo/tiny-llava-scenes
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meaning import meaning, passing
from measure import CONCEPTS, N_COLORS, Recording, counts, record_site, selectivity
from torch import Tensor
from tqdm import tqdm
from write_card import write_card

import vlm_neurons as vn
from vlm_neurons.hooks import ablate
from vlm_neurons.synthetic import Scenes, language

SEEDS = {"seen": 101, "held_out": 102, "questions": 103, "text": 104, "controls": 105, "choose": 106, "scan": 107}
Where = Callable[[vn.Batch], Tensor]


def say(
    model: vn.HookedVLM,
    data: Scenes,
    hooks: Callable[[vn.Batch], list[Any]] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 50,
) -> list[str]:
    """Greedy answers to all samples, with hooks that may depend on the batch."""
    said: list[str] = []
    for first in tqdm(range(0, len(data), batch_size), desc="answers", leave=False):
        samples = [data[i] for i in range(first, min(first + batch_size, len(data)))]
        batch = model.prepare([s.load_images() for s in samples], [s.prompt for s in samples], padding_side="left")
        with model.hooks(fwd_hooks=hooks(batch) if hooks else []):
            said += model.generate(batch, max_new_tokens=max_new_tokens)
    return said


def description_scores(data: Scenes, said: list[str]) -> dict[str, float]:
    """Share of scenes (objects for single attributes) that a description has right, in percent."""
    right: dict[str, list[bool]] = {k: [] for k in ("size", "color", "shape", "place", "joint", "background")}
    for world, text in zip(data.worlds, said, strict=True):
        (things, ground), (true_things, true_ground) = language.read_description(text), language.facts(world)
        padded = things + [{}] * len(true_things)
        for true, found in zip(true_things, padded, strict=False):
            for key in ("size", "color", "shape", "place"):
                right[key].append(found.get(key) == true[key])
        right["joint"].append(things == true_things)
        right["background"].append(ground == true_ground)
    return {key: round(100 * float(np.mean(values)), 1) for key, values in right.items()}


def accuracy(model: vn.HookedVLM, n: int) -> dict[str, Any]:
    """Descriptions of seen and held-out tuples, questions by kind, text-only questions."""
    found: dict[str, Any] = {}
    for split in ("seen", "held_out"):
        for objects in (1, 2):
            data = vn.scenes(n, seed=SEEDS[split], split=split, objects=objects)
            found[f"{objects} object{'s' if objects == 2 else ''}, {split.replace('_', '-')}"] = description_scores(
                data, say(model, data)
            )
    answers: dict[str, list[bool]] = {}
    for task, seed in (("question", SEEDS["questions"]), ("text", SEEDS["text"])):
        data = vn.scenes(3 * n if task == "question" else n, seed=seed, task=task)
        for kind, sample, text in zip(data.asked, data, say(model, data, max_new_tokens=12), strict=True):
            answers.setdefault(kind, []).append(text.strip() == sample.response)
    found["questions"] = {kind: round(100 * float(np.mean(a)), 1) for kind, a in sorted(answers.items())}
    found["questions_n"] = {kind: len(a) for kind, a in sorted(answers.items())}
    return found


def silence(model: vn.HookedVLM, where: Where, layers: list[int]) -> Callable[[vn.Batch], list[Any]]:
    """Zero the input of down_proj, and with it the MLP's output, at some positions of the prompt."""
    return lambda batch: ablate([f"blocks.{i}.mlp.hook_post" for i in layers], where=where(batch))


def on_objects(data: Scenes, first: int, batch: vn.Batch, objects: bool) -> Tensor:
    """Visual positions on objects, or as many on the background (drawn at random) of every row."""
    mask = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    rng = np.random.default_rng(first)
    for row in range(len(batch)):
        positions = batch.mask("visual")[row].nonzero().flatten()
        most = data.things(first + row).max(0).reshape(-1)
        chosen = np.flatnonzero(most >= 0.15)
        if not objects:
            free = np.flatnonzero(most < 0.03)
            chosen = rng.choice(free, min(len(chosen), len(free)), replace=False)
        mask[row, positions[torch.from_numpy(chosen)]] = True
    return mask


def control_a(model: vn.HookedVLM, n: int) -> dict[str, Any]:
    """MLPs silenced by position kind: what each costs, per attribute."""
    found: dict[str, Any] = {}
    every = list(range(model.n_layers))
    for objects in (1, 2):
        data = vn.scenes(n, seed=SEEDS["controls"], split="held_out", objects=objects)
        visual: Where = lambda b: b.mask("visual")  # noqa: E731
        conditions: dict[str, Callable[[vn.Batch], list[Any]] | None] = {
            "intact": None,
            "visual positions, all layers": silence(model, visual, every),
        }
        conditions |= {f"visual positions, layer {i}": silence(model, visual, [i]) for i in every}
        conditions["prompt positions (no patch), all layers"] = silence(model, lambda b: b.mask("template"), every)
        offset = {"i": 0}

        def patches(kind: bool, data: Scenes = data, offset: dict[str, int] = offset) -> Where:
            def where(batch: vn.Batch) -> Tensor:
                mask = on_objects(data, offset["i"], batch, kind)
                offset["i"] = (offset["i"] + len(batch)) % len(data)
                return mask

            return where

        conditions["object patches, all layers"] = silence(model, patches(True), every)
        conditions["as many background patches, all layers"] = silence(model, patches(False), every)
        found[f"{objects} object{'s' if objects == 2 else ''}"] = {
            name: description_scores(data, say(model, data, hooks)) for name, hooks in conditions.items()
        }
    return found


def control_b(model: vn.HookedVLM, n: int, draws: int) -> dict[str, Any]:
    """Concept-selective neurons of the trained gates and of random ones, on the same new scenes."""
    data = vn.scenes(n, seed=SEEDS["controls"])
    layers = np.repeat(np.arange(model.n_layers), model.config.text_config.intermediate_size)
    trained = counts(selectivity(record_site(model, data)), layers)
    drawn = []
    for seed in tqdm(range(draws), desc="random gates"):
        with vn.interventions.random_gates(model, seed):
            drawn.append(counts(selectivity(record_site(model, data)), layers))
    return {name: {"trained": value, "random": [d[name] for d in drawn]} for name, value in trained.items()}


def correlated(recording: Recording, concept: int) -> np.ndarray:
    """Correlation of every neuron with the share of each patch that a concept covers."""
    share = recording.data.concept(*CONCEPTS[concept]).reshape(-1)
    a = recording.patches - recording.patches.mean(0)
    b = share - share.mean()
    return (a * b[:, None]).sum(0) / (np.sqrt((a**2).sum(0) * (b**2).sum()) + 1e-12)


def control_c(model: vn.HookedVLM, n: int, k: int, draws: int) -> dict[str, Any]:
    """The k neurons best correlated with a colour, zeroed at visual positions: what the model then calls things."""
    recording = record_site(model, vn.scenes(300, seed=SEEDS["choose"]))
    width = model.config.text_config.intermediate_size
    data = vn.scenes(n, seed=SEEDS["controls"], objects=1)
    colors = np.array([w.things[0].color for w in data.worlds])
    found: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for concept in tqdm(range(N_COLORS), desc="colours"):
        word = CONCEPTS[concept][1]
        best = np.argsort(-correlated(recording, concept))[:k]
        controls = [
            np.array(
                [rng.choice([j for j in range(i * width, (i + 1) * width) if j not in best]) for i in best // width]
            )
            for _ in range(draws)
        ]
        kept = []
        for chosen in (best, *controls):
            ids = [f"L{j // width}N{j % width}" for j in chosen]
            said = say(model, data, lambda b, ids=ids: ablate(ids, where=b.mask("visual")))
            right = np.array([(language.read_description(t)[0] or [{}])[0].get("color") for t in said]) == colors
            kept.append((100 * right[colors == word].mean(), 100 * right[colors != word].mean()))
        found[word] = {
            "this": round(kept[0][0], 1),
            "others": round(kept[0][1], 1),
            "random_this": [round(a, 1) for a, _ in kept[1:]],
            "random_others": [round(b, 1) for _, b in kept[1:]],
            "n": int((colors == word).sum()),
        }
    return found


def control_d(model: vn.HookedVLM, draws: int) -> dict[str, Any]:
    """Neurons of each class that pass its bar on scenes that did not choose them, trained and with random gates."""
    trained = meaning(model, SEEDS)
    drawn = []
    for seed in range(draws):
        with vn.interventions.random_gates(model, seed):
            drawn.append(passing(meaning(model, SEEDS)))
    best = {
        label: sorted((r for r in trained if r["label"] == label and r["passes"]), key=lambda r: -r["f1"])[:8]
        for label in ("visual", "text", "multimodal")
    }
    return {"trained": passing(trained), "random": drawn, "examples": best}


def main() -> None:
    """Everything, or what `--only` names; results are added to card.json and the card is written from it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=500, help="scenes per accuracy cell")
    parser.add_argument("--n-controls", type=int, default=200)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["accuracy", "A", "B", "C", "D"])
    args = parser.parse_args()
    folder = Path(args.model)
    model = vn.HookedVLM.from_pretrained(args.model)
    path = folder / "card.json"
    card = json.loads(path.read_text()) if path.exists() else {}
    card |= {"n": args.n, "n_controls": args.n_controls, "draws": args.draws}
    parts: dict[str, Callable[[], Any]] = {
        "accuracy": lambda: accuracy(model, args.n),
        "A": lambda: control_a(model, args.n_controls),
        "B": lambda: control_b(model, 300, args.draws),
        "C": lambda: control_c(model, 400, 20, args.draws),
        "D": lambda: control_d(model, args.draws),
    }
    for name in args.only:
        began = time.monotonic()
        card[name] = parts[name]()
        print(f"{name}: {time.monotonic() - began:.0f} s\n{json.dumps(card[name], indent=1, default=float)}")
        path.write_text(json.dumps(card, indent=1, default=float) + "\n")
    write_card(folder, card)


if __name__ == "__main__":
    main()

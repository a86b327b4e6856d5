"""Do the classes mean something? Neurons and concepts are chosen on some scenes and judged on others."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from measure import CONCEPTS, FIRES, Recording, f1_of_firing, record_site, selectivity

import vlm_neurons as vn
from vlm_neurons.synthetic.language import WORD_CLASSES

BARS = {
    "visual": "visual, a colour or shape among object patches: AUROC >= .9 and F1 >= .6",
    "text": "text, a word or a class of words: F1 >= .8",
    "multimodal": "multimodal, picture and word of one concept: both F1 >= .5",
}


def word_bank(recording: Recording) -> dict[str, np.ndarray]:
    """Every token that is said often enough to judge, and every class of words: which response tokens they are."""
    tokens, counts = np.unique(recording.said, return_counts=True)
    bank = {f'the word "{t}"': recording.said == t for t, c in zip(tokens, counts, strict=True) if c >= 10}
    for kind, words in WORD_CLASSES.items():
        bank[f"any {kind} word"] = np.isin(recording.said, words)
    return bank


def judge(choose: Recording, test: Recording, labels: np.ndarray) -> list[dict[str, Any]]:
    """For every neuron of a class the concept that fits best on `choose`, with its scores on `test`.

    Args:
        labels: class of every neuron, in the order of the recordings' neurons.
    """
    first, second = selectivity(choose), selectivity(test)
    bank, test_bank = word_bank(choose), word_bank(test)
    names = [n for n in bank if n in test_bank]
    word_first = np.stack([f1_of_firing(choose.words > FIRES * choose.peak, bank[n]) for n in names])
    word_second = np.stack([f1_of_firing(test.words > FIRES * test.peak, test_bank[n]) for n in names])
    both = np.minimum(first.f1, first.word_f1)
    found = []
    for neuron, label in enumerate(labels):
        row: dict[str, Any] = {"neuron": neuron, "label": str(label)}
        if label == "visual":
            best = int(np.minimum(first.f1, first.auroc_objects)[:, neuron].argmax())
            f1, auroc = second.f1[best, neuron], second.auroc_objects[best, neuron]
            row |= {"concept": CONCEPTS[best][1], "f1": f1, "auroc": auroc, "passes": bool(auroc >= 0.9 and f1 >= 0.6)}
        elif label == "text":
            best = int(word_first[:, neuron].argmax())
            row |= {"concept": names[best], "f1": word_second[best, neuron]}
            row["passes"] = bool(row["f1"] >= 0.8)
        elif label == "multimodal":
            best = int(both[:, neuron].argmax())
            row |= {
                "concept": CONCEPTS[best][1],
                "f1": second.f1[best, neuron],
                "word_f1": second.word_f1[best, neuron],
            }
            row["passes"] = bool(min(row["f1"], row["word_f1"]) >= 0.5)
        found.append(row)
    return found


def meaning(model: vn.HookedVLM, seeds: dict[str, int], site: str = "gate") -> list[dict[str, Any]]:
    """Classify all neurons of a site, and judge them."""
    with tempfile.TemporaryDirectory() as folder:
        run = vn.scan(model, vn.scenes(1000, seed=seeds["scan"]), site=site, batch_size=32, out=folder, progress=False)
        table = vn.classify(run)
    labels = table[table.pole == "+"].sort_values(["layer", "index"])["label"].to_numpy()
    choose, test = (record_site(model, vn.scenes(300, seed=seeds[k]), site) for k in ("choose", "controls"))
    return judge(choose, test, labels)


def passing(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Per class: how many neurons it has, and how many pass its bar."""
    return {
        label: {
            "neurons": sum(r["label"] == label for r in rows),
            "pass": sum(r["label"] == label and r["passes"] for r in rows),
        }
        for label in BARS
    }

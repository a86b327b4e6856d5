"""The clearest colour neurons: does switching them off, or on, change the colour that is named?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import vlm_neurons as vn
from vlm_neurons.hooks import ablate, record
from vlm_neurons.interventions.effects import activation_sizes, matched
from vlm_neurons.stats import bootstrap_means as bootstrap
from vlm_neurons.synthetic.pairs import ColorPairs, color_pairs
from vlm_neurons.synthetic.scene import COLORS, coverage
from vlm_neurons.units import Neuron

CHOOSE, JUDGE = 301, 302  # seeds of the scenes
STRENGTH = 2.0  # steering sets neurons to so many times their high value
SINGLE, TOGETHER = 8, 20  # neurons shown one by one; neurons of a colour that are switched together


class Setting:
    """Pictures of one object each, up to the word that names its colour."""

    def __init__(self, model: vn.HookedVLM, pairs: ColorPairs) -> None:
        data = pairs.clean
        self.model = model
        self.batch = model.prepare(
            [s.load_images() for s in data], [s.prompt for s in data], [s.response for s in data]
        )
        self.naming = int(self.batch.mask("text")[0].nonzero()[-1])
        self.colors = np.array([clean for clean, _ in pairs.colors])
        self.ids = torch.tensor([model.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in COLORS])
        self.visual = self.batch.mask("visual")
        self.on = np.stack([coverage(w)[0].reshape(-1) for w in pairs.worlds]) >= 0.15
        self.object = self.visual.clone()
        self.object[self.visual] = torch.from_numpy(self.on.reshape(-1))

    def log_odds(self, hooks: list[Any]) -> np.ndarray:
        """Log probability of every colour word against the others, [scene, colour]."""
        with torch.no_grad():
            logits = self.model.run_with_hooks(self.batch, fwd_hooks=hooks)[:, self.naming]
        return logits[:, self.ids].log_softmax(-1).numpy()

    def gates(self) -> dict[str, Tensor]:
        """Gate activations [scene, pos, neuron] by hook."""
        seen: dict[str, Tensor] = {}
        self.model.observe(self.batch, dict(record(self.model.site_hooks("gate"), into=seen)))
        return seen


def choose(setting: Setting) -> pd.DataFrame:
    """For every neuron the colour whose object patches it tells best from patches of other objects (d'), and its
    high value: the 90th percentile on the object patches of the colour where that is highest."""
    rows = []
    owner = np.repeat(setting.colors, setting.on.shape[1])[setting.on.reshape(-1)]
    for hook, values in setting.gates().items():
        patches = values[setting.visual].numpy()[setting.on.reshape(-1)]
        for color in COLORS:
            mine, others = patches[owner == color], patches[owner != color]
            apart = (mine.mean(0) - others.mean(0)) / (np.sqrt((mine.var(0) + others.var(0)) / 2) + 1e-6)
            high = np.quantile(mine, 0.9, axis=0)
            rows.append(
                pd.DataFrame({"hook": hook, "index": range(len(apart)), "color": color, "apart": apart, "high": high})
            )
    table = pd.concat(rows, ignore_index=True)
    table["high"] = table.groupby(["hook", "index"])["high"].transform("max")
    table = table.sort_values("apart", ascending=False, kind="stable")
    return table.drop_duplicates(["hook", "index"])


def single_neurons(model: vn.HookedVLM, n: int = 100, draws: int = 8) -> pd.DataFrame:
    """One row per neuron or group: how ablating it moves the colour word where it is true, and how steering it (to its
    own high value at object patches) moves it where it is not; controls are matched random neurons treated alike.

    Columns: change of the word's log probability among colour words (`ablate`, `steer`), the same for the controls,
    their difference with a 95 % interval over scenes and draws, and the share of scenes in which the word is said.
    """
    found = choose(Setting(model, color_pairs(4 * n, seed=CHOOSE)))
    setting = Setting(model, color_pairs(2 * n, seed=JUDGE))
    highs: dict[tuple[str, int], float] = {
        (h, i): v for h, i, v in zip(found["hook"], found["index"], found["high"], strict=True)
    }
    sizes = activation_sizes(model, [setting.batch], model.site_hooks("gate"), "visual")
    # What the last layer writes at image positions, no other position ever reads: neurons there cannot matter.
    found = found[(found["high"] > 0.1) & (found["hook"] != model.site_hooks("gate")[-1])]
    units: list[tuple[str, list[Neuron]]] = []
    for _, row in found.head(SINGLE).iterrows():
        units.append((row["color"], [Neuron(row["hook"], int(row["index"]))]))
    for color in COLORS:
        best = found[found["color"] == color].head(TOGETHER)
        units.append((color, [Neuron(h, int(i)) for h, i in zip(best["hook"], best["index"], strict=True)]))
    intact = setting.log_odds([])
    rows = []
    for number, (color, neurons) in enumerate(units):
        rng = np.random.default_rng([0, number])
        drawn = [matched(neurons, sizes, rng) for _ in range(draws)]
        place = list(COLORS).index(color)
        row: dict[str, Any] = {
            "color": color,
            "neurons": neurons[0].id if len(neurons) == 1 else f"best {len(neurons)}",
        }
        for name in ("ablate", "steer"):
            here = (setting.colors == color) if name == "ablate" else (setting.colors != color)
            moved = [_moved(setting, name, group, highs) for group in (neurons, *drawn)]
            change = [(m - intact)[here, place] for m in moved]
            paired = np.stack([change[0] - c for c in change[1:]], 1)
            low, high = np.percentile(bootstrap(paired, rng), [2.5, 97.5])
            said = [100 * float((m.argmax(1) == place)[here].mean()) for m in moved]
            row |= {
                name: float(change[0].mean()),
                f"{name}, controls": float(np.mean([c.mean() for c in change[1:]])),
                f"{name}, difference": f"{paired.mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                f"{name}, said %": round(said[0], 1),
                f"{name}, controls said %": round(float(np.mean(said[1:])), 1),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _moved(setting: Setting, name: str, neurons: list[Neuron], highs: dict[tuple[str, int], float]) -> np.ndarray:
    if name == "ablate":
        return setting.log_odds(ablate(neurons, where=setting.visual))
    values = STRENGTH * torch.tensor([highs[n.hook, n.index] for n in neurons])
    return setting.log_odds(ablate(neurons, to=values, where=setting.object))

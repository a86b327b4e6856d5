"""Explainers x simulators of two families: how much does a score gain where explainer and simulator are kin?

One family is the concept bank (colours and shapes measured in pixels, and the ground truth of scenes): the dissection
explainer, and the concept simulator. The other has learned from captions alone, and shares no code with it: a small CLIP,
trained here on scenes that no planted neuron sees; its explainer is CLIP-Dissect's idea (Oikarinen, Weng 2023, arXiv
2204.10965): of a list of phrases, the one whose map correlates best with the activations of the split "explain".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp import Explainer, Explanation, Simulator
from vlm_neurons.autointerp.scorers import measures, pieces_of

KINDS = ("color", "shape", "conjunction")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring")
GENERIC = ("a photo", "a background", "objects")
PHRASES = (
    *(f"{color} regions" for color in COLORS),
    *(f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES),
    *(f"{color} {shape}es" if shape == "cross" else f"{color} {shape}s" for color, shape in product(COLORS, SHAPES)),
)
SIDE, PATCH, WIDTH = 64, 8, 64
N_SCENES, STEPS, BATCH = 4000, 1500, 48
MAX_COST = 5.0  # US dollars, of an API, for explaining and for simulating


def trained(seed: int) -> Any:
    """A CLIP of two layers whose patches have learned phrases from whether captions have their words, and no places."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(seed)
    tokenizer, shape = _tokenizer(), {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2,
                                      "num_attention_heads": 4}  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    text = {**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 8, **ids}
    vision = {**shape, "image_size": SIDE, "patch_size": PATCH}
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor: Any = CLIPProcessor(images, tokenizer)
    data = vn.scenes(N_SCENES, seed=seed + 1000)
    pixels = processor.image_processor(images=[data[i].images[0] for i in range(N_SCENES)], return_tensors="pt")
    _fit(
        model, processor, pixels["pixel_values"], torch.tensor([_named(str(data[i].response)) for i in range(N_SCENES)])
    )
    return vn.simulators.ClipSimulator(model.eval().requires_grad_(False), processor, generic=GENERIC)


def _fit(model: Any, processor: Any, pixels: torch.Tensor, there: torch.Tensor) -> None:
    """A picture has a phrase as much as its best patches do (noisy or)."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    tokens = processor.tokenizer([*PHRASES, *GENERIC], padding="max_length", max_length=8, return_tensors="pt")
    bar = tqdm(range(STEPS), desc="CLIP learns from captions")
    for step in bar:
        rows = torch.randperm(len(pixels))[:BATCH]
        hidden = model.vision_model(pixels[rows]).last_hidden_state[:, 1:]
        patches = model.visual_projection(model.vision_model.post_layernorm(hidden))
        words = model.get_text_features(**{k: tokens[k] for k in ("input_ids", "attention_mask")})
        words = getattr(words, "pooler_output", words)
        patches, words = (torch.nn.functional.normalize(x, dim=-1) for x in (patches, words))
        cosines = model.logit_scale.exp() * patches @ words.T  # [image, patch, phrase]
        anything = cosines[..., len(PHRASES) :].logsumexp(-1, keepdim=True)
        at = torch.sigmoid(cosines[..., : len(PHRASES)] - anything)  # as the simulator reads it
        best = at.topk(3, dim=1).values.mean(1).clamp(1e-5, 1 - 1e-5)  # an object covers a few patches
        loss = torch.nn.functional.binary_cross_entropy(best, there[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def _named(caption: str) -> list[float]:
    """1 for every phrase that a caption says: a colour, a shape, or both of one object."""
    first = re.findall(r"(?:small|large) (\w+) (\w+)", caption)
    colors, shapes = {c for c, _ in first}, {s for _, s in first}
    singles = [*(c in colors for c in COLORS), *(s in shapes for s in SHAPES)]
    return [float(x) for x in (*singles, *(pair in first for pair in product(COLORS, SHAPES)))]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *dict.fromkeys(w for p in (*PHRASES, *GENERIC) for w in p.split())]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


class ByMaps(Explainer):
    """Of some phrases, the one whose simulated maps correlate best with the activations."""

    def __init__(self, simulator: Simulator, name: str) -> None:
        self.simulator, self.name = simulator, name

    def explain(self, evidence: Mapping[str, vn.Evidence]) -> Iterator[tuple[str, Explanation]]:
        for key, one in evidence.items():
            shown = one.split("explain")
            rs = [
                measures.pooled(pieces_of(one, shown, self.simulator.simulate(phrase, shown, "picture"), "picture"))
                for phrase in PHRASES
            ]
            best = int(np.nanargmax(rs))
            yield key, Explanation(one.neuron, PHRASES[best], confidence=rs[best], explainer=self.name)


def judge(n: int, seed: int, api_model: str = "") -> None:
    """Mean r of what each explainer says, by each simulator; how often it says the planted concept; and the truth."""
    simulators: dict[str, Simulator] = {"concepts": vn.simulators.ConceptSimulator(), "clip": trained(seed)}
    explainers: dict[str, tuple[Explainer, str]] = {
        "dissection": (vn.explainers.DissectionExplainer(), "concepts"),
        "by maps": (ByMaps(simulators["clip"], "by maps"), "clip"),
    }
    if api_model:
        simulators["api"] = vn.simulators.ApiSimulator(api_model, max_cost=MAX_COST)
        explainers["api"] = vn.explainers.OpenAIExplainer(api_model, max_cost=MAX_COST), "api"
    neurons = planted.neurons(KINDS, n=n, seed=seed)
    evidence = {p.evidence.neuron: p.evidence for p in neurons}
    said: dict[str, dict[str, str]] = {
        name: {p.evidence.neuron: p.rule.explanations[name] for p in neurons} for name in ("true", "near_miss")
    }
    for name, (explainer, _) in explainers.items():
        said[name] = {k: one.text for k, one in vn.explain(evidence, explainer).items()}
    rs = {
        (who, name): vn.score(words, evidence, simulator, n_null=0, n_permutations=999).set_index("neuron").r.fillna(0)
        for who, words in said.items()
        for name, simulator in simulators.items()
    }
    table = Table(
        "explanation", "kind", "says the truth", *(f"r by {name}" for name in simulators), "kin's favour (95 %)"
    )
    for who, kind in product(said, KINDS):
        own = [k for k in evidence if k.startswith(f"{kind}-")]
        right = sum(said[who][k] == said["true"][k] for k in own)
        favour = _favour(rs, who, explainers[who][1], own, seed) if who in explainers else ""
        numbers = [f"{rs[who, name][own].mean():.2f}" for name in simulators]
        table.add_row(who.replace("_", " "), kind, f"{right} of {len(own)}", *numbers, favour)
    Console(width=130).print(table)


def _favour(rs: Mapping[tuple[str, str], Any], who: str, kin: str, own: list[str], seed: int) -> str:
    """How much better than the truth an explainer does with its own family, less the same with the others (mean)."""
    gains = {name: (rs[who, name] - rs["true", name])[own].to_numpy(float) for one, name in rs if one == who}
    favour = gains.pop(kin) - np.mean([*gains.values()], axis=0)
    drawn = np.random.default_rng(seed).choice(favour, (2000, len(favour))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{favour.mean():+.2f} ({low:+.2f} - {high:+.2f})"

"""CLIP and SigLIP from a directory: what they say of a patch comes back to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
import torch
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.autointerp.simulators.clip import ClipSimulator
from vlm_neurons.concepts.dense import patch_features, text_features

COLORS = {"red": (220, 30, 30), "green": (40, 170, 60), "blue": (40, 80, 220), "yellow": (235, 205, 40)}
GENERIC = ("something", "anything else")
SIDE, PATCH = 32, 8


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *COLORS, "something", "anything", "else", "objects"]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def saved(kind: str, folder: Path) -> Path:
    """A tiny random model of a kind, with its processor, in a directory."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, SiglipConfig, SiglipModel, SiglipProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    shape = {"hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {
        **shape,
        "vocab_size": 12,
        "max_position_embeddings": 8,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "bos_token_id": 0,
    }
    vision = {**shape, "image_size": SIDE, "patch_size": PATCH}
    if kind == "clip":
        model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        crop = {"height": SIDE, "width": SIDE}
        images: Any = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop)
        processor: Any = CLIPProcessor(images, tokenizer())
    else:
        model = SiglipModel(SiglipConfig(text_config={**text, "projection_size": 48}, vision_config=vision))
        processor = SiglipProcessor(SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer())
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder


def blocks(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A picture of coloured cells, and which colour each has."""
    chosen = rng.integers(len(COLORS), size=(rows, columns))
    pixels = np.array(list(COLORS.values()))[chosen] + rng.normal(0, 6, (rows, columns, 3))
    small = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return small.resize(size, Image.Resampling.NEAREST), chosen


def taught(simulator: ClipSimulator, seed: int = 0) -> ClipSimulator:
    """The same model with projections fitted so that patches and the names of their colours agree."""
    rng, model = np.random.default_rng(seed), simulator.model
    pictures, labels = zip(*(blocks(rng, 4, 4, (SIDE, SIDE)) for _ in range(60)), strict=True)
    inputs = simulator.processor.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    names = [*COLORS, *GENERIC]
    target = torch.eye(16)[: len(names)]
    target[len(COLORS) :] = 0.5 / 2**0.5
    with torch.no_grad():
        hidden = model.vision_model.post_layernorm(model.vision_model(inputs).last_hidden_state[:, 1:]).flatten(0, 1)
        wanted = target[torch.tensor(np.stack(labels).reshape(-1))]
        model.visual_projection.weight.copy_(torch.linalg.lstsq(hidden, wanted).solution.T)
        tokens = simulator.processor.tokenizer(names, padding="max_length", max_length=8, return_tensors="pt")
        pooled = model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        model.text_projection.weight.copy_(torch.linalg.lstsq(pooled, target, driver="gelsd").solution.T)
        model.logit_scale.fill_(2.0)
    return simulator


def evidence(pictures: Sequence[Image.Image], maps: Sequence[np.ndarray]) -> vn.Evidence:
    return vn.Evidence.from_arrays("c", images=list(pictures), patch_acts=list(maps), n_top=len(pictures))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipSimulator:
    made = ClipSimulator.from_pretrained(saved("clip", tmp_path_factory.mktemp("clip")), generic=GENERIC)
    return taught(made, seed=seeds.number())


def test_the_name_of_a_colour_lights_its_patches(clip: ClipSimulator) -> None:
    rng = seeds.rng()
    pictures, labels = zip(*(blocks(rng, 4, 4, (SIDE, SIDE)) for _ in range(20)), strict=True)
    for number, color in enumerate(COLORS):
        one = evidence(pictures, [(chosen == number).astype(float) for chosen in labels])
        found = clip.simulate(f"{color} regions", one.exemplars, "picture")
        real = np.concatenate([e.patch_acts[0].ravel() for e in one.exemplars])
        predicted = np.concatenate([p.patch_acts[0].ravel() for p in found])
        right = np.corrcoef(real, predicted)[0, 1]
        assert right > 0.8, color
        turned = np.concatenate([p.patch_acts[0].T.ravel() for p in found])
        assert np.corrcoef(real, turned)[0, 1] < right - 0.3, "this test would see a transposed grid"
        assert predicted.min() >= 0 and predicted.max() <= 10


def test_alternatives_and_their_opposite(clip: ClipSimulator) -> None:
    picture, _ = blocks(seeds.rng(), 4, 4, (SIDE, SIDE))
    exemplars = evidence([picture], [np.zeros((4, 4))]).exemplars
    said = {
        e: clip.simulate(e, exemplars, "picture")[0].patch_acts[0]
        for e in ("red regions", "blue regions", "red; blue", "anything but red")
    }
    np.testing.assert_allclose(said["red; blue"], np.maximum(said["red regions"], said["blue regions"]), atol=1e-5)
    np.testing.assert_allclose(said["anything but red"], 10 - said["red regions"], atol=1e-5)


def test_the_whole_of_a_wide_picture_is_seen_and_patches_of_any_grid_get_their_share(clip: ClipSimulator) -> None:
    wide = Image.new("RGB", (96, 32), COLORS["blue"])
    wide.paste(COLORS["red"], (0, 0, 24, 32))  # a centre crop would lose it
    one = evidence([wide], [np.zeros((1, 8))])
    (found,) = clip.simulate("red regions", one.exemplars, "picture")
    values = found.patch_acts[0][0]
    assert values.shape == (8,) and values[:2].min() > values[2:].max() + 1
    assert clip.resolution.grid == (4, 4)
    np.testing.assert_allclose(values[::2], values[1::2], atol=1e-4)


def test_an_explanation_that_says_nothing_predicts_the_same_everywhere(clip: ClipSimulator) -> None:
    exemplars = evidence([blocks(seeds.rng(), 4, 4, (SIDE, SIDE))[0]], [np.zeros((4, 4))]).exemplars
    assert clip.simulate("", exemplars, "picture")[0].patch_acts[0].std() == 0


def test_siglip_pools_every_patch_alone_and_clip_projects_it(tmp_path: Path, clip: ClipSimulator) -> None:
    sig = ClipSimulator.from_pretrained(saved("siglip", tmp_path), generic=GENERIC)
    picture, _ = blocks(seeds.rng(), 4, 4, (SIDE, SIDE))
    exemplars = evidence([picture], [np.zeros((4, 4))]).exemplars
    values = sig.simulate("red", exemplars, "picture")[0].patch_acts[0]
    assert values.shape == (4, 4) and 0 < values.min() < values.max() < 10
    for one in (sig, clip):
        features = patch_features(one.model, one.processor, [picture])[0]
        np.testing.assert_allclose(features.norm(dim=-1), 1, atol=1e-5)
        pixels = one.processor.image_processor(images=picture, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            hidden = one.model.vision_model(pixels).last_hidden_state
            if one is sig:  # the model's own pooled output of an image of one patch
                alone = one.model.vision_model.head(hidden[:, 5:6])[0]
            else:  # what the model does to its class token
                alone = one.model.visual_projection(one.model.vision_model.post_layernorm(hidden[0, 6]))
        np.testing.assert_allclose(features[5], alone / alone.norm(), atol=1e-5)
    texts = text_features(sig.model, sig.processor, ["red", "blue"])
    with torch.no_grad():
        pooled = sig.model.text_model(
            sig.processor.tokenizer(["red"], padding="max_length", max_length=8, return_tensors="pt")["input_ids"]
        ).pooler_output[0]
    np.testing.assert_allclose(texts[0], pooled / pooled.norm(), atol=1e-5)


def test_what_is_no_clip_is_refused_and_weights_are_in_the_settings(clip: ClipSimulator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CLIP and SigLIP"):
        ClipSimulator(tiny.llava(), clip.processor)
    other = ClipSimulator.from_pretrained(saved("clip", tmp_path), generic=GENERIC)
    assert other.settings() != clip.settings() == ClipSimulator(clip.model, clip.processor, generic=GENERIC).settings()

"""Boxes, masks and patches meet: the whole way from an explanation to predicted activations, with real processors."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loopback
import numpy as np
import pytest
import seeds
import tiny
import torch
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.autointerp.client import ChatClient
from vlm_neurons.autointerp.simulators import Job, Prediction
from vlm_neurons.autointerp.simulators.grounded import GroundedSimulator, painted
from vlm_neurons.autointerp.simulators.phrases import Phrase, own_phrases
from vlm_neurons.concepts.shares import means

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "red", "blue", "things", "the", "sky"]
COLORS = {6: (230, 20, 20), 7: (20, 20, 230)}
CONFIDENCE = 0.8
DECODER = {"mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 8}


def detector_processor(folder: Path) -> Any:
    from transformers import BertTokenizer, GroundingDinoProcessor
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 192})
    return GroundingDinoProcessor(images, BertTokenizer(str(folder / "vocab.txt")))


def segmenter_processor() -> Any:
    from transformers import SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    side = {"height": 64, "width": 64}
    return SamProcessor(SamImageProcessorPil(size={"longest_edge": 64}, pad_size=side))


class ColourDetector(torch.nn.Module):
    """Does what Grounding DINO is for, for words that are colours: a box around all pixels of the colour."""

    device, config = torch.device("cpu"), SimpleNamespace(max_text_len=32)

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, **rest: Any) -> Any:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (pixel_values[0].permute(1, 2, 0) * std + mean) * 255
        logits, boxes = torch.full((1, 4, 256), -9.0), torch.full((1, 4, 4), 0.5)
        for query, place in enumerate(i for i, t in enumerate(input_ids[0].tolist()) if t in COLORS):
            color = torch.tensor(COLORS[int(input_ids[0, place])])
            rows, columns = torch.nonzero((pixels - color).abs().sum(-1) < 90, as_tuple=True)
            if len(rows):
                height, width = pixels.shape[:2]
                top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
                boxes[0, query] = torch.stack([(left + right) / 2 / width, (top + bottom) / 2 / height,
                                               (right - left) / width, (bottom - top) / height])  # fmt: skip
                logits[0, query, place] = torch.logit(torch.tensor(CONFIDENCE))
        return SimpleNamespace(logits=logits, pred_boxes=boxes)


class BoxSegmenter(torch.nn.Module):
    """Has SAM's interface; the mask is all of the box."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values: torch.Tensor, input_boxes: torch.Tensor, multimask_output: bool) -> Any:
        assert pixel_values.shape == (1, 3, 64, 64) and not multimask_output
        masks = torch.full((1, input_boxes.shape[1], 1, 64, 64), -1.0)
        for i, box in enumerate(input_boxes[0]):
            left, top, right, bottom = (int(v) for v in box.round())
            masks[0, i, 0, top:bottom, left:right] = 1.0
        return SimpleNamespace(pred_masks=masks)


@pytest.fixture
def grounded(tmp_path: Path) -> GroundedSimulator:
    return GroundedSimulator(ColourDetector(), detector_processor(tmp_path), BoxSegmenter(), segmenter_processor())


def scene(rng: np.random.Generator, size: tuple[int, int] = (64, 48)) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """A red and a blue rectangle apart from each other on gray, and their true masks."""
    pixels, masks = np.full((size[1], size[0], 3), 128, np.uint8), {}
    for name, color, start in (("red", COLORS[6], 0), ("blue", COLORS[7], size[0] // 2)):
        left, top = start + 4 * int(rng.integers(1, 3)), 4 * int(rng.integers(1, 4))
        right, bottom = left + 4 * int(rng.integers(2, 5)), top + 4 * int(rng.integers(2, 7))
        masks[name] = np.zeros(pixels.shape[:2], bool)
        masks[name][top:bottom, left:right] = True
        pixels[masks[name]] = color
    return Image.fromarray(pixels), masks


def evidence(images: Sequence[Image.Image], shape: tuple[int, int] = (6, 8)) -> vn.Evidence:
    patches = [np.zeros(shape) for _ in images]
    return vn.Evidence.from_arrays("g", images=list(images), patch_acts=patches, n_top=len(images))


def ask(simulator: GroundedSimulator, explanations: Sequence[str], image: Image.Image) -> list[Prediction]:
    (e,) = evidence([image]).exemplars
    found = dict(simulator.run([Job(x, e, "picture") for x in explanations]))
    return [found[i] for i in range(len(explanations))]


def test_a_patch_gets_its_share_of_what_is_found_times_confidence(grounded: GroundedSimulator) -> None:
    image, masks = scene(seeds.rng())
    (e,) = evidence([image]).exemplars
    boxes = e.seen.boxes[0]
    red, blue = (10 * CONFIDENCE * means(masks[c].astype(float), boxes) for c in ("red", "blue"))
    found = ask(grounded, ["red regions", "blue; red things", "anything but red", "the sky", ""], image)
    wanted = [red, np.maximum(red, blue), 10 - red, np.zeros((6, 8)), np.zeros((6, 8))]
    for prediction, right in zip(found, wanted, strict=True):
        assert prediction.failure is None and prediction.token_acts is None
        np.testing.assert_allclose(prediction.patch_acts[0], right, atol=0.35)  # SAM's masks are resized on the way
    assert np.corrcoef(found[0].patch_acts[0].ravel(), red.ravel())[0, 1] > 0.99


def test_a_word_outside_of_the_picture_finds_nothing_and_a_wide_one_is_not_cropped(grounded: GroundedSimulator) -> None:
    image = Image.new("RGB", (96, 24), (128, 128, 128))
    image.paste(COLORS[6], (84, 0, 96, 24))
    (found, none) = ask(grounded, ["red", "blue"], image)
    values = found.patch_acts[0]
    assert values[:, 7].min() > 7 and values[:, :6].max() == 0 and none.patch_acts[0].max() == 0


def test_masks_that_overlap_count_once_with_the_larger_confidence() -> None:
    rng = seeds.rng()
    masks, confidences = rng.random((5, 8, 8)) > 0.5, rng.random(5)
    slow = [[max([c for m, c in zip(masks, confidences, strict=True) if m[y, x]], default=0) for x in range(8)]
            for y in range(8)]  # fmt: skip
    np.testing.assert_allclose(painted(masks, confidences, (8, 8)), slow)


def test_what_to_look_for_comes_from_the_explanations_own_words() -> None:
    words = {"red regions": ["red"], "the presence of dogs in snow": ["dogs in snow"],
             "Cars; the word 'wheel'; words for vehicles": ["Cars", "wheel", "vehicles"], " ; ": [],
             "regions with text.": ["text"], "red regions; the word 'red'": ["red"]}  # fmt: skip
    assert {e: [p.words for p in own_phrases(e)] for e in words} == words
    assert own_phrases("everything except the sky") == (Phrase("the sky", 10.0, True),)


def namer(server: loopback.Server) -> ChatClient:
    return ChatClient("m", server.url, "x", price=(1.0, 2.0), max_retries=0)  # type: ignore[arg-type]


def test_a_language_model_says_what_to_look_for_and_how_strongly(grounded: GroundedSimulator) -> None:
    def answer(body: dict[str, Any]) -> Any:
        text = json.dumps(body["messages"])
        if "nothing to see" in text:
            return {"phrases": []}
        strengths = {"red": 10, "blue": 5, "sky": 0}
        return {"phrases": [{"phrase": p, "strength": s} for p, s in strengths.items()]}

    image, masks = scene(seeds.rng())
    faults = {"fault": lambda n, body: "refusal" if "refuse me" in json.dumps(body) else ""}
    with loopback.running(answer=answer, **faults) as server:
        asker = replace(grounded, namer=namer(server))
        (e,) = evidence([image]).exemplars
        plan = asker.plan([Job("warm and cold", e, "picture")] * 3)
        assert plan.calls == 1 and not server.requests
        found = ask(asker, ["warm and cold", "warm and cold", "nothing to see", "refuse me"], image)
    assert len(server.requests) == 3 and [p.cost > 0 for p in found] == [True, False, True, True]
    boxes = e.seen.boxes[0]
    red, blue = (10 * CONFIDENCE * means(masks[c].astype(float), boxes) for c in ("red", "blue"))
    np.testing.assert_allclose(found[0].patch_acts[0], np.maximum(red, blue / 2), atol=0.35)
    assert found[2].failure is None and found[2].patch_acts[0].max() == 0
    assert found[3].failure is not None and found[3].failure.kind == "refusal" and found[3].patch_acts == ()


@pytest.mark.parametrize("phrase", ["", "x" * 61, "red"])
def test_phrases_that_a_detector_could_not_use_are_failures(grounded: GroundedSimulator, phrase: str) -> None:
    n = 1 if phrase != "red" else 7
    answer = {"phrases": [{"phrase": f"{phrase}{i or ''}", "strength": 10} for i in range(n)]}
    with loopback.running(answer=answer) as server:
        (found,) = ask(replace(grounded, namer=namer(server)), ["x"], scene(seeds.rng())[0])
    assert found.failure is not None and found.failure.kind == "schema"


def saved(folder: Path) -> tuple[Path, Path]:
    """Tiny random models of both kinds with their processors, in directories."""
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SamConfig,
        SamModel,
        SwinConfig,
    )

    swin = SwinConfig(image_size=48, patch_size=4, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4,
                      out_indices=[2, 3, 4])  # fmt: skip
    bert = BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=16, max_position_embeddings=64)  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, num_queries=6, d_model=32, max_text_len=32, encoder_layers=1,
        decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    vision = {
        "hidden_size": 16,
        "output_channels": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "mlp_dim": 16,
        "global_attn_indexes": [0],
        "num_pos_feats": 4,
    }
    prompts = {"hidden_size": 8, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    masks = {**DECODER, "hidden_size": 8}
    sam = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks))
    for name, parts in (("dino", (GroundingDinoForObjectDetection(config), detector_processor(folder))),
                        ("sam", (sam, segmenter_processor()))):  # fmt: skip
        for part in parts:
            part.save_pretrained(folder / name)
    return folder / "dino", folder / "sam"


def test_checkpoints_of_both_models_load_from_a_directory_and_answer(tmp_path: Path) -> None:
    simulator = GroundedSimulator.from_pretrained(*saved(tmp_path), box_threshold=0.0)
    assert re.search("Pil$", type(simulator.detector_processor.image_processor).__name__)
    image = tiny.image(64, 48)
    (found,) = ask(simulator, ["red; the sky"], image)
    boxes, confidences = simulator.detect(image, ["red", "the sky"])
    assert len(boxes) == 6 and (boxes[:, :2] <= boxes[:, 2:]).all() and boxes.max() <= 64
    masks = simulator.segment(image, boxes)
    assert masks.shape == (6, 48, 64)
    (e,) = evidence([image]).exemplars
    right = means(10 * np.max(masks * confidences[:, None, None], 0), e.seen.boxes[0])
    np.testing.assert_allclose(found.patch_acts[0], right, atol=1e-6)
    again = GroundedSimulator.from_pretrained(tmp_path / "dino", tmp_path / "sam", box_threshold=0.0)
    assert simulator.settings() == again.settings() != replace(again, box_threshold=0.1).settings()
    assert replace(again, namer=ChatClient("m", "http://x/v1")).settings() != again.settings()
    long = ask(simulator, ["red things " * 200], image)[0]
    assert long.failure is None and long.patch_acts[0].shape == (6, 8)
    with pytest.raises(ValueError, match="Unrecognized configuration"):
        GroundedSimulator.from_pretrained(tmp_path / "sam", tmp_path / "sam")
    with pytest.raises(OSError, match="nowhere"):
        GroundedSimulator.from_pretrained("nowhere/at-all", tmp_path / "sam")


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="SAM2's processor needs torchvision")
def test_sam2_takes_the_place_of_sam(tmp_path: Path) -> None:
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    dino, _ = saved(tmp_path)
    vision = {"backbone_config": {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                                  "image_size": [64, 64], "blocks_per_stage": [1, 1, 2, 1],
                                  "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 4],
                                  "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [3],
                                  "window_positional_embedding_background_size": [4, 4]},
              "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
              "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    masks = {**DECODER, "hidden_size": 16}
    model = Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks))
    model.save_pretrained(tmp_path / "sam2")
    side = {"height": 64, "width": 64}
    images = Sam2ImageProcessor(size=side, mask_size={"height": 16, "width": 16})
    Sam2Processor(images).save_pretrained(tmp_path / "sam2")
    simulator = GroundedSimulator.from_pretrained(dino, tmp_path / "sam2", box_threshold=0.0)
    (found,) = ask(simulator, ["red"], tiny.image(64, 48))
    assert found.patch_acts[0].shape == (6, 8) and 0 <= found.patch_acts[0].min() <= found.patch_acts[0].max() <= 10

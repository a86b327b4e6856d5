"""What a scan costs beside the forward pass in families with long contexts, and what preparing their batches costs.

    OMP_NUM_THREADS=1 python examples/benchmark_families.py    # some ten minutes on one core

Random models, 512 wide: Gemma 3's shape (sliding windows, image tokens that see one another), Qwen2.5-VL's (windows in the
tower, 1,152 visual tokens) and LLaVA-NeXT's (2,880 visual tokens and 48 ends of rows). Every round runs the scan between two
bare forward passes, and `prepare` between two calls of the processor, and gives one ratio each; see `benchmark_scan.py`. Gemma
is told which tokens are of images and all are told what is padding, in the bare forward pass too, where it changes the result.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import transformers as hf
from PIL import Image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import vlm_neurons as vn

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("examples", "tests", "tests/families")]
from benchmark_scan import Bench, line, timed  # noqa: E402
from built_gemma import GEMMA3  # noqa: E402
from built_native import QWEN, ROPE, SPECIAL, SYSTEM  # noqa: E402
from built_tiles import LLAVA_NEXT  # noqa: E402
from parts import backbone, quiet, tokenizer  # noqa: E402

WIDE = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8}
TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2}
GEMMA_TEXT = {**WIDE, "head_dim": 64, "sliding_window": 256}
GEMMA_TOWER = {**TOWER, "num_attention_heads": 4, "image_size": 448}
QWEN_TEXT = WIDE
QWEN_TOWER = {"depth": 2, "hidden_size": 128, "intermediate_size": 512, "num_heads": 4, "fullatt_block_indexes": [1]}
WORDS = ["a", "red", "blue", "green", "circle", "square", "two", "of", "the"]


def gemma3(
    text: dict[str, Any] = GEMMA_TEXT, tower: dict[str, Any] = GEMMA_TOWER, every: int = 4
) -> tuple[Any, Any, tuple[int, int]]:
    """256 visual tokens; all layers but each `every`-th have a window."""
    begin, end, soft = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
    tok = tokenizer(
        begin, end, soft, "<start_of_turn>", "<end_of_turn>", bos="<bos>", eos="<eos>",
        named={"boi_token": begin, "eoi_token": end, "image_token": soft},
    )  # fmt: skip
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**tower, vision_use_head=False, patch_size=14),
        text_config=hf.Gemma3TextConfig(
            **backbone(tok, **text),
            layer_types=["sliding_attention" if (i + 1) % every else "full_attention"
                         for i in range(text["num_hidden_layers"])],
        ),
        mm_tokens_per_image=256, image_token_id=tok.convert_tokens_to_ids(soft),
        boi_token_id=tok.convert_tokens_to_ids(begin), eoi_token_id=tok.convert_tokens_to_ids(end),
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": tower["image_size"], "width": tower["image_size"]})
    processor = hf.Gemma3Processor(image_processor=images, tokenizer=tok, image_seq_length=256, chat_template=GEMMA3)
    return hf.Gemma3ForConditionalGeneration(config), processor, (1280, 960)


def qwen2_5_vl(
    text: dict[str, Any] = QWEN_TEXT, tower: dict[str, Any] = QWEN_TOWER
) -> tuple[Any, Any, tuple[int, int]]:
    """1,152 visual tokens; windows of 4 x 4 tokens in some layers of the tower."""
    names = ["<|im_start|>", "<think>", "</think>", *SPECIAL.values()]
    tok = tokenizer(*names, bos="<|endoftext|>", eos="<|im_end|>", pad="<|endofpad|>", add_bos=False)
    vision = {**tower, "patch_size": 14, "out_hidden_size": text["hidden_size"], "window_size": 112}
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    rope = ROPE | {"mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]}
    config = hf.Qwen2_5_VLConfig(
        vision_config=vision, text_config=backbone(tok, **text, rope_parameters=rope),
        **{name: tok.convert_tokens_to_ids(token) for name, token in SPECIAL.items()},
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(patch_size=14)
    processor = quiet(
        hf.Qwen2_5_VLProcessor, image_processor=images, tokenizer=tok, video_processor=None,
        chat_template=QWEN.replace("SYSTEM", SYSTEM),
    )  # fmt: skip
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor, (1008, 896)


def llava_next() -> tuple[Any, Any, tuple[int, int]]:
    """2,880 visual tokens: the whole image and four tiles of 576 patches."""
    tok, pins = tokenizer("<image>"), [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER, num_attention_heads=4, image_size=336, patch_size=14),
        text_config=hf.MistralConfig(**backbone(tok, **WIDE)), image_token_id=tok.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pins,
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=pins
    )
    processor = hf.LlavaNextProcessor(
        image_processor=images, tokenizer=tok, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA_NEXT,
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config), processor, (1024, 1024)


def paired(run: Callable[[], object], bare: Callable[[], object], rounds: int) -> list[float]:
    """Times of one over the mean of the two of the other around it; a machine's speed drifts."""
    bare()
    run()
    before, found = timed(bare, "cpu"), []
    for _ in range(rounds):
        seconds, after = timed(run, "cpu"), timed(bare, "cpu")
        found.append(2 * seconds / (before + after))
        before = after
    return found


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["gemma3", "qwen2_5_vl", "llava_next"], nargs="*", help="default: all")
    args = parser.parse_args()
    makers = [maker for maker in (gemma3, qwen2_5_vl, llava_next) if not args.only or maker.__name__ in args.only]
    print("| shape | ratio: median | range | |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for maker in makers:
        made, processor, size = maker()
        model = vn.HookedVLM(made, processor)
        noise = rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
        pictures = [Image.fromarray(one).resize(size) for one in noise]
        responses = [" ".join(rng.choice(WORDS, 60)) for _ in pictures]

        def prepare(model: Any = model, pictures: Any = pictures, responses: Any = responses) -> Any:
            return model.prepare([[one] for one in pictures], ["What is there?"] * len(pictures), responses)

        batch = prepare()
        bench = Bench(model, [batch])
        recorders = iter([bench.recorder(before=True) for _ in range(args.rounds + 1)])
        tokens, visual = batch.input_ids.shape[1], len(batch.patches) // len(pictures)
        note = f"{len(pictures)} x {tokens} tokens, {visual} visual"
        values = paired(lambda b=bench, r=recorders: b.scan(next(r)), bench.bare, args.rounds)
        line(f"{maker.__name__}: scan / bare forward", values, note)

        def own(processor: Any = processor, batch: Any = batch, pictures: Any = pictures) -> Any:
            return processor(
                text=list(batch.texts), images=[[one] for one in pictures], padding=True, return_tensors="pt",
                add_special_tokens=not batch.texts[0].startswith(processor.tokenizer.bos_token),
            )  # fmt: skip

        assert own()["input_ids"].tolist() == batch.input_ids.tolist()
        values = paired(prepare, own, 3 * args.rounds)
        seconds = statistics.median(timed(own, "cpu") for _ in range(3))
        line(f"{maker.__name__}: prepare / the processor's call", values, f"{seconds:.2f} s")


if __name__ == "__main__":
    main()

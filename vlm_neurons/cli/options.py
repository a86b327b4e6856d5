"""Options that several commands have, and how they are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

AFTER_CTRL_C = {  # what is true of a command that was stopped anywhere
    "demo": "the same command goes on from what is finished",
    "describe": "responses that were written stay; the same command goes on behind them",
    "scan": "the same command goes on from the last finished block",
    "classify": "the scan is as it was; the same command labels it anew",
    "explain": "explanations that came stay; the same command asks for the others",
    "score": "simulations that came stay; the same command makes the others",
    "edits": "what was run stays; the same command goes on from there",
    "faithfulness": "what the model said of finished neurons stays; the same command asks for the others",
    "report": "the run is as it was; the same command writes the page anew",
    "families": "the same command lists them",
}


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str
) -> argparse.ArgumentParser:
    """A command with its help."""
    p: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}", allow_abbrev=False
    )
    p.set_defaults(command=run)
    p.add_argument("--traceback", action="store_true", help="show where an error came from")
    return p


def model_options(p: argparse.ArgumentParser, model: bool = True, required: bool = True) -> None:
    """Which model, where."""
    if model:
        text = (
            "name on the Hugging Face hub (owner/name, or owner/name@revision), a local directory, or tiny-llava-scenes"
        )
        p.add_argument("--model", required=required, help=text)
    p.add_argument("--device", type=device, help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    p.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="(default: bfloat16 on cuda, else float32)"
    )


def data_options(p: argparse.ArgumentParser) -> None:
    """Which data."""
    from vlm_neurons.data.describing import DEFAULT_PROMPT

    text = "folder of images, .jsonl, LLaVA's or COCO's .json, shards-{000..099}.tar, or scenes:n=100,seed=0"
    p.add_argument("--data", required=True, help=text)
    p.add_argument("--images", help="folder of the images of a .json (default: that of the file)")
    p.add_argument("--prompt", default=DEFAULT_PROMPT, help="for samples without one (default: %(default)s)")
    p.add_argument("--batch-size", type=positive, help="(default: what suits a processor, 8 on a GPU)")


def device(text: str) -> str:
    """Read a torch device."""
    import torch

    try:
        return str(torch.device(text))
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: write cpu, cuda or cuda:1") from None


def names(text: str) -> list[str]:
    """Read a list with commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: write names with commas between them, such as gate,post")
    return found


def positive(text: str) -> int:
    """Read a number from 1 on."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 on")
    return number

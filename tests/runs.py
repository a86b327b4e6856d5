"""A small run of the embedded model, and what is asked about it on a command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vlm_neurons as vn


def small(where: Path) -> vn.Run:
    """Sixty scenes, scanned; not classified."""
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    return vn.scan(model, vn.scenes(60, seed=4), top_n=10, batch_size=16, out=where, progress=False)


def explain_by(url: str, where: str, neurons: str = "L0N3,L1N4") -> list[str]:
    """The command that has a server explain neurons."""
    return ["explain", where, "--neurons", neurons, "--explainer", "openai", "--explainer-model", "m",
            "--base-url", url]  # fmt: skip


@contextmanager
def one_of_two(rank: int = 0) -> Iterator[None]:
    """Scans inside do every second block and leave their files, as one of two processes does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", str(rank))
        yield

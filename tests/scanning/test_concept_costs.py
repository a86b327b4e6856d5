"""What a scan with concepts will cost beside the scan is printed when it starts, and is what it then takes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
from safetensors.torch import load_file

import vlm_neurons as vn
from vlm_neurons.protocols import Concept, ConceptBank, Maps

K, FOLDS, BLOCK = {"picture": 60, "text": 90}, 4, 12


class Watching(ConceptBank):
    """Random maps of many concepts, that look at what is on disk whenever they are asked for."""

    name = "watching"

    def __init__(self, folder):
        self.folder, self.seen = folder, 0

    def concepts(self, side) -> tuple[Concept, ...]:
        return tuple(Concept(side, str(i)) for i in range(K[side]))

    def identity(self) -> dict[str, Any]:
        return K

    def maps(self, view) -> Maps:
        files = [*self.folder.glob("fold*.safetensors")] if self.folder.exists() else []
        self.seen = max(self.seen, sum(file.stat().st_size for file in files))
        rng = np.random.default_rng(len(view.tokens))
        return Maps(rng.random((view.n_patches, K["picture"])), rng.random((len(view.tokens), K["text"])))


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    return vn.HookedVLM(tiny.llava(processor.tokenizer, seed=5), processor)


@pytest.mark.parametrize("sites", ["gate", ["gate", "post", "vision", "projector"]])
def test_the_size_of_the_sums_is_printed_at_the_start_and_is_what_they_take(model, sites, tmp_path, capsys):
    rng = seeds.rng()
    samples = [
        {"image": tiny.image(30 + i, 36, rng), "response": f"dogs {'and cats ' * (i % 3)}{i}."} for i in range(24)
    ]
    bank = Watching(tmp_path / "run" / "concepts")
    vn.scan(model, vn.ImageTextData.from_samples(samples), sites, top_n=2, batch_size=4, block_size=BLOCK,
            out=tmp_path / "run", concepts=bank, folds=FOLDS, null_directions=16)  # fmt: skip
    told = capsys.readouterr().err
    cost = "60 concepts of the picture and 90 of the text"
    assert told.index(cost) < told.index("24/24")  # before the bar is at its end, and in front of it
    memory, disk = map(float, re.findall(r"([\d.,]+) MiB of (?:memory for the sums of a fold|disk for those)", told))
    files = sorted((tmp_path / "run" / "concepts").glob("fold*"))
    held = {sum(tensor.nbytes for tensor in load_file(file).values()) for file in files}
    assert len(files) == FOLDS and max(held) == min(held)
    assert memory == pytest.approx(max(held) / 2**20, abs=0.051)
    assert disk == pytest.approx((2 * FOLDS + 1) * max(held) / 2**20, abs=0.051)
    most = bank.seen / 2**20  # what was there while the second block was scanned, before its sums were added
    assert (FOLDS + 1) / (2 * FOLDS + 1) * disk <= most <= disk

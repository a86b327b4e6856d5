"""What concepts of all neurons cost, for `benchmark_scan.py --concepts`: their sums, their maps, the table read off them.

All times are CPU seconds of all threads. Ratios are of pairs one after the other in one process: what else the machine does
falls on both.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import vlm_neurons as vn
from vlm_neurons.concepts.visual import pixel_shares
from vlm_neurons.protocols import SIDES, Concept, ConceptBank, Maps, View
from vlm_neurons.scanning.concept_files import write_part
from vlm_neurons.scanning.concept_job import Asked, ConceptJob
from vlm_neurons.scanning.concept_sums import ConceptSums, UnitSums
from vlm_neurons.scanning.concept_table import concept_table
from vlm_neurons.scanning.recorder import Recorder
from vlm_neurons.scanning.viewing import concepts_of
from vlm_neurons.zoo import path as zoo_path

if TYPE_CHECKING:
    from benchmark_scan import Bench

FOLDS, K = 8, 200
IMAGES = 1000.0  # of a fold of synthetic sums


class Drawn(ConceptBank):
    """So many concepts a side, of which a place has a few."""

    name = "drawn"

    def __init__(self, k: int) -> None:
        self.k = k

    def concepts(self, side: str) -> tuple[Concept, ...]:
        return tuple(Concept(side, str(i), generic=i % 5 == 0) for i in range(self.k))

    def identity(self) -> dict[str, Any]:
        return {"k": self.k}

    def maps(self, view: View) -> Maps:
        raise NotImplementedError("its maps are kept")

    def kept(self, patches: int, tokens: int, rng: np.random.Generator) -> Maps:
        """Maps of one sample."""
        return Maps(*(((x := rng.random((n, self.k))) * (x > 0.9)).astype(np.float32) for n in (patches, tokens)))


def cpu(run: Callable[[], object]) -> float:
    """CPU seconds of one call, of all threads."""
    began = time.process_time()
    run()
    return time.process_time() - began


def paired(first: Callable[[], object], second: Callable[[], object], number: int) -> float:
    """CPU seconds of the second over those of the first; the order turns with the number."""
    if number % 2:
        over, base = cpu(second), cpu(first)
    else:
        base, over = cpu(first), cpu(second)
    return over / base


def told(name: str, values: list[float]) -> None:
    """One row."""
    print(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} - {max(values):.3f} |", flush=True)


def sums(bench: Bench, k: int, rounds: int) -> None:
    """Accumulation over the scan, as on average over 23,000 samples, with maps that are there; a ratio a batch."""
    bank, rng = Drawn(k), np.random.default_rng(0)
    asked = Asked(bank, concepts_of(bank), FOLDS, 0, [], [])
    sizes = {column.hook: column.d for column in bench.columns}
    job = ConceptJob(asked, [], sizes, {}, {side: torch.zeros(k) for side in SIDES})
    ratios: list[float] = []
    recorders = [
        Recorder(bench.model, bench.columns, bench.top_n, 4, 2, True, bench.before, None, concepts)
        for concepts in (None, job)
    ]
    for number, batch in enumerate(bench.batches * rounds):
        maps = [bank.kept(576, int(n), rng) for n in batch.mask("text").sum(1).tolist()]
        ids = range(number * bench.rows, (number + 1) * bench.rows)
        scans = [
            partial(r.see, batch, ids, [str(i) for i in ids], m) for r, m in zip(recorders, (None, maps), strict=True)
        ]
        ratios.append(paired(scans[0], scans[1], number))
    told(f"scan with sums of {k} concepts a side, maps kept / scan", ratios[2:])  # the first ones warm up


def photographs() -> None:
    """Maps of pixels of a photograph."""
    from skimage import data

    view_of = np.stack(np.meshgrid(np.arange(24) * 14.0, np.arange(24) * 14.0), -1).reshape(-1, 2)
    boxes = np.concatenate([view_of, view_of + 14], 1)
    pictures = [
        np.asarray(Image.fromarray(getattr(data, name)()).resize((336, 336)))
        for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    found = [1000 * cpu(partial(pixel_shares, picture, boxes)) for _ in range(20) for picture in pictures]
    told("maps of pixels of a photograph of 336 x 336, ms", found[len(pictures) :])


def explained(name: str, folder: str, n: int, rounds: int, baseline: str | None, n_baseline: int) -> None:
    """Neurons that are explained and scored a second, beyond the scan; and by the baseline, one neuron after the other."""
    model, data = vn.HookedVLM.from_pretrained(folder), vn.scenes(n, seed=0)
    with tempfile.TemporaryDirectory() as out:
        number = iter(range(10**6))

        def scan(bank: ConceptBank | None) -> vn.Run:
            return vn.scan(model, data, concepts=bank, out=Path(out) / str(next(number)), progress=False)

        made = vn.concepts.Pixels() + vn.concepts.Words()
        kept = vn.concepts.Kept(made, Path(out) / "maps", n)
        run, _ = scan(kept), scan(None)
        over: dict[str, list[float]] = {"kept": [], "made": []}
        for _ in range(rounds):
            base, *more = (cpu(partial(scan, bank)) for bank in (None, kept, made, None))
            base = (base + more.pop()) / 2
            for which, seconds in zip(over, more, strict=True):
                over[which].append(seconds - base)
        read = [cpu(lambda: vn.explain(vn.Run.load(run.path))) for _ in range(rounds)]
        neurons = sum(column["d"] for column in run.info["columns"])
    before = one_by_one(baseline, folder, n, n_baseline) if baseline else None
    for which, values in over.items():
        rate = [neurons / (o + r) for o, r in zip(values, read, strict=True)]
        told(f"{name}: {neurons:,} neurons explained and scored, maps {which}: a second", rate)
        if before:
            told(f"the same over one neuron after the other, {n_baseline} neurons of them", [r * before for r in rate])
    print(f"  base {base:.1f}, over it {over}, table and explanations {read}, baseline {before} s a neuron", flush=True)


def one_by_one(python: str, folder: str, n: int, n_neurons: int) -> float:
    """CPU seconds a neuron of the version in another environment, without what is paid once."""
    call = [python, str(Path(__file__).with_name("concept_baseline.py")), folder, str(n), str(n_neurons)]
    few, more = json.loads(subprocess.run(call, capture_output=True, check=True).stdout)
    return (more - few) / n_neurons


def wide(folder: Path, d_mlp: int) -> str:
    """The embedded model with wider MLPs and random weights."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    shutil.copytree(zoo_path("tiny-llava-scenes"), folder)
    config = AutoConfig.from_pretrained(folder)
    config.text_config.intermediate_size = d_mlp
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def all_costs(bench: Bench, rounds: int, baseline: str | None, small: bool) -> None:
    """All rows; with `small` every line of it, in a minute or two, and no measurement."""
    print("| | median | range |\n|---|---|---|")
    sums(bench, K, rounds)
    photographs()
    embedded = str(zoo_path("tiny-llava-scenes"))
    explained("embedded model", embedded, 40 if small else 500, rounds, baseline, 2 if small else 24)
    with tempfile.TemporaryDirectory() as folder:
        model = wide(Path(folder) / "wide", 512 if small else 11_008)
        explained("4 wide layers", model, 40 if small else 500, max(2, rounds // 2), baseline, 2 if small else 12)
    table(*((4, 172) if small else (32, 11_008)), K)


def write_sums(path: Path, layers: int, d: int, k: int, n_random: int) -> None:
    """Sums of a run of `layers` layers, of drawn units that answer to a few drawn concepts each; all layers are alike."""
    generator, n = torch.Generator().manual_seed(0), 2000
    answers = torch.randn(k, d, generator=generator) * (torch.rand(k, d, generator=generator) < 3 / k)
    often = torch.rand(k, generator=generator) * 0.3
    for fold in range(FOLDS):
        tensors: dict[str, torch.Tensor] = {}
        for side in SIDES:
            concepts = torch.rand(n, k, generator=generator) * (torch.rand(n, k, generator=generator) < often)
            among = ConceptSums.empty(k)
            among.add(concepts.T, None)
            among.present += IMAGES / 2
            among.annotated += IMAGES
            tensors |= {f"concepts/:rows/{side}/{name}": x for name, x in among.tensors().items()}
            units = concepts @ answers + 0.3 * torch.randn(n, d, generator=generator)
            for prefix, values in (("", units), ("random/", units[:, :n_random])):
                own = UnitSums.empty(values.shape[1], k)
                own.add(values, concepts.T)
                own.add_concepts(n, concepts.sum(0), (concepts**2).sum(0))
                for layer in range(layers):
                    name = f"{prefix}blocks.{layer}.mlp.hook_act/{side}"
                    tensors |= {f"{name}/{key}": x.clone() for key, x in own.tensors().items()}
        write_part(path, "run", fold, [0], tensors)
    concepts_of_sides = {side: [list(c) for c in _named(k, side)] for side in SIDES}
    columns = [{"hook": f"blocks.{layer}.mlp.hook_act", "pole": "+", "d": d} for layer in range(layers)]
    parameters = {"folds": FOLDS, "concepts": "drawn", "null_directions": n_random}
    info = {"concepts": concepts_of_sides, "parameters": parameters, "columns": columns}
    (path / "info.json").write_text(json.dumps(info))


def _named(k: int, side: str) -> list[tuple[str, str, str, bool]]:
    return [(side, str(i), f"concept {i}", i % 5 == 0) for i in range(k)]


def table(layers: int, d: int, k: int) -> None:
    """Choice, intervals and three concepts from sums on disk."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "concepts").mkdir()
        write_sums(Path(folder), layers, d, k, min(256, d))
        info = json.loads((Path(folder) / "info.json").read_text())
        seconds = cpu(lambda: concept_table(Path(folder), "run", info, 1, 20))
    print(f"table of {layers * d:,} neurons ({layers} layers), {k} concepts a side: {seconds:.0f} CPU s", flush=True)

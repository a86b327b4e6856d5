"""Whether a scan on a card is right: what `benchmark_gpu.py` asks first, and what it asks of several processes and devices."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmark_scan import Bench
from safetensors.torch import load_file

import vlm_neurons as vn
from vlm_neurons.scanning.fused import choose
from vlm_neurons.scanning.recorder import Recorder
from vlm_neurons.tokens import TokenKind
from vlm_neurons.zoo import path as zoo_path

TOP_N, N_VISUAL, N_TEXT = 50, 4, 2


def right(bench: Bench, compiled: bool) -> tuple[int, int, int]:
    """Neurons whose label, and whose kept ids or values, are not those of sorting the same activations on the CPU; and
    how many there are."""
    fused = choose(compiled, bench.columns, bench.batches[0].kinds, N_VISUAL, N_TEXT, print) if compiled else None
    recorder = Recorder(bench.model, bench.columns, TOP_N, N_VISUAL, N_TEXT, True, None, fused)
    kept: dict[str, list[torch.Tensor]] = {hook: [] for hook in bench.hooks}
    handles = []
    for hook in bench.hooks:  # beside the recorder's hook, in the same pass
        module, is_output = bench.model._twin.points[hook]

        def see(module: Any, args: Any, output: Any, hook: str = hook, is_output: bool = is_output) -> None:
            kept[hook].append((output if is_output else args[0]).detach().cpu())

        handles.append(module.register_forward_hook(see))
    bench.scan(recorder)
    for handle in handles:
        handle.remove()
    states, wrong_labels, wrong_values, n = recorder.kept[0], 0, 0, 0
    kinds = [row.cpu() for batch in bench.batches for row in batch.kinds]
    for column in bench.columns:
        acts = [row.float() for one in kept[column.hook] for row in one]
        mine = states[column.column]
        ids, visual, text = (getattr(mine, name)[:, : len(acts)].cpu() for name in ("sample_ids", "visual", "text"))
        expected = by_sorting(acts, kinds)
        wrong_values += int(
            ((ids != expected[0]) | (visual.float() != expected[1]).any(-1) | (text.float() != expected[2]).any(-1))
            .any(1)
            .sum()
        )
        wrong_labels += int((label(visual.float(), text.float()) != label(*expected[1:])).sum())
        n += column.d
    return wrong_labels, wrong_values, n


def by_sorting(acts: list[torch.Tensor], kinds: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The top samples of every neuron, best first, ties to the lower id, with their largest values."""

    def values(kind: TokenKind, n: int) -> torch.Tensor:
        found = []
        for one, k in zip(acts, kinds, strict=True):
            best = one[k == int(kind)].sort(dim=0, descending=True).values[:n] + 0.0
            found.append(torch.nn.functional.pad(best, (0, 0, 0, n - len(best)), value=-torch.inf))
        return torch.stack(found).permute(2, 0, 1)

    visual, text = values(TokenKind.VISUAL, N_VISUAL), values(TokenKind.TEXT, N_TEXT)
    order = torch.maximum(visual[..., 0], text[..., 0]).sort(dim=1, descending=True, stable=True).indices[:, :TOP_N]
    picked = [v.gather(1, order[..., None].expand(-1, -1, v.shape[2])) for v in (visual, text)]
    return order.int(), picked[0], picked[1]


def label(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The paper's class of every neuron by its defaults (section 3.2)."""
    peak = torch.maximum(visual[:, 0, 0], text[:, 0, 0]).clamp(min=1e-30)[:, None]
    seen, read = visual[..., N_VISUAL - 1] / peak * 10 > 2, text[..., N_TEXT - 1] / peak * 10 > 3
    counts = torch.stack([(seen & ~read).sum(1), (~seen & read).sum(1), (seen & read).sum(1), (~seen & ~read).sum(1)])
    return counts.max(0).indices


def two_processes(device: str) -> str:
    """A scan of the embedded model by torchrun with two processes on one card, beside one process."""
    command = ["scan", "--model", "tiny-llava-scenes", "--data", "scenes:n=40,seed=4", "--block-size", "5",
               "--device", device]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for launch, out in (
            ([sys.executable, "-m"], "one"),
            ([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"], "two"),
        ):
            whole = [*launch, "vlm_neurons.cli.main", *command, "--out", f"{folder}/{out}"]
            done = subprocess.run(whole, capture_output=True, text=True, timeout=600)
            if done.returncode:
                return f"failed: {done.stderr.strip().splitlines()[-1]}"
        one, two = (load_file(Path(folder, out, "scan.safetensors")) for out in ("one", "two"))
        same = one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    return "equal tensor for tensor" if same else "DIFFERENT"


def spread(device: str) -> str:
    """A model of which a layer is on the CPU, the rest on the card; and what is said where that cannot be scanned."""
    from accelerate import dispatch_model
    from transformers import AutoModelForImageTextToText

    plain, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(16, seed=2)
    hf = AutoModelForImageTextToText.from_pretrained(zoo_path("tiny-llava-scenes"))
    card, layers = 0 if device == "cuda" else "cpu", len(hf.model.language_model.layers)
    homes = {f"model.language_model.layers.{i}": card if i < layers - 1 else "cpu" for i in range(layers)}
    homes |= {f"model.{name}": card for name, _ in hf.model.named_children() if name != "language_model"}
    inside = [name for name, _ in hf.model.language_model.named_children() if name != "layers"]
    homes |= {f"model.language_model.{name}": card for name in inside} | {"lm_head": card}
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = vn.HookedVLM(dispatch_model(hf, homes, main_device=card, force_hooks=True), plain.processor)
            runs = [vn.scan(m, data, out=f"{folder}/{i}", progress=False) for i, m in enumerate((plain, model))]
        except (ValueError, RuntimeError) as error:
            return f"refused: {error}"
        labels = [vn.classify(run).label for run in runs]
    return f"{int((labels[0] != labels[1]).sum())} of {len(labels[0]):,} labels differ from those of the CPU alone"

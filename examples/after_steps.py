"""One step of `benchmark_after.py`, by whatever version of this package the interpreter has.

    PYTHON examples/after_steps.py STEP RUN [MORE ...]

Prints one line of JSON: CPU seconds (of the process, all its threads), wall seconds, and by how much the largest amount of
memory exceeded what was used before the step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

NEURONS_OF_A_CALL = 100  # of evidence stored at a time


def found(*names: str) -> Any:
    """The first of some names that this version has: `room.thing`, or `room.room:thing`."""
    for name in names:
        room, thing = name.rsplit(":" if ":" in name else ".", 1)
        try:
            return getattr(import_module(f"vlm_neurons.{room}"), thing)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"this version has none of {names}")


def megabytes(name: str) -> float:
    """`VmRSS`, or `VmHWM`, its highest since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def forget() -> None:
    """Let the highest amount of memory be what it is now."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(step: Callable[[], Any]) -> dict[str, float]:
    """What one call takes."""
    forget()
    before, wall, cpu = megabytes("VmRSS"), time.perf_counter(), time.process_time()
    step()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall,
            "mb": megabytes("VmHWM") - before}  # fmt: skip


def run_at(path: str) -> Any:
    """The run; what every version imports for a table of it is imported by then."""
    import_module("pandas")
    import_module("pyarrow.parquet")
    return found("scanning.Run").load(path)


def classify(run: str) -> dict[str, float]:
    """Labels by thresholds, written."""
    call, one, table = found("classification.classify"), run_at(run), []
    if hasattr(one, "save"):
        return measured(lambda: one.save(call(one)))
    return measured(lambda: table.append(call(one)))


def modality_test(run: str) -> dict[str, float]:
    """Labels by the test, written."""
    one = run_at(run)
    if hasattr(one, "save"):
        call = found("classification.modality_test")
        return measured(lambda: one.save(call(one)))
    return measured(lambda: found("classification.classify")(one, method="image-test"))


def statistics(run: str) -> dict[str, float]:
    """Counts by layer."""
    import pandas as pd

    table = pd.read_parquet(Path(run) / "neurons.parquet")
    call = found("classification.statistics", "layer_statistics.statistics")
    return measured(lambda: call(table))


def sweep(run: str) -> dict[str, float]:
    """96 combinations of thresholds."""
    call, one = found("classification.sweep", "robustness.sweep"), run_at(run)
    return measured(lambda: call(one))


def sensitivity(run: str) -> dict[str, float]:
    """Choices that the paper leaves open."""
    call, one = found("classification.sensitivity", "robustness.sensitivity"), run_at(run)
    return measured(lambda: call(one))


def table(run: str) -> dict[str, float]:
    """The saved table, as a notebook shows it: opened, and printed."""
    import pandas as pd

    one, file = run_at(run), Path(run) / "neurons.parquet"
    opened = one.table if hasattr(one, "table") else (lambda: pd.read_parquet(file))
    return measured(lambda: repr(opened()))


def start(model_at: str) -> dict[str, float]:
    """The first `HookedVLM` of a process, over a model of transformers that is in memory."""
    import_module("transformer_lens")
    from transformers import LlavaForConditionalGeneration

    config = import_module("transformers").AutoConfig.from_pretrained(model_at)
    model = LlavaForConditionalGeneration.from_pretrained(model_at)
    processor = found("models.load:load_processor", "model.load:load_processor")(model_at, config)
    return measured(lambda: found("models.HookedVLM", "model.HookedVLM")(model, processor))


def evidence(run: str, model_at: str, n: str) -> dict[str, float]:
    """Of `n` neurons, written; beside the bare forward pass of the same samples (`ratio`)."""
    import torch

    gather, data = found("evidence.gather_evidence"), found("synthetic.scenes", "world.scenes")(120, seed=0)
    model, one = found("models.HookedVLM", "model.HookedVLM").from_pretrained(model_at), run_at(run)
    torch.set_num_threads(1)
    neurons = [f"L{k % 4}N{k // 4}" for k in range(int(n))]
    where = {"out": one} if hasattr(one, "save") else {}
    told = measured(lambda: gather(model, data, one, neurons, progress=False, **where))
    if hasattr(model, "observe"):
        size = int(one.info["parameters"]["batch_size"])

        def bare() -> None:
            for i in range(0, len(data), size):
                own = [data[k] for k in range(i, min(i + size, len(data)))]
                batch = model.prepare(
                    [s.load_images() for s in own], [s.prompt for s in own], [s.response for s in own]
                )
                model.observe(batch, {}, fast=True)

        told["ratio"] = told["cpu"] / measured(bare)["cpu"]
    return told


def stored(run: str, n: str) -> dict[str, float]:
    """One neuron more beside `n`, after these were stored under names of their own; reading one of them."""
    save, load = found("evidence.storing:save"), found("evidence.load")
    place = Path(run) / "evidence"
    kept = load(run)
    names = [name for name in kept if "x" not in name]
    at_once = int(n) if isinstance(kept, dict) else NEURONS_OF_A_CALL  # what rewrites all would never end
    for first in range(0, int(n), at_once):
        every = range(first, min(first + at_once, int(n)))
        have = [f"x{k}" for k in every if f"x{k}" not in kept]
        save({name: replace(kept[names[int(name[1:]) % len(names)]], neuron=name) for name in have}, place)
    more = {"one": replace(kept[names[0]], neuron="one")}
    before = {file: file.stat().st_mtime_ns for file in place.iterdir()}
    told = measured(lambda: save(more, place))
    written = [file for file in place.iterdir() if before.get(file) != file.stat().st_mtime_ns]
    read = measured(lambda: load(run)["one"])
    again = load(run)
    one = measured(lambda: again[names[-1]])
    return {**told, "open": read["cpu"], "read": one["cpu"], "bytes": sum(file.stat().st_size for file in written)}


def one_of(run: str, source: str, n: str) -> dict[str, float]:
    """Explanation, score and evidence of one of `n` neurons, by its id, beside reading all: medians of five rounds."""
    import pandas as pd

    from vlm_neurons.autointerp import explain, read_explanations, score
    from vlm_neurons.autointerp.store import append_explanations, save_scores
    from vlm_neurons.evidence import load, save

    at, names = found("scanning.Run")(Path(run), {}), [f"L{k % 32}N{k // 32}" for k in range(int(n))]
    few = dict(list(load(source).items())[:8]) if not at.path.is_dir() else {}
    if few:
        texts = explain(few, progress=False)
        table = score(texts, few, progress=False, full=True)
        append_explanations(run, (replace(texts[[*texts][k % 8]], neuron=name) for k, name in enumerate(names)))
        rows = pd.concat([table] * (-(-len(names) // len(table))), ignore_index=True)[: len(names)]
        save_scores(rows.assign(neuron=names), run, "concepts", "one")
        one = next(iter(few.values()))
        short = replace(one, exemplars=one.exemplars[:2], pool=())
        for first in range(0, len(names), NEURONS_OF_A_CALL):
            some = names[first : first + NEURONS_OF_A_CALL]
            save({name: replace(short, neuron=name) for name in some}, Path(run) / "evidence")
    name, rounds = names[len(names) // 2], []
    for _ in range(5):
        rounds.append({
            "explanation, all": measured(lambda: read_explanations(run))["cpu"],
            "explanation": measured(lambda: read_explanations(run, [name]))["cpu"],
            "score, all": measured(at.scores)["cpu"], "score": measured(lambda: at.scores(neurons=name))["cpu"],
            "evidence, all": measured(lambda: list(load(run)))["cpu"],
            "evidence": measured(lambda: load(run)[name].exemplars[0].token_acts)["cpu"],
        })  # fmt: skip
    return {str(key): float(value) for key, value in pd.DataFrame(rounds).median().items()}


def make_model(folder: str) -> dict[str, float]:
    """The embedded model's shape with random weights and four layers of 11,008 neurons."""
    import shutil

    import torch
    from transformers import AutoConfig, LlavaForConditionalGeneration

    import vlm_neurons

    zoo = Path(vlm_neurons.__file__).parent / "zoo/tiny-llava-scenes"
    config = AutoConfig.from_pretrained(zoo)
    config.text_config.intermediate_size, config.text_config.num_hidden_layers = 11_008, 4
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    for file in ("chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo / file, folder)
    return {}


def make_run(run: str, model_at: str) -> dict[str, float]:
    """A scan of 120 scenes by it."""
    model = found("models.HookedVLM", "model.HookedVLM").from_pretrained(model_at)
    data = found("synthetic.scenes", "world.scenes")(120, seed=0)
    found("scanning.scan")(model, data, site="gate", out=run, progress=False)
    return {}


def make_larger(run: str, source: str, layers: str, n: str) -> dict[str, float]:
    """The state of a run of so many layers and samples: layers of a small run, their neurons in another order."""
    import pandas as pd
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    at, small, generator = Path(run), Path(source), torch.Generator().manual_seed(0)
    at.mkdir(parents=True)
    info = json.loads((small / "scan.json").read_text())
    columns, d = info["columns"], info["columns"][0]["d"]
    hooks = [f"blocks.{i}.mlp.hook_act" for i in range(int(layers))]
    info["columns"] = [dict(columns[i % len(columns)], hook=hook, layer=i) for i, hook in enumerate(hooks)]
    info["parameters"]["hooks"], info["data"]["n"] = hooks, int(n)
    (at / "scan.json").write_text(json.dumps(info))
    tensors, larger = load_file(small / "scan.safetensors"), {}
    for i, hook in enumerate(hooks):
        order, own = torch.randperm(d, generator=generator), columns[i % len(columns)]["hook"] + "/"
        for name, tensor in tensors.items():
            if name.startswith(own):
                moved = tensor[order] if tensor.dim() else tensor.clone()
                if name.endswith("sample_ids"):
                    moved = torch.randint(0, int(n), moved.shape, generator=generator, dtype=moved.dtype)
                larger[f"{hook}/{name.removeprefix(own)}"] = moved
    with safe_open(small / "scan.safetensors", framework="pt") as file:
        save_file(larger, at / "scan.safetensors", {**file.metadata(), "run": run_at(run).identity})
    samples = pd.read_parquet(small / "samples.parquet")
    samples = pd.concat([samples] * (-(-int(n) // len(samples))), ignore_index=True)[: int(n)]
    samples.assign(id=range(int(n))).to_parquet(at / "samples.parquet", index=False)
    (at / "skipped.jsonl").write_text("")
    return {}


def make_explained(run: str, source: str, n: str) -> dict[str, float]:
    """Evidence and explanations of so many neurons, those of the source again and again."""
    save, load, explain = found("evidence.storing:save"), found("evidence.load"), found("autointerp.explain")
    kept, one = load(source), run_at(run)
    texts, columns = explain(dict(kept), progress=False, out=source), one.info["columns"]
    lines = [json.loads(line) for line in (Path(source) / "explanations.jsonl").read_text().splitlines()]
    names, written = list(texts), []
    for first in range(0, int(n), NEURONS_OF_A_CALL):
        every = {}
        for k in range(first, min(first + NEURONS_OF_A_CALL, int(n))):
            name, own = f"L{k % len(columns)}N{k // len(columns)}", kept[names[k % len(names)]]
            every[name] = replace(own, neuron=name, source={**own.source, "run": one.identity})
            written.append(json.dumps({**lines[k % len(lines)], "neuron": name}))
        save(every, Path(run) / "evidence")
    (Path(run) / "explanations.jsonl").write_text("\n".join(written) + "\n")
    return {}


def report(run: str) -> dict[str, float]:
    """A page of the explained neurons."""
    one, call = run_at(run), found("reporting.report")
    return measured(lambda: call(one, out=one, n_neurons=0))


def opened(run: str, neuron: str) -> dict[str, float]:
    """Seconds of Chromium to open the page and to find a neuron in it, beyond an empty page: medians of five rounds."""
    import shutil
    import statistics as stats
    import subprocess
    import tempfile

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium here")
    page = (Path(run) / "report.html").resolve()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]

    def seconds(address: str, wanted: str) -> float:
        with tempfile.TemporaryDirectory() as profile:
            begin = time.perf_counter()
            done = subprocess.run(
                [browser, *options, f"--user-data-dir={profile}", address], capture_output=True, text=True
            )
            if wanted not in done.stdout:
                raise SystemExit(f"{address}: {wanted!r} is not on the page")
            return time.perf_counter() - begin

    rounds = []
    for _ in range(5):
        empty = seconds("about:blank", "<html>")
        rounds.append((seconds(page.as_uri(), "of 1000 neurons") - empty,
                       seconds(f"{page.as_uri()}#{neuron}", f">{neuron}</th>") - empty))  # fmt: skip
    files = [file for file in page.with_name("report_files").rglob("*") if file.is_file()]
    others = [file for file in files if file.parent.name == "others"]
    return {"wall": stats.median(r[0] for r in rounds), "found": stats.median(r[1] for r in rounds),
            "mb": page.stat().st_size / 2**20, "all_mb": sum(f.stat().st_size for f in files) / 2**20,
            "others_mb": sum(f.stat().st_size for f in others) / 2**20}  # fmt: skip


STEPS = {step.__name__: step for step in
         (classify, modality_test, statistics, sweep, sensitivity, table, start, evidence, stored, one_of, make_model,
          make_run, make_larger, make_explained, report, opened)}  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(json.dumps(STEPS[sys.argv[1]](*sys.argv[2:])) + "\n")

"""What people try first, as they write it: it works, or the error names the argument and the remedy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vlm_neurons as vn
from vlm_neurons.autointerp import registry
from vlm_neurons.cli.inputs import WITH_WEIGHTS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two sites of the embedded model, scanned."""
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(24, seed=0)
    folder = tmp_path_factory.mktemp("newcomers") / "run"
    run = vn.scan(model, data, site=["gate", "post"], top_n=8, batch_size=24, out=folder, progress=False)
    table = vn.classify(run)
    run.save(table)
    batch = model.prepare(data[0].load_images(), data[0].prompt, data[0].response)
    evidence = vn.gather_evidence(model, data, run, "L2N304", n_top=4, n_spare=4, progress=False)
    return SimpleNamespace(model=model, data=data, run=run, table=table, batch=batch, evidence=evidence)


def test_a_table_of_several_sites_is_refused_where_neurons_would_be_counted_together(made: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"sites gate, post, .*table\[table\.site == 'gate'\]"):
        vn.interventions.class_groups(made.table)
    with pytest.raises(ValueError, match="sites gate, post"):
        vn.causal_effects(made.model, made.data, made.table, progress=False)
    with pytest.raises(ValueError, match="sites gate, post"):
        vn.interventions.pruning_curve(made.model, made.data, made.table, progress=False)
    gate = made.table[made.table.site == "gate"]
    assert sum(map(len, vn.interventions.class_groups(gate).values())) == len(gate)


@pytest.mark.parametrize(
    ("short", "hook"),
    [
        (("gate", 3), "blocks.3.mlp.hook_act"),
        (("gate", -1), "blocks.3.mlp.hook_act"),
        (("post", 1), "blocks.1.mlp.hook_post"),
        ("projector", "projector.0.hook_post"),
        (("vision", 0), "vision.0.mlp.hook_post"),
        (("resid_pre", 1), "blocks.1.hook_resid_pre"),  # TransformerLens' own
        ("embed", "hook_embed"),
    ],
)
def test_caches_know_short_names_of_sites(made: SimpleNamespace, short: Any, hook: str) -> None:
    _, cache = made.model.run_with_cache(made.batch)
    assert cache[short] is cache[hook]


def test_what_a_cache_lacks_is_named_with_what_is_near(made: SimpleNamespace) -> None:
    _, cache = made.model.run_with_cache(made.batch, names_filter=made.model.site_hooks("gate"))
    with pytest.raises(KeyError, match=r"\('gatee', 3\) is not in .*there are \('gate', \.\.\.\)"):
        cache["gatee", 3]
    with pytest.raises(KeyError, match=r"\('gate', 9\) is not in the cache of 8 .*there are blocks\.\d\.mlp\.hook_act"):
        cache["gate", 9]
    with pytest.raises(KeyError, match=r"\('post', 1\) is not in the cache of 8 .*names_filter"):
        cache["post", 1]


@pytest.mark.parametrize(
    "how", ["table", "row", "column", "array", "ids", "commas", "neuron", "set", "tuple", "dict", "records", "tuples"]
)
def test_neurons_are_taken_however_they_are_held(made: SimpleNamespace, how: str) -> None:
    rows = made.table[made.table.neuron == "L2N304"]
    held = {
        "table": rows, "row": rows.iloc[0], "column": rows.neuron, "array": rows.neuron.to_numpy(), "ids": ["L2N304"],
        "commas": "L2N304,", "neuron": vn.Neuron.parse("L2N304"), "set": {"L2N304"},
        "tuple": next(rows.itertuples()), "dict": rows.iloc[0].to_dict(), "records": rows.to_dict("records"),
        "tuples": list(rows.itertuples(index=False)),
    }[how]  # fmt: skip
    found = vn.gather_evidence(made.model, made.data, made.run, held, n_top=1, n_spare=1, progress=False)
    assert list(found) == ["L2N304"] and found["L2N304"].label == rows.label.item()
    seen: dict[str, Any] = {}
    made.model.run_with_hooks(made.batch, fwd_hooks=vn.hooks.record(held, into=seen))
    assert list(seen) == ["L2N304"]


@pytest.mark.parametrize("kind", [str, Path, lambda path: vn.Run.load(path)], ids=["str", "Path", "Run"])
def test_a_run_and_its_directory_stand_for_each_other(made: SimpleNamespace, kind: Callable[[Any], Any]) -> None:
    run = kind(made.run.path)
    assert vn.Run.load(run).identity == made.run.identity
    assert vn.classify(run).equals(made.table)
    assert len(vn.modality_test(run)) and len(vn.classification.sensitivity(run))
    assert list(vn.gather_evidence(made.model, made.data, run, "L2N3", n_top=1, n_spare=1, progress=False)) == ["L2N3"]
    with pytest.raises(ValueError, match="was scanned without concepts"):
        vn.explain(run)


def test_what_a_notebook_shows_of_an_object_fits_on_a_screen(made: SimpleNamespace) -> None:
    explanations = vn.explain(made.evidence, progress=False)
    simulations = vn.simulate(explanations, made.evidence, progress=False)
    shown = [made.batch, made.run, made.model, made.data, made.evidence, made.data[0], *simulations.values()]
    shown += [made.evidence["L2N304"].exemplars[0], made.evidence["L2N304"].exemplars[0].seen]
    assert len(simulations) and all(len(repr(one)) < 400 for one in shown)
    assert len(repr(explanations)) < 1600  # they are words


def test_the_class_of_both_is_known_under_both_spellings(made: SimpleNamespace) -> None:
    gate = made.table[made.table.site == "gate"]
    both = vn.classification.tables.clearest
    assert both(gate, "multi-modal", 3).equals(both(gate, "multimodal", 3))
    picture = [np.zeros((2, 2, 3), np.uint8)]
    from PIL import Image

    probe = vn.Evidence.from_arrays(
        "a", images=[Image.fromarray(one) for one in picture], patch_acts=[np.ones((2, 2))], label="Multi-modal"
    )
    assert probe.label == "multimodal"


LONG = list(range(100_000))
WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "prompts": (lambda m: m.model.prepare([None], 3), r"prompts=3: give one text"),
    "responses": (lambda m: m.model.prepare([None], "Hi", 5), r"responses=5: give one text"),
    "data": (lambda m: vn.scan(m.model, LONG, out="q"), r"data=a list: give vn.ImageTextData"),
    "run": (lambda m: vn.classify(m.table), r"run=a DataFrame: give a run, or its directory"),
    "out": (lambda m: vn.explain(m.evidence, out=LONG), r"out=a list: give"),
    "name": (lambda m: vn.HookedVLM.from_pretrained(3), r"name_or_dir=3: give the name of a model"),
    "model": (lambda m: vn.HookedVLM("llava", None), r"model='llava': .*from_pretrained"),
    "processor": (lambda m: vn.HookedVLM(m.model.bridge, None), r"processor=None: give the model's processor"),
    "scenes": (lambda m: vn.scenes("x"), r"n='x': give a whole number"),
    "seed": (lambda m: m.model.generate([None], ["Hi"], temperature=1, seed="a"), r"seed='a': give a whole number"),
    "seed of gates": (lambda m: vn.interventions.random_gates(m.model, 2**70).__enter__(), r"seed=\d+: give a whole"),
    "seed of effects": (lambda m: vn.causal_effects(m.model, m.data, m.table, seed=-1), r"seed=-1: give a whole"),
    "base_url": (lambda m: vn.explainers.OpenAIExplainer("m", base_url=" "), r"base_url='': .*or leave it out"),
    "new tokens": (lambda m: m.model.generate([None], ["Hi"], max_new_tokens="3"), r"max_new_tokens='3': give"),
    "temperature": (lambda m: m.model.generate([None], ["Hi"], temperature="hot"), r"temperature='hot': give"),
    "site": (lambda m: m.model.site_hooks(3), r"site=3: give the name"),
    "groups": (lambda m: vn.causal_effects(m.model, m.data, groups="visual"), r"groups='visual': give \{name"),
    "batch": (
        lambda m: vn.patch_neurons(m.model, corrupted="x", clean=m.batch, patching_metric=len, neurons="L0N1"),
        r"corrupted='x': give what model.prepare",
    ),
    "folder": (lambda m: vn.ImageTextData.from_folder(3), r"path=3: give the folder"),
    "bytes": (lambda m: m.model.prepare(b"x" * 100_000, "Hi"), r"image cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_type_is_named_by_argument_in_few_words(made: SimpleNamespace, name: str) -> None:
    call, said = WRONG[name]
    with pytest.raises((TypeError, ValueError, OSError), match=said) as error:
        call(made)
    assert len(str(error.value)) < 300


def test_an_empty_r_null_says_what_to_explain(made: SimpleNamespace) -> None:
    table = vn.score({"L2N304": "pink regions"}, made.evidence, progress=False).set_index("side")
    assert np.isnan(table.r_null["picture"])
    assert "no r_null: explain other neurons of layer 2" in table.note["picture"]
    alone = vn.score({"L2N304": "pink regions"}, made.evidence, n_null=0, progress=False)
    assert not alone.note.str.contains("r_null").any()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-llava-scene", r"no embedded model; close: tiny-llava-scenes"),
        ("llava-1.5-7b", r"close: llava-hf/llava-1.5-7b-hf.*named with their owner"),
        ("llavva-hf/llava-1.5-7b-hf", r"cannot be downloaded .*close: llava-hf/llava-1.5-7b-hf"),
        ("something else", r"'something else' is no directory here and no embedded model\. Models"),
    ],
)
def test_a_mistyped_model_name_is_answered_with_the_nearest(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=said):
        vn.HookedVLM.from_pretrained(name)


SLOW = ("torch", "transformers", "transformer_lens", "pandas", "scipy")  # each takes a second and more to import
COMMAND = """
import sys
from vlm_neurons.cli.main import main
code = main(sys.argv[1:])
print(code, *(name for name in {slow} if name in sys.modules))
"""


@contextmanager
def hub(status: int, headers: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as the hub does about one model, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/api/agent-"):  # the hub's own library asks for that too, once a day
                asked.append(self.path)
            self.send_response(status)
            for name, value in {"content-length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def on_the_command_line(name: str, endpoint: str, folder: Path) -> tuple[list[str], str]:
    """What the command ends with, and the slow packages that it had imported by then; its words."""
    command = [sys.executable, "-c", COMMAND.format(slow=SLOW), "scan", "--model", name]
    command += ["--data", "scenes:n=2,seed=0", "--out", str(folder / "run")]
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-llava-scene", "'tiny-llava-scene' is no directory here and no embedded model; close: tiny-llava-scenes"),
        ("llavva-hf/llava-1.5-7b-hf", "the hub has no such model, .*; close: llava-hf/llava-1.5-7b-hf"),
        ("a b/c", "Repo id must use"),
    ],
)
def test_a_mistyped_model_name_is_answered_before_anything_slow_is_imported(
    name: str, said: str, tmp_path: Path
) -> None:
    """The hub is asked once, and not waited for."""
    with hub(401, {"x-error-code": "RepoNotFound", "x-error-message": "Repository not found"}) as (url, asked):
        found, words = on_the_command_line(name, url, tmp_path)
    assert found == ["1"] and words.startswith("vlm-neurons scan: ") and re.search(said, words), words
    assert asked == (["/api/models/llavva-hf/llava-1.5-7b-hf"] if name.startswith("llavva") else [])


@pytest.mark.parametrize("option", ["explainer", "simulator"])
def test_models_that_explain_and_simulate_are_looked_for_first_too(option: str) -> None:
    code = COMMAND.format(slow=SLOW)
    command = [sys.executable, "-c", code, "explain", "r", f"--{option}", "local", f"--{option}-model", "tiny-lava"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1"] and "'tiny-lava' is no directory here and no embedded model" in done.stderr
    table = {"explainer": registry.EXPLAINERS, "simulator": registry.SIMULATORS}[option]
    assert set(WITH_WEIGHTS[f"--{option}"]) == {name for name, entry in table.items() if entry.needs == "weights"}


def test_where_the_hub_cannot_be_reached_a_name_is_answered_at_once(tmp_path: Path) -> None:
    with hub(500, {}) as (url, _):
        pass  # nobody listens there any more
    found, words = on_the_command_line("llava-hf/llava-1.5-7b-hff", url, tmp_path)
    assert found == ["1"] and "the hub cannot be reached" in words and "close: llava-hf/llava-1.5-7b-hf" in words


@pytest.mark.parametrize(
    ("status", "headers"), [(500, {}), (404, {}), (403, {"x-error-code": "GatedRepo"})], ids=["500", "404", "gated"]
)
def test_what_the_hub_does_not_deny_is_tried(status: int, headers: dict[str, str], tmp_path: Path) -> None:
    """A mirror need not have all of the hub's pages."""
    code = "from vlm_neurons import zoo; print(zoo.find('someone/model')[0])"
    with hub(status, headers) as (url, asked):
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == ["someone/model"] and asked == ["/api/models/someone/model"], done.stderr

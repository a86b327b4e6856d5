"""What a run goes on with: what decides numbers has to be the same, what does not is told and recorded."""

from __future__ import annotations

import copy
import json
import warnings
from datetime import date

import pytest
import tiny
from runs import one_of_two
from safetensors import safe_open

import vlm_neurons as vn
from vlm_neurons.models import HookedVLM
from vlm_neurons.models.template import render
from vlm_neurons.scanning.identity import differences, noteworthy

DATED = "Today is {{ strftime_now('%A %-d %B %Y, %j') }}. " + tiny.CHATML
OTHER_DAY = "2025-02-03"
SETTINGS = {"site": "gate", "top_n": 3, "batch_size": 2, "block_size": 2, "progress": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for i in range(6):
        tiny.image().save(folder / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "response": f"A dog and {i} cats."}) + "\n")
    (folder / "data.jsonl").write_text("".join(lines))
    return vn.ImageTextData.from_jsonl(folder / "data.jsonl")


def make_model(template=None):
    processor = tiny.processor()
    processor.chat_template = template
    return HookedVLM(tiny.llava(processor.tokenizer, seed=5), processor)


def half_done(model, data, out):
    """A scan of which every second block is done."""
    with one_of_two():
        return vn.scan(model, data, **SETTINGS, out=out)


def begun_with(run, versions):
    file = run.path / "scan.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "versions": versions}))


def test_a_patch_release_is_told_and_recorded_and_a_release_is_refused(tmp_path, data):
    model = make_model()
    run = half_done(model, data, tmp_path)
    versions = run.info["versions"]
    release = ".".join(versions["torch"].split(".")[:2])
    begun_with(run, {**versions, "torch": "1.77.0"})
    with pytest.raises(ValueError, match=r"versions.torch: '1.77.0' there, .*Nothing was changed"):
        vn.scan(model, data, **SETTINGS, out=tmp_path)
    begun_with(run, {**versions, "torch": f"{release}.77"})
    with pytest.warns(UserWarning, match=rf"begun with other versions.torch: '{release}.77' there, "):
        gone_on = vn.scan(model, data, **SETTINGS, out=tmp_path)
    assert gone_on.summary() == "6 samples scanned, 0 skipped"
    with safe_open(tmp_path / "scan.safetensors", framework="pt") as file:
        made_with = json.loads(file.metadata()["made_with"])
    assert [one["versions"]["torch"] for one in made_with] == [versions["torch"]]  # no block was made with .77


def test_threads_decide_on_a_cpu_only(tmp_path, data):
    here = vn.scan(make_model(), data, **SETTINGS, out=tmp_path).info
    there = {**copy.deepcopy(here), "threads": here["threads"] + 1}
    assert differences(there, here, "there", "here") == f"threads: {there['threads']} there, {here['threads']} here"
    for info in (here, there):
        info["model"]["device"] = "cuda"
    assert differences(there, here, "there", "here") == ""
    assert noteworthy(there, here) == f"threads: {there['threads']} there, {here['threads']} here"


def test_a_run_goes_on_the_next_day_with_the_prompts_of_the_first(tmp_path, data):
    model = make_model(DATED)
    model.day = OTHER_DAY
    run = half_done(model, data, tmp_path)
    assert "Monday 3 February 2025, 034" in run.info["rendered"]
    later = make_model(DATED)
    assert later.day == date.today().isoformat()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gone_on = vn.scan(later, data, **SETTINGS, out=tmp_path)
    assert gone_on.info == run.info and later.day == date.today().isoformat()
    found = vn.gather_evidence(later, data, gone_on, "L0N3", n_top=2, n_spare=0, progress=False)
    stored = float(run.top("blocks.0.mlp.hook_act").peak[3])
    assert found["L0N3"].exemplars[0].peak == pytest.approx(stored, rel=1e-5)


def test_responses_are_written_on_with_the_day_of_the_first(tmp_path, data):
    silent = data.with_responses([None] * len(data))
    model = make_model(DATED)
    model.day = OTHER_DAY
    out = tmp_path / "captions.jsonl"
    whole = vn.describe(model, silent, out, max_new_tokens=4, progress=False)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:2]))
    gone_on = vn.describe(make_model(DATED), silent, out, max_new_tokens=4, progress=False)
    assert out.read_text() == "".join(lines)
    assert [s.response for s in gone_on] == [s.response for s in whole]


def test_a_date_is_written_as_transformers_writes_it():
    processor = tiny.processor()
    processor.chat_template = DATED
    messages = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    theirs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert render(processor, "<image>", "Why?", 0, None).text == theirs
    assert render(processor, "<image>", "Why?", 0, None, OTHER_DAY).text != theirs

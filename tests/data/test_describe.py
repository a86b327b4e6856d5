"""Responses by the model: greedy, stored line by line, gone on with after a kill."""

from __future__ import annotations

import json

import pytest
import tiny

from vlm_neurons.data import DEFAULT_PROMPT, ImageTextData, describe
from vlm_neurons.models import HookedVLM


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    return HookedVLM(tiny.llava(processor.tokenizer), processor)


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        tiny.image().save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_text("broken")
    (tmp_path / "captions.jsonl").write_text(
        json.dumps({"image": "2.png", "response": "Given.", "prompt": "Why?"}) + "\n"
    )
    return tmp_path


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_missing_responses_are_the_models_own_and_given_ones_stay(model, folder, tmp_path):
    data = ImageTextData.from_folder(folder)
    out = folder / "out.jsonl"
    described = describe(model, data, out, batch_size=1, max_new_tokens=7, progress=False)
    expected = [
        model.generate([s.load_images()], [DEFAULT_PROMPT], max_new_tokens=7)[0] for s in data if s.id not in (1, 2)
    ]
    assert [s.response for s in described if s.id not in (1, 2)] == expected
    assert described[2].response == "Given." and described[1].response is None
    lines = lines_of(out)
    assert [line["image"] for line in lines] == [f"{i}.png" for i in range(5)]
    assert [line["prompt"] for line in lines] == [DEFAULT_PROMPT] * 2 + ["Why?"] + [DEFAULT_PROMPT] * 2
    assert "1.png" in lines[1]["error"] and "generated_by" not in lines[2]
    again = ImageTextData.from_jsonl(out)
    assert [s.response for s in again] == [s.response for s in described]


def test_a_kill_costs_at_most_the_torn_line(model, folder):
    data = ImageTextData.from_folder(folder)
    whole = folder / "whole.jsonl"
    describe(model, data, whole, batch_size=2, max_new_tokens=5, progress=False)
    content = whole.read_bytes()
    second_line = content.index(b"\n", content.index(b"\n") + 1) + 1
    for cut in (second_line, second_line + 10, len(content) - 1):
        torn = folder / f"torn{cut}.jsonl"
        torn.write_bytes(content[:cut])
        describe(model, data, torn, batch_size=2, max_new_tokens=5, progress=False)
        assert lines_of(torn) == lines_of(whole)
        assert torn.read_bytes().startswith(content[:second_line])


def test_a_file_of_other_data_or_another_model_is_refused_and_kept(model, folder):
    data = ImageTextData.from_folder(folder)
    out = folder / "out.jsonl"
    describe(model, data, out, max_new_tokens=5, progress=False)
    before = out.read_bytes()
    processor = tiny.processor()
    other = HookedVLM(tiny.llava(processor.tokenizer), processor)
    shorter = ImageTextData.from_samples([data[i] for i in range(4)])
    moved = ImageTextData.from_samples([data[i] for i in (4, 1, 2, 3, 0)])
    edited = data.with_responses([None, None, "Changed.", None, None])
    for who, what, prompt, message in (
        (other, data, DEFAULT_PROMPT, "line 1: generated_by"),
        (model, data, "Other?", "line 1: prompt"),
        (model, shorter, DEFAULT_PROMPT, "only 4 samples"),
        (model, moved, DEFAULT_PROMPT, "line 1: name"),
        (model, edited, DEFAULT_PROMPT, "line 3: response"),
    ):
        with pytest.raises(ValueError, match=message):
            describe(who, what, out, prompt=prompt, max_new_tokens=5, progress=False)
        assert out.read_bytes() == before


def test_what_was_written_under_hooks_is_not_gone_on_with_without_them(model, folder):
    data, out = ImageTextData.from_folder(folder), folder / "hooked.jsonl"
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda tensor, hook: tensor * 0.2)]):
        describe(model, data, out, max_new_tokens=5, progress=False)
    assert lines_of(out)[0]["generated_by"]["hooked"].startswith("by hooks on blocks.1.")
    with pytest.raises(ValueError, match="line 1: generated_by"):
        describe(model, data, out, max_new_tokens=5, progress=False)


def test_pictures_in_memory_are_not_written_as_text_only(model, tmp_path):
    data = ImageTextData.from_samples([{"image": tiny.image()}, {"image": None, "prompt": "Say a word."}])
    described = describe(model, data, tmp_path / "c.jsonl", max_new_tokens=5, progress=False)
    assert all(s.response is not None for s in described)
    assert ["image" in line for line in lines_of(tmp_path / "c.jsonl")] == [False, True]
    with pytest.raises(ValueError, match=r"line 1: no \"image\""):
        ImageTextData.from_jsonl(tmp_path / "c.jsonl")


def test_a_prompt_that_the_model_cannot_be_asked_is_recorded(model, tmp_path):
    prompts = ["What?", "Is </s> special?", "Where?"]
    data = ImageTextData.from_samples([{"image": tiny.image(), "prompt": p} for p in prompts])
    described = describe(model, data, tmp_path / "c.jsonl", max_new_tokens=5, progress=False)
    assert [s.response is None for s in described] == [False, True, False]
    assert "</s>" in lines_of(tmp_path / "c.jsonl")[1]["error"]

"""What is written is the model's own: no setting of the checkpoint has a say, nothing goes on behind an end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import vlm_neurons as vn
from vlm_neurons.models.generating import Sampling, generate_tokens


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")


@pytest.fixture
def config(model: vn.HookedVLM) -> Iterator[Any]:
    hf = model.bridge.original_model
    before = hf.generation_config
    hf.generation_config = type(before)(**before.to_dict())
    yield hf.generation_config
    hf.generation_config = before


def question(model: vn.HookedVLM) -> tuple[Any, str]:
    scene = vn.scenes(1, seed=1, task="question")[0]
    return scene.load_images(), str(scene.prompt)


SETTINGS = [
    {"repetition_penalty": 50.0}, {"no_repeat_ngram_size": 1}, {"num_beams": 4, "length_penalty": -9.0},
    {"suppress_tokens": "answer"}, {"begin_suppress_tokens": "answer"}, {"bad_words_ids": "answer"},
    {"min_new_tokens": 9}, {"min_length": 200}, {"stop_strings": ["l", "a"]}, {"do_sample": True, "temperature": 99.0},
    {"forced_eos_token_id": 2, "max_length": 3}, {"encoder_repetition_penalty": 9.0}, {"sequence_bias": "answer"},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=[next(iter(s)) for s in SETTINGS])
def test_greedy_is_greedy_whatever_came_with_the_checkpoint(
    model: vn.HookedVLM, config: Any, settings: dict[str, Any]
) -> None:
    """The reference is a loop over the forward pass."""
    batch = model.prepare(*question(model))
    expected: list[int] = []
    while not expected or (expected[-1] != 2 and len(expected) < 8):
        beginning = model.tokenizer.decode(expected)
        step = model.prepare(*question(model), beginning, end=False) if expected else batch
        expected.append(int(model(step)[0, -1].argmax()))
    for name, value in settings.items():
        first = expected[0]
        shaped = {"bad_words_ids": [[first]], "sequence_bias": [[[first], -99.0]]}.get(name, [first])
        setattr(config, name, shaped if value == "answer" else value)
    assert model.generate_tokens(batch, 8)[0].tolist() == expected
    assert model.bridge.original_model.generation_config is config, "the model is as it was"


def test_a_response_can_be_a_beginning_that_goes_on(model: vn.HookedVLM) -> None:
    image, prompt = question(model)
    whole, begun = model.prepare(image, prompt, "large"), model.prepare(image, prompt, "large", end=False)
    assert whole.texts[0] == begun.texts[0] + "</s>" and begun.input_ids[0].tolist() == whole.input_ids[0, :-1].tolist()
    assert torch.equal(model(begun), model(whole)[:, :-1]) and bool(begun.mask("text")[0, -1])
    assert model.generate(begun) == ["."] and model.generate(image, prompt) == ["large."]
    several = model.prepare([image[0]] * 2, prompt, ["large", "the large red cross is"], end=False)
    assert bool(several.attention_mask[:, -1].all()), "padded on the left"
    alone = [model.generate(model.prepare(image, prompt, r, end=False))[0] for r in ("large", "the large red cross is")]
    assert model.generate(several) == alone
    assert model.generate(model.prepare(image, prompt, "", end=False)) == ["large."]


@pytest.mark.parametrize("response", ["large.", "", " "])
def test_nothing_is_written_behind_an_end(model: vn.HookedVLM, response: str) -> None:
    image, prompt = question(model)
    batch = model.prepare(image, prompt, response, padding_side="left")
    with pytest.raises(ValueError, match=r"row 0.*ended.*end=False"):
        model.generate(batch)


def test_drawing_is_the_same_for_the_same_seed_and_leaves_torch_alone(model: vn.HookedVLM) -> None:
    image, prompt = question(model)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    drawn = [model.generate(image, prompt, 6, temperature=20.0, seed=s)[0] for s in (1, 1, 2, 3)]
    assert torch.equal(state, torch.get_rng_state())
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    greedy = model.generate(image, prompt, 6)
    assert model.generate(image, prompt, 6, temperature=0, seed=1) == greedy
    assert model.generate(image, prompt, 6, top_p=1e-6, seed=1) == greedy, "the likeliest alone is left"


def test_tokens_are_drawn_by_the_model_s_own_probabilities(model: vn.HookedVLM) -> None:
    batch = model.prepare([None] * 200, "Hi")  # no pictures: those of so many rows would take most of the time
    n, temperature = 10, 4.0
    drawn = [generate_tokens(model, batch, 1, Sampling(temperature, seed=s))[:, 0] for s in range(n)]
    first = torch.cat(drawn)
    expected = (model(batch)[0, -1].detach() / temperature).softmax(-1)
    likeliest = int(expected.argmax())
    share, sigma = float((first == likeliest).float().mean()), float((expected[likeliest] / (200 * n)) ** 0.5)
    assert abs(share - float(expected[likeliest])) < 5 * sigma


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 2.0}]
)
def test_numbers_out_of_range_are_named(model: vn.HookedVLM, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        model.generate(*question(model), **wrong)  # type: ignore[arg-type]

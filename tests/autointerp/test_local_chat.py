"""A model in this process is asked as one behind a server is, with every guard of the main path."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import cases
import pytest
import torch
from pydantic import BaseModel

import vlm_neurons as vn
from vlm_neurons import zoo
from vlm_neurons.autointerp.client import Ask, LocalChat
from vlm_neurons.autointerp.client.local import open_model
from vlm_neurons.autointerp.client.prompting import image_part, text_part

SYSTEM, USER = "Be brief.", "What is it?"
TURNS = "{% for m in messages %}<TURN>{{ m['role'] }}: {% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"  # noqa: E501
PLAIN = TURNS.replace("<TURN>", "")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATE = "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"  # noqa: E501
DROPS = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
STRINGS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"


class Said(BaseModel):
    word: str


@pytest.fixture(scope="module")
def opened() -> tuple[Any, Any]:
    return open_model("AutoModelForImageTextToText", zoo.path("tiny-llava-scenes"))


@pytest.fixture
def seen(opened: tuple[Any, Any]) -> Iterator[tuple[LocalChat, list[str]]]:
    """The chat, and what its model reads, decoded."""
    model, processor = opened[0], copy.deepcopy(opened[1])
    texts: list[str] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            texts.append(processor.tokenizer.decode(kwargs["input_ids"][0]))

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    yield LocalChat(model, processor), texts
    handle.remove()


def ask(**options: Any) -> Ask:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [text_part(USER)]}]
    return Ask(0, messages, Said, **{"max_tokens": 3, **options})


@pytest.mark.parametrize("prefill", ["", "It is red"])
@pytest.mark.parametrize("template", ["{{ bos_token }}" + PLAIN, "<s>" + PLAIN, PLAIN])
def test_one_bos_is_read_and_never_two(template: str, prefill: str, seen: tuple[LocalChat, list[str]]) -> None:
    chat, texts = seen
    chat.processor.chat_template = template
    chat.answer(ask(prefill=prefill))
    assert texts[0].count("<s>") == 1 and texts[0].startswith("<s>")


@pytest.mark.parametrize("where", ["processor", "tokenizer"])
@pytest.mark.parametrize("template", [NO_SYSTEM + PLAIN, ALTERNATE + PLAIN, DROPS, PLAIN, STRINGS],
                         ids=["refuses", "alternates", "drops", "knows", "wants strings"])  # fmt: skip
def test_what_the_system_says_is_read_whatever_the_template_knows(
    template: str, where: str, seen: tuple[LocalChat, list[str]]
) -> None:
    chat, texts = seen
    chat.processor.chat_template = None
    (chat.processor if where == "processor" else chat.processor.tokenizer).chat_template = template
    reply = chat.answer(ask())
    assert reply.failure is None or reply.failure[0] != "request", reply.failure
    text = texts[0]
    assert text.count(SYSTEM) == text.count(USER) == 1 and text.index(SYSTEM) < text.index(USER)
    assert "{'type'" not in text


def test_a_prompt_that_the_template_or_the_processor_refuses_is_a_failure_of_it_alone(
    seen: tuple[LocalChat, list[str]],
) -> None:
    chat, _ = seen
    chat.processor.chat_template = "{{ raise_exception('not today') }}"
    assert chat.answer(ask()).failure == ("request", "TemplateError: not today")
    chat.processor.chat_template = chat.processor.tokenizer.chat_template = None
    failure = chat.answer(ask()).failure
    assert failure is not None and failure[0] == "request" and "processor.chat_template" in failure[1]
    chat.processor.chat_template = PLAIN.replace("<image>", "")
    odd = [{"role": "user", "content": [image_part(cases.picture_neuron().split("test")[0].seen.images[0])]}]
    failure = chat.answer(Ask(0, odd, Said)).failure
    assert failure is not None and failure[0] == "request"


def test_names_of_special_tokens_in_the_data_are_read_as_text(seen: tuple[LocalChat, list[str]]) -> None:
    chat, texts = seen
    messages = [{"role": "user", "content": [text_part("a <image> </s> <s> b")]}]
    chat.answer(Ask(0, messages, Said, max_tokens=2))
    assert "<image>" not in texts[0] and "</s>" not in texts[0]


@pytest.mark.parametrize("settings", [{"repetition_penalty": 50.0}, {"suppress_tokens": [5, 6]}, {"num_beams": 3},
                                      {"min_new_tokens": 5}, {"do_sample": True}])  # fmt: skip
def test_answers_and_their_probabilities_are_the_model_s_own_whatever_the_checkpoint_says(
    settings: dict[str, Any], opened: tuple[Any, Any]
) -> None:
    model, processor = opened
    chat, question = LocalChat(model, processor), ask(logprobs=True, max_tokens=6)
    own = model.generation_config
    expected = chat.answer(question).completion
    model.generation_config = type(own)(**{**own.to_dict(), **settings})
    try:
        found = chat.answer(question).completion
    finally:
        model.generation_config = own
    assert found == expected and expected is not None
    first = expected["choices"][0]["logprobs"]["content"][0]
    with torch.no_grad():
        inputs = chat._inputs([*question.sent({})[:1], *chat_turns(question)], False)
        logits = model(**inputs).logits[0, -1].log_softmax(-1)
    assert first["top_logprobs"][0]["logprob"] == pytest.approx(float(logits.max()), abs=1e-4)


def chat_turns(question: Ask) -> list[dict[str, Any]]:
    from vlm_neurons.autointerp.client.asking import body_of

    turns: list[dict[str, Any]] = body_of(question, "", {"schema": False}, {})["messages"][1:]
    return turns


def test_an_explainer_in_process_reads_one_bos(opened: tuple[Any, Any]) -> None:
    model, processor = opened[0], copy.deepcopy(opened[1])
    processor.chat_template = "{{ bos_token }}" + PLAIN
    counts: list[int] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            counts.append(int((kwargs["input_ids"] == processor.tokenizer.bos_token_id).sum()))

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    limit = model.config.text_config.max_position_embeddings
    model.config.text_config.max_position_embeddings = 8192
    try:
        vn.explain(cases.text_neurons(1), vn.explainers.LocalExplainer(model, processor, max_tokens=2), progress=False)
    finally:
        handle.remove()
        model.config.text_config.max_position_embeddings = limit
    assert counts and set(counts) == {1}


def test_a_model_in_training_mode_is_not_asked(seen: tuple[LocalChat, list[str]]) -> None:
    chat = seen[0]
    chat.model.train()
    try:
        with pytest.raises(ValueError, match="in training mode"):
            chat.answer(ask())
    finally:
        chat.model.eval()
    assert chat.answer(ask()).completion


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's own
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("settings", [{"suppress_tokens": "first"}, {"min_new_tokens": 6}],
                         ids=["bans", "lengths"])  # fmt: skip
def test_a_model_that_peft_wraps_is_asked_greedily_and_keeps_its_own_settings(
    task: str | None, settings: dict[str, Any], opened: tuple[Any, Any]
) -> None:
    peft = pytest.importorskip("peft")
    model, processor = copy.deepcopy(opened[0]), opened[1]
    adapter = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type=task)
    wrapped, own = peft.get_peft_model(model, adapter).eval(), model.generation_config
    chat, question = LocalChat(wrapped, processor), ask(max_tokens=6)
    inputs = chat._inputs([*question.sent({})[:1], *chat_turns(question)], False)
    written = wrapped.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = chat.answer(question).completion
    assert expected is not None
    assert expected["choices"][0]["message"]["content"] == processor.tokenizer.decode(written, skip_special_tokens=True)
    for name, value in settings.items():
        setattr(own, name, [int(written[0])] if value == "first" else value)
    before = own.to_dict()
    assert chat.answer(question).completion == expected
    assert model.generation_config is own and own.to_dict() == before
    longer = wrapped.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert longer.tolist() != written.tolist(), "the settings would have had a say"


@pytest.mark.parametrize("prefill", ["", "It is red"])
@pytest.mark.parametrize("fault", ["an id beyond the embedding", "another number of image tokens"])
def test_what_the_model_cannot_take_is_a_failure_of_this_question_alone(
    fault: str, prefill: str, seen: tuple[LocalChat, list[str]]
) -> None:
    chat, _ = seen
    chat.processor.chat_template = PLAIN
    picture = image_part(cases.picture_neuron().split("test")[0].seen.images[0])
    turns = [{"role": "user", "content": [text_part("What? Xyzzy"), picture]}]
    question = Ask(0, turns, Said, max_tokens=2, prefill=prefill)
    assert "request" not in (chat.answer(question).failure or ())
    if fault == "an id beyond the embedding":
        chat.processor.tokenizer.add_tokens(["Xyzzy"])
        said = rf"the token id {len(chat.processor.tokenizer) - 1}.* embedding has .*resize_token_embeddings"
    else:
        chat.processor.patch_size *= 2
        said = "ValueError: .*mage"
    failure = chat.answer(question).failure
    assert failure is not None and failure[0] == "request" and re.search(said, failure[1]), failure


def test_what_is_no_model_of_transformers_is_refused_with_what_to_give(opened: tuple[Any, Any]) -> None:
    vlm = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    for asker in (vn.explainers.LocalExplainer, vn.simulators.LocalSimulator, LocalChat):
        with pytest.raises(TypeError, match=r"model=a HookedVLM.*\.bridge\.original_model"):
            asker(vlm, vlm.processor)
        with pytest.raises(TypeError, match=r"model='tiny-llava-scenes': give a model of transformers"):
            asker("tiny-llava-scenes", vlm.processor)
        with pytest.raises(TypeError, match="give the model's processor"):
            asker(opened[0], opened[1].tokenizer)
        assert len(repr(asker(*opened))) < 500
        with pytest.raises(TypeError, match=r"model=a DataParallel: .*the one inside this: \.module"):
            asker(torch.nn.DataParallel(opened[0]), opened[1])
        with pytest.raises(TypeError, match="model=a Linear: give a model of transformers"):
            asker(torch.nn.Linear(2, 2), opened[1])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens", "q_proj"]},
                                      {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}])  # fmt: skip
def test_adapters_of_the_embedding_are_asked_too(settings: dict[str, Any], opened: tuple[Any, Any]) -> None:
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(copy.deepcopy(opened[0]), peft.LoraConfig(**settings)).eval()
    assert LocalChat(wrapped, opened[1]).answer(ask()).completion == LocalChat(*opened).answer(ask()).completion

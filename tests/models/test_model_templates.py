"""Chat templates as checkpoints have them: saved with the tokenizer, wanting strings, raising for one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from vlm_neurons.models import HookedVLM, RowError

PARTS = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRINGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '' OP m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = "<|im_start|>user\n{}What is it?<|im_end|>\n<|im_start|>assistant\n"


def model(template: Any, on: str = "processor") -> HookedVLM:
    processor = tiny.processor()
    owner = processor if on == "processor" else processor.tokenizer
    owner.chat_template = template
    return HookedVLM(tiny.llava(processor.tokenizer), processor)


@pytest.mark.parametrize("template", [PARTS, {"default": PARTS, "tool_use": "x"}])
def test_a_template_that_is_saved_with_the_tokenizer_alone_is_used(template: Any) -> None:
    one = model(template, "tokenizer")
    batch = one.prepare([tiny.image()], ["What is it?"], ["a dog"])
    assert batch.texts[0] == "<s>" + ASKED.format("<image>") + "a dog<|im_end|>\n"
    assert batch.input_ids[0].tolist().count(one.tokenizer.bos_token_id) == 1
    assert one.fingerprint() != model(None).fingerprint()


def test_a_template_that_is_saved_with_the_tokenizer_alone_is_used_from_a_directory(tmp_path: Path) -> None:
    processor = tiny.processor()
    processor.tokenizer.chat_template = PARTS
    tiny.llava(processor.tokenizer).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    batch = HookedVLM.from_pretrained(tmp_path).prepare([tiny.image()], ["What is it?"])
    assert batch.texts[0] == "<s>" + ASKED.format("<image>")


@pytest.mark.parametrize("joined", ["+", "~"])
@pytest.mark.parametrize("on", ["processor", "tokenizer"])
def test_a_template_that_wants_strings_is_given_strings(joined: str, on: str) -> None:
    one = model(STRINGS.replace("OP", joined), on)
    batch = one.prepare([tiny.image(), None], "What is it?", ["a dog", "a cat"])
    assert batch.texts[0] == ASKED.format("<image>\n") + "a dog<|im_end|>\n"
    assert batch.texts[1] == ASKED.format("") + "a cat<|im_end|>\n"
    assert batch.mask("text").sum(1).min() > 0


def test_a_template_that_raises_for_one_row_is_an_error_of_that_row() -> None:
    refusing = "{% if messages[0].content | length > 2 %}{{ raise_exception('one image only') }}{% endif %}" + PARTS
    one, picture = model(refusing), tiny.image()
    with pytest.raises(RowError, match=r"row 1.*one image only"):
        one.prepare([picture, [picture, picture]], "What is it?", ["a dog", "two dogs"])


def test_a_template_that_cuts_one_response_is_an_error_of_that_row() -> None:
    one = model(PARTS.replace("c.text", "c.text.split('</think>')[-1]"))
    with pytest.raises(RowError, match=r"row 1.*changes the response.*reword it"):
        one.prepare([None, None], "What?", ["a dog", "hm</think> a dog"])

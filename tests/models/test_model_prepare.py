"""What `prepare` says of every position is exact, checked against a reading of the tokens that knows no offsets."""

from __future__ import annotations

import random
from typing import Any

import pytest
import seeds
import tiny
import torch

from vlm_neurons.models import Batch, RowError
from vlm_neurons.models.adapters import adapter_of
from vlm_neurons.models.prepare import prepare as prepare_as
from vlm_neurons.models.template import render, words_of
from vlm_neurons.tokens import TokenKind

HF_LLAVA = (  # the template of llava-hf/llava-1.5-7b-hf, without its generation marks
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TRIMMING = tiny.CHATML.replace("c['text']", "c['text'] | trim")
THINKING = tiny.CHATML.replace("assistant\n{% endif", "assistant\nthink:\n{% endif")  # only in the generation prompt

# name -> (template, text before the response, text after it), written by hand
FORMS: dict[str, tuple[str | None, str, str]] = {
    "llava": (None, "USER: {images_nl}{prompt}\nASSISTANT: ", ""),
    "hf-llava": (HF_LLAVA, "USER: {images_nl}{prompt} ASSISTANT: ", " "),
    "chatml": (
        tiny.CHATML,
        "<s><|im_start|>user\n{images}{prompt}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "trimming": (
        TRIMMING,
        "<s><|im_start|>user\n{images}{prompt_trimmed}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>\n",
    ),
    "thinking": (
        THINKING,
        "<s><|im_start|>user\n{images}{prompt}<|im_end|>\n<|im_start|>assistant\nthink:\n",
        "<|im_end|>\n",
    ),
}
TOKENIZERS = ["bpe", "bpe-whole-offsets", "unigram"]


def make(kind: str, template: str | None, **kwargs: Any) -> tuple[Any, Any, Any]:
    tok = tiny.tokenizer(kind.partition("-")[0], trim_offsets="whole" not in kind)
    processor = tiny.processor(tok, chat_template=template, **kwargs)
    config = tiny.llava(tok, tower=kwargs.get("tower", "clip")).config
    return processor, config, words_of(processor, config)


def prepare(processor: Any, config: Any, words: Any, *rows: Any, **options: Any) -> Batch:
    return prepare_as(processor, config, adapter_of(config), words, *rows, **options)


def characters(words: Any, ids: list[int], text: str, counts: list[int]) -> list[tuple[int, int]]:
    """Which bytes of `text` every token reads, by walking along the text with the tokens' own pieces."""
    at, found, left, counts = 0, [], 0, list(counts)
    data = text.encode()
    byte_level = words.tokenizer.convert_tokens_to_ids("Ġ") not in (None, words.tokenizer.unk_token_id)
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    size_of = {c: 1 for c in bytes_to_unicode().values()}
    for token, piece in zip(ids, words.tokenizer.convert_ids_to_tokens(ids), strict=True):
        if token == words.image_id:
            left = counts.pop(0) if left == 0 else left
            found.append((at, at + len("<image>")))
            left -= 1
            at += len("<image>") if left == 0 else 0
            continue
        if token in words.special_ids:
            size = len(piece) if data[at:].startswith(piece.encode()) else 0
        elif byte_level:
            size = sum(size_of[c] for c in piece)
        else:
            if piece.startswith("▁") and data[at : at + 1] != b" ":
                piece = piece[1:]  # made up by the tokenizer
            piece = piece.replace("▁", " ")
            size = len(piece.encode())
            assert data[at : at + size].decode() == piece
        found.append((at, at + size))
        at += size
    assert at == len(data)
    return found


def some_text(kind: str, rng: random.Random) -> str:
    words = [
        "A",
        "dog",
        "image",
        "USER:",
        "ASSISTANT:",
        "blue",
        "the",
        "s",
        "What",
        "two",
        "(5 + 3)",
        "1234",
        "circle.",
    ]
    words += [] if kind == "unigram" else ["Zürich", "日本", "🐈", "\n", "\t", "don't", "\xa0", "  "]
    text = "".join(w + rng.choice([" ", "", "  ", ", "]) for w in rng.choices(words, k=rng.randint(1, 8)))
    return rng.choice(["", " ", "  "]) + text if rng.random() < 0.3 else text


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("form", FORMS)
def test_text_is_exactly_the_tokens_with_a_character_of_the_response(kind: str, form: str) -> None:
    rng = random.Random(seeds.number())
    template, before, after = FORMS[form]
    processor, config, words = make(kind, template)
    images = [[], [tiny.image()], [tiny.image(60, 30), tiny.image()]]
    for _ in range(12):
        prompts = [some_text(kind, rng) for _ in images]
        responses = [rng.choice([some_text(kind, rng), prompts[i], "", "A"]) for i in range(3)]
        batch = prepare(
            processor, config, words, images, prompts, responses, padding_side=rng.choice(["left", "right"])
        )
        for row in range(3):
            n = len(images[row])
            response = responses[row].strip() if form == "trimming" else responses[row]
            head = before.format(
                images="<image>" * n,
                images_nl="<image>\n" * n,
                prompt=prompts[row],
                prompt_trimmed=prompts[row].strip(),
            )
            text = head + response + after
            assert batch.texts[row] == text
            real = batch.attention_mask[row].bool()
            ids = batch.input_ids[row][real].tolist()
            start, end = len(head.encode()), len((head + response).encode())
            walked = characters(words, ids, text, [16] * n)
            expected = []
            for token, (first, last) in zip(ids, walked, strict=True):
                if token == words.image_id:
                    expected.append(TokenKind.VISUAL)
                elif max(first, start) < min(last, end) and token not in words.special_ids:
                    expected.append(TokenKind.TEXT)
                else:
                    expected.append(TokenKind.TEMPLATE)
            assert batch.kinds[row][real].tolist() == [int(k) for k in expected], (text, batch.tokens(row))
            assert bool((batch.kinds[row][~real] == TokenKind.PAD).all())


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_read_as_the_text(kind: str) -> None:
    rng = random.Random(seeds.number())
    processor, config, words = make(kind, tiny.CHATML)
    batch = prepare(processor, config, words, [tiny.image()], some_text(kind, rng), some_text(kind, rng))
    ordinary = [t for t, k in zip(batch.tokens(0), batch.kinds[0], strict=True) if k != TokenKind.VISUAL and t != "▁"]
    assert "".join(ordinary) == batch.texts[0].replace("<image>", "")
    assert batch.tokens(0).count("<image>") == 16


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", [None, tiny.CHATML], ids=["llava", "chatml"])
def test_ids_and_pixels_are_the_processors_own(kind: str, template: str | None) -> None:
    processor, config, words = make(kind, template)
    images = [[tiny.image()], [tiny.image(), tiny.image(60, 30)]]
    batch = prepare(processor, config, words, images, tiny.PROMPTS[:2], tiny.RESPONSES[:2], padding_side="left")
    own = processor(
        text=list(batch.texts),
        images=images,
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=template is None,
    )
    assert torch.equal(batch.input_ids, own["input_ids"])
    assert torch.equal(batch.attention_mask, own["attention_mask"])
    assert torch.equal(batch.pixel_values, own["pixel_values"])


def test_an_unknown_character_of_the_response_is_text() -> None:
    processor, config, words = make("unigram", None)
    batch = prepare(processor, config, words, [None], "the \u2603", "A \u2603 dog")
    unknown = batch.input_ids[0] == words.tokenizer.unk_token_id
    assert batch.kinds[0][unknown].tolist() == [TokenKind.TEMPLATE, TokenKind.TEXT]


def test_a_special_token_that_swallows_blanks_of_the_response_is_not_text() -> None:
    from tokenizers import AddedToken

    processor, config, _ = make("unigram", tiny.CHATML.replace("<|im_end|>", "<end>"))
    end = AddedToken("<end>", lstrip=True, special=True, normalized=False)
    processor.tokenizer.add_tokens([end], special_tokens=True)
    batch = prepare(processor, config, words_of(processor, config), [None], "Hi", "A dog.  ")
    at = (batch.input_ids[0] == processor.tokenizer.convert_tokens_to_ids("<end>")).nonzero().flatten()
    assert batch.texts[0][slice(*batch.spans[0, at[-1]].tolist())] == "  <end>"
    assert batch.kinds[0][at].tolist() == [TokenKind.TEMPLATE] * 2
    assert "".join(t for t, k in zip(batch.tokens(0), batch.kinds[0], strict=True) if k == TokenKind.TEXT) == "A dog."


def test_a_prompt_without_response_ends_in_the_generation_prompt() -> None:
    for form, (template, before, _) in FORMS.items():
        processor, config, words = make("bpe", template)
        batch = prepare(processor, config, words, [None], ["What is it?"])
        head = before.format(images="", images_nl="", prompt="What is it?", prompt_trimmed="What is it?")
        assert batch.texts[0] == head.rstrip(" "), form
        assert not bool(batch.mask("text").any())
        assert batch.responses == (None,)


def test_an_empty_response_has_no_text_tokens_but_a_blank_one_has() -> None:
    for kind in TOKENIZERS:
        processor, config, words = make(kind, tiny.CHATML)
        batch = prepare(processor, config, words, [None, None], "Hi", ["", " "])
        assert not bool(batch.mask(TokenKind.TEXT)[0].any())
        assert int(batch.mask(TokenKind.TEXT)[1].sum()) == 1


def test_mixed_rows_with_and_without_response_or_image() -> None:
    processor, config, words = make("bpe", None)
    batch = prepare(processor, config, words, [None, tiny.image(), []], tiny.PROMPTS, [None, "A dog.", "A dog."])
    assert batch.mask("text").any(dim=1).tolist() == [False, True, True]
    assert batch.mask("visual").any(dim=1).tolist() == [False, True, False]
    assert batch.image_rows.tolist() == [1]


def test_patch_index_follows_rows_and_images() -> None:
    processor, config, words = make("bpe", None)
    images = [[tiny.image(), tiny.image(60, 30)], None, tiny.image(30, 60)]
    batch = prepare(processor, config, words, images, tiny.PROMPTS, tiny.RESPONSES, padding_side="left")
    assert batch.image_rows.tolist() == [0, 0, 2]
    assert batch.patch_index[batch.mask("visual")].tolist() == list(range(48))
    assert bool(((batch.patch_index >= 0) == batch.mask("visual")).all())
    for row, at in batch.mask("visual").nonzero().tolist():
        patch = batch.patches[int(batch.patch_index[row, at])]
        assert int(batch.image_rows[patch.image]) == row


def test_default_padding_is_right_with_responses_and_left_without() -> None:
    processor, config, words = make("bpe", None)
    with_response = prepare(processor, config, words, [None] * 3, tiny.PROMPTS, tiny.RESPONSES)
    without = prepare(processor, config, words, [None] * 3, tiny.PROMPTS)
    assert bool(with_response.attention_mask[:, 0].all()) and not bool(with_response.attention_mask[:, -1].all())
    assert bool(without.attention_mask[:, -1].all()) and not bool(without.attention_mask[:, 0].all())


@pytest.mark.parametrize("text", ["see <image> here", "</s>", "a <|im_end|> b", "<pad>"])
def test_text_that_reads_as_a_special_token_is_refused_by_row(text: str) -> None:
    processor, config, words = make("bpe", tiny.CHATML)
    for prompts, responses in (([["a", text]], None), ([["a", "b"]], ["c", text])):
        with pytest.raises(RowError, match=r"row 1: .*special token") as caught:
            prepare(processor, config, words, [None, None], prompts[0], responses)
        assert caught.value.row == 1


def test_a_row_that_is_too_long_is_refused() -> None:
    processor, config, words = make("bpe", None)
    with pytest.raises(RowError, match=r"row 1: \d+ tokens, the model takes 512"):
        prepare(processor, config, words, [None, None], ["a", "zyx " * 600])


def test_a_template_that_changes_the_response_is_refused() -> None:
    processor, _, _ = make("unigram", tiny.CHATML.replace("c['text']", "c['text'] | upper"))
    with pytest.raises(ValueError, match="chat template"):
        render(processor, "<image>", "a", 0, "some answer")


def test_bad_arguments_name_what_is_wrong() -> None:
    processor, config, words = make("bpe", None)
    with pytest.raises(ValueError, match="2 entries of images, 1 prompts"):
        prepare(processor, config, words, [None, None], ["a"])
    with pytest.raises(ValueError, match="empty batch"):
        prepare(processor, config, words, [], [])
    with pytest.raises(OSError, match=r"no/such\.png"):
        prepare(processor, config, words, ["no/such.png"], ["a"])
    with pytest.raises(TypeError, match="an image is"):
        prepare(processor, config, words, [3.5], ["a"])
    with pytest.raises(ValueError, match="padding_side"):
        prepare(processor, config, words, [None], ["a"], padding_side="up")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token kind"):
        prepare(processor, config, words, [None], ["a"]).mask("picture")


def test_a_broken_image_file_is_named(tmp_path: Any) -> None:
    processor, config, words = make("bpe", None)
    broken = tmp_path / "broken.jpg"
    tiny.image().save(broken)
    broken.write_bytes(broken.read_bytes()[:120])
    with pytest.raises(OSError, match=r"broken\.jpg"):
        prepare(processor, config, words, [broken], ["a"])


def test_files_are_turned_upright_by_exif(tmp_path: Any) -> None:
    processor, config, words = make("bpe", None)
    picture = tiny.image(40, 20)
    exif = picture.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    picture.save(tmp_path / "a.png", exif=exif)
    batch = prepare(processor, config, words, [tmp_path / "a.png"], ["a"])
    assert batch.images[0].size == (20, 40)


def test_a_processor_that_counts_other_tokens_than_the_model_is_refused() -> None:
    processor, config, words = make("bpe", None)
    processor.num_additional_image_tokens = 0
    with pytest.raises(ValueError, match="to 15 tokens, the model has 16 places"):
        prepare(processor, config, words, [tiny.image()], ["a"])


def test_a_picture_that_would_be_blown_up_is_refused_by_row_before_it_is_processed() -> None:
    processor, config, words = make("bpe", None)
    with pytest.raises(RowError, match="row 1: a picture of 12000 x 1 pixels is more than 200 times as long"):
        prepare(processor, config, words, [tiny.image(), tiny.image(12000, 1)], ["a", "b"])
    assert len(prepare(processor, config, words, [tiny.image(1600, 8)], ["a"]).images) == 1


def test_a_slow_tokenizer_is_refused() -> None:
    processor, config, _ = make("bpe", None)

    class Slow:
        is_fast = False

    processor.tokenizer = Slow()
    with pytest.raises(ValueError, match="fast tokenizer"):
        words_of(processor, config)

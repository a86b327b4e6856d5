"""The tokens of a batch are the processor's own, and every one is said to be what it is."""

from __future__ import annotations

import random
from typing import Any

import builders
import seeds
import tiny

from vlm_neurons.models import Batch
from vlm_neurons.tokens import TokenKind

ODD = ["Zwölf Boxkämpfer", "two\nlines", "12 (5 + 3)", "A dog."]


def pictures() -> list[Any]:
    """For rows with two images, none and one."""
    return [[tiny.image(70, 41), tiny.image(35, 60)], [], [tiny.image(64, 100)]]


def batches(family: builders.Made) -> list[Batch]:
    """Without responses, and with."""
    return [
        family.model.prepare(pictures(), tiny.PROMPTS),
        family.model.prepare(pictures(), tiny.PROMPTS, tiny.RESPONSES),
    ]


def real(batch: Batch, row: int) -> list[int]:
    """The tokens of a row without padding."""
    return batch.input_ids[row][batch.attention_mask[row].bool()].tolist()


def test_tokens_are_the_processors_own(family: builders.Made):
    for batch in batches(family):
        for row, text in enumerate(batch.texts):
            images = [im for im, r in zip(batch.images, batch.image_rows.tolist(), strict=True) if r == row]
            own = family.own(text, images)
            assert own is None or real(batch, row) == own["input_ids"][0].tolist()


def test_visual_positions_are_exactly_those_with_a_patch(family: builders.Made):
    for batch in batches(family):
        visual = batch.mask("visual")
        assert (visual == (batch.patch_index >= 0)).all()
        assert batch.patch_index[visual].tolist() == list(range(len(batch.patches)))  # all of them, in order
        assert (batch.input_ids[visual] == family.reference.config.image_token_id).all()
        for row in range(len(batch)):
            images = {batch.patches[k].image for k in batch.patch_index[row][visual[row]].tolist()}
            assert images == {i for i, r in enumerate(batch.image_rows.tolist()) if r == row}
        others = (batch.input_ids == family.reference.config.image_token_id) & ~visual
        assert (batch.kinds[others] == TokenKind.TEMPLATE).all()


def test_text_decodes_to_the_response(family: builders.Made):
    rng = random.Random(seeds.number())
    responses = [rng.choice(ODD), tiny.RESPONSES[0], rng.choice(ODD)]
    batch = family.model.prepare(pictures(), tiny.PROMPTS, responses)
    for row, response in enumerate(responses):
        said = family.model.tokenizer.decode(batch.input_ids[row][batch.mask("text")[row]])
        assert said.strip() == response


def test_a_row_is_the_same_taught_and_generated(family: builders.Made):
    """What stands before a response is what stands before generated tokens."""
    asked, taught = batches(family)
    decode = family.model.tokenizer.decode
    for row in range(len(asked)):
        first = int(taught.mask("text")[row].nonzero()[0])
        start = int(taught.attention_mask[row].argmax())
        before = taught.input_ids[row][start:first].tolist()
        # a blank before the response is its first token's, or a token of its own
        assert decode(before).rstrip() == decode(real(asked, row)).rstrip()
        assert before[: len(real(asked, row))] == real(asked, row)

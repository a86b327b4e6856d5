"""A model that was saved is loaded by name: the same tokens, the same logits."""

from __future__ import annotations

from pathlib import Path

import builders
import tiny
import torch

import vlm_neurons as vn


def test_a_saved_model_is_loaded_as_it_was(family: builders.Made, tmp_path: Path):
    family.reference.save_pretrained(tmp_path)
    family.processor.tokenizer.save_pretrained(tmp_path)
    family.processor.image_processor.save_pretrained(tmp_path)
    if family.processor.chat_template:
        (tmp_path / "chat_template.jinja").write_text(family.processor.chat_template)
    loaded = vn.HookedVLM.from_pretrained(tmp_path, device="cpu")
    rows = [[tiny.image(70, 41)], []]
    ours, theirs = (m.prepare(rows, "What is it?", "A dog.") for m in (family.model, loaded))
    assert theirs.texts == ours.texts and torch.equal(theirs.input_ids, ours.input_ids)
    assert theirs.patches == ours.patches
    with torch.no_grad():
        assert torch.allclose(loaded(theirs), family.model(ours), atol=1e-5)

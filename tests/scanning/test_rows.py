"""What is wrong with one row is said of that row; the scan goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image

from vlm_neurons.data import ImageTextData, describe
from vlm_neurons.models import HookedVLM
from vlm_neurons.scanning import scan

TEMPLATE = (
    "{% if messages[0].content | length > 2 %}{{ raise_exception('one image only') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}<image>"
    "{% else %}{{ c.text.split('</think>')[-1] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def model(template: str | None = None, **kwargs: Any) -> HookedVLM:
    processor = tiny.processor(chat_template=template, **kwargs)
    return HookedVLM(tiny.llava(processor.tokenizer, **kwargs), processor)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a caption that the template cuts": ({"response": "hm</think> a cat"}, "changes the response"),
    "a template that raises": ({"image": [tiny.image(), tiny.image()]}, "one image only"),
    "a picture that the processor cannot take": ({"image": Image.new("RGB", (3000, 1))}, "3000 x 1"),
    "a special token": ({"response": "the end </s>"}, "</s>"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_bad_row_is_skipped_with_its_reason_and_the_others_are_scanned(
    tmp_path: Path, kind: str, batch_size: int
) -> None:
    bad, reason = BAD[kind]
    rows = [{"image": tiny.image(), "response": f"{i} dogs"} for i in range(4)]
    rows[2] |= bad
    run = scan(
        model(TEMPLATE), ImageTextData.from_samples(rows), out=tmp_path / "run", batch_size=batch_size, progress=False
    )
    assert run.samples["id"].tolist() == [0, 1, 3]
    assert [(r["id"], r["reason"]) for r in run.skipped] == [(2, "unusable")]
    assert reason in run.skipped[0]["detail"]


def test_a_picture_that_only_the_image_processor_refuses_is_skipped(tmp_path: Path) -> None:
    one = model()
    processor = one.processor.image_processor
    preprocess = type(processor).preprocess

    class Picky(type(processor)):  # type: ignore[misc]
        def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
            if any(i.size == (7, 7) for row in images for i in row):
                raise ZeroDivisionError("of a small picture")
            return preprocess(self, images, *args, **kwargs)

    processor.__class__ = Picky
    rows = [{"image": tiny.image(), "response": "a dog"}, {"image": tiny.image(7, 7), "response": "a cat"}]
    run = scan(one, ImageTextData.from_samples(rows), out=tmp_path / "run", progress=False)
    assert run.samples["id"].tolist() == [0] and "of a small picture" in run.skipped[0]["detail"]


def test_a_row_that_cannot_be_asked_about_is_skipped_by_describe(tmp_path: Path) -> None:
    rows = [{"image": tiny.image()}, {"image": [tiny.image(), tiny.image()]}, {"image": tiny.image()}]
    data = ImageTextData.from_samples(rows)
    said = describe(model(TEMPLATE), data, tmp_path / "c.jsonl", max_new_tokens=3, progress=False)
    assert [sample.response is None for sample in said] == [False, True, False]
    assert "one image only" in (tmp_path / "c.jsonl").read_text()


def test_a_template_that_no_row_can_pass_stops_the_scan_with_its_reason(tmp_path: Path) -> None:
    data = ImageTextData.from_samples([{"image": tiny.image(), "response": "a dog"}])
    with pytest.raises(ValueError, match=r"none of the 1 samples.*never"):
        scan(model("{{ raise_exception('never') }}"), data, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "scan.json").exists()

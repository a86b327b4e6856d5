"""`measure_geometry`: what it measures, what it costs, and that it leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import seeds
import test_model_geometry
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.models import measure_geometry
from vlm_neurons.models.looking import Look
from vlm_neurons.models.painted import Painted, painted, without_attention

SETTINGS = dict(test_model_geometry.settings())  # of image processors


def made(image_processor: Any = None, dtype: torch.dtype = torch.float32) -> vn.HookedVLM:
    tok = tiny.tokenizer()
    processor = tiny.processor(tok)
    if image_processor is not None:
        processor.image_processor = image_processor
    return vn.HookedVLM(tiny.llava(tok), processor).to(dtype)


@pytest.mark.parametrize("name", SETTINGS)
def test_resized_cropped_and_padded_images_are_measured(name: str) -> None:
    rng = seeds.rng()
    model = made(SETTINGS[name])
    batch = model.prepare([tiny.image(*(int(v) for v in rng.integers(30, 300, 2)))], "Hi")
    measure_geometry(model, batch, "all").check()


def test_elements_of_the_pixels_know_where_they_were_taken_from() -> None:
    model = made(SETTINGS["squeezed, no crop"])
    batch = model.prepare([[tiny.image(140, 70), tiny.image(56, 84)]], "Hi")
    source = painted(model, batch)["pixel_values"]
    assert source.image[:, 0, 0, 0].tolist() == [0, 1] and bool(source.live.all())
    centres = torch.arange(28) + 0.5
    for image, (width, height) in enumerate([(140, 70), (56, 84)]):
        x, y = (source.share[image] * source.sizes[image]).unbind(-1)
        assert (x - centres * width / 28).abs().max() < 0.5 + width / 215
        assert (y - (centres * height / 28)[:, None]).abs().max() < 0.5 + height / 215


def test_a_sample_has_the_first_and_the_last_and_all_are_all() -> None:
    model = made()
    batch = model.prepare([[tiny.image(), tiny.image(70, 20)]], "Hi")
    for positions, n in ((1, 1), (5, 5), (99, 16), ("all", 16)):
        table = measure_geometry(model, batch, positions).table
        assert table.groupby(["where", "image"]).size().tolist() == [n] * 8  # embedding, two layers, projector
        rows = table[table["where"] == "projector.0.hook_post"].position.tolist()
        assert rows == sorted(set(rows)) and rows[0] == 0 and (n == 1 or rows[-1] == 31)


def test_the_table_says_what_was_measured_and_what_it_cost(capsys: pytest.CaptureFixture[str]) -> None:
    model = made()
    batch = model.prepare([None, tiny.image(40, 33)], ["Hi", "What colour?"])
    found = measure_geometry(model, batch, 2)
    line = found.table.iloc[0]
    first = batch.patches[0]
    assert (line["where"], line.row, line.image, line.tile, line.patch_row) == ("embedding", 1, 0, -1, 0)
    assert line.position == int(batch.mask("visual")[1].nonzero()[0]) and line.said == first.original_box
    assert all(abs(a - b) < 2 for a, b in zip(line.measured, first.original_box, strict=True))
    # of each place two, and one more for all positions together that have no patch; the projector has none of those
    assert found.cost["backward"] == 4 * 2 + 3 and found.cost["places"] == batch.input_ids.numel() + 2 * 17 + 16
    assert str(found).startswith("8 of ") and "0 differ; 11 backward passes" in str(found)
    assert capsys.readouterr() == ("", "")  # it took no two seconds


def test_the_model_is_left_as_it_was() -> None:
    model = made()
    batch = model.prepare([tiny.image()], "Hi")
    with torch.no_grad():
        before, fast = model(batch), model.fast_hooks
        assert measure_geometry(model, batch, 2).ok  # in no_grad, too
        with torch.inference_mode():
            assert measure_geometry(model, model.prepare([tiny.image()], "Hi"), 2).ok
        assert torch.equal(model(batch), before)
    parameters = list(model.bridge.original_model.parameters())
    assert all(p.grad is None for p in parameters) and all(p.requires_grad for p in parameters)
    assert model.fast_hooks == fast and fast


def test_a_model_in_bfloat16_is_measured() -> None:
    measure_geometry(made(dtype=torch.bfloat16)).check()


def test_what_has_no_geometry_is_refused() -> None:
    model = made()
    with pytest.raises(ValueError, match="without images"):
        measure_geometry(model, model.prepare([None], "Hi"))
    with pytest.raises(ValueError, match="positions=0"):
        measure_geometry(model, positions=0)
    with pytest.raises(ValueError, match="no attention module"), without_attention(torch.nn.Linear(2, 2)):
        pass


def test_a_checkpoint_that_looks_elsewhere_is_refused_when_asked(tmp_path: Path) -> None:
    """Its tower reads only the left half of every patch, so patches are not where the processor's settings say."""
    tok = tiny.tokenizer()
    hf = tiny.llava(tok)
    embedding = next(m for m in hf.modules() if isinstance(m, torch.nn.Conv2d))
    embedding.weight.data[..., 4:] = 0
    hf.save_pretrained(tmp_path)
    tiny.processor(tok).save_pretrained(tmp_path)
    assert vn.HookedVLM.from_pretrained(tmp_path, device="cpu").n_layers == 2
    with pytest.raises(
        ValueError, match=r"The first is 'embedding', row 0, position \d+: it sees \(.*\) of image 0, \("
    ):
        vn.HookedVLM.from_pretrained(tmp_path, device="cpu", check_geometry=True)
    embedding.weight.data.normal_()
    hf.save_pretrained(tmp_path)
    assert vn.HookedVLM.from_pretrained(tmp_path, device="cpu", check_geometry=True).n_layers == 2


def windows(step: int) -> Look:
    """Rows that each see 2 x 2 of 12 x 12 pixels, `step` pixels from the one before."""
    at = torch.arange(12.0)
    pixels = torch.rand(12, 12, requires_grad=True)
    rows = pixels.unfold(0, 2, step).unfold(1, 2, step).flatten(0, 1).flatten(1)
    share = torch.stack([at.expand(12, 12), at[:, None].expand(12, 12)], -1).double() / 12
    source = Painted(torch.zeros(12, 12, dtype=torch.long), share, torch.tensor([[12.0, 12.0]]).double())
    return Look({"here": rows}, {"pixels": pixels}, {"pixels": source}, {})


@pytest.mark.parametrize("step", [1, 2, 3])
def test_rows_looked_at_by_code_see_what_each_sees_alone(step: int) -> None:
    look = windows(step)  # they overlap, touch, or leave a gap
    n = len(look.received["here"])
    seen = look.apart("here", range(n))
    assert (
        look.passes == {1: 3 + 121, 2: 3, 3: 2}[step]
    )  # they overlap: one by one; 36 and 16, with digits to the base 32
    corners = [(x * step, y * step) for y in range(int(n**0.5)) for x in range(int(n**0.5))]
    assert seen == [look.together("here", [i]) for i in range(n)]
    assert [one[0].box for one in seen] == [pytest.approx((x, y, x + 1, y + 1)) for x, y in corners]
    assert {tuple(round(step) for step in one[0].steps) for one in seen} == {(1, 1)}

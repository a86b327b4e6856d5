"""CLIP's words on patches, and maps that are kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from viewing import share_by_loops, view_of

import vlm_neurons as vn
from vlm_neurons.concepts import Clip, Kept, Pixels, Words, visual_words
from vlm_neurons.protocols import Concept, ConceptBank, Maps, Side, View

NAMES = ["red", "blue and white", "a dog"]
SIDE, PATCH = 35, 7


@cache
def model() -> vn.HookedVLM:
    """Its patches, 4 x 4, are not those of the CLIPs here, 5 x 5."""
    tok = tiny.tokenizer()
    return vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))


@cache
def clip(kind: str = "clip", head: bool = True) -> tuple[Any, Any]:
    """A tiny random model of a kind and its processor."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, SiglipConfig, SiglipModel, SiglipProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tok = tiny.tokenizer()
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**shape, "vocab_size": len(tok), "max_position_embeddings": 16, "pad_token_id": tok.pad_token_id,
            "bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id}  # fmt: skip
    vision = {**shape, "image_size": SIDE, "patch_size": PATCH}
    square = {"height": SIDE, "width": SIDE}
    if kind == "clip":
        made: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        return made.eval(), CLIPProcessor(CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square), tok)
    config = SiglipConfig(
        text_config={**text, "projection_size": 24}, vision_config={**vision, "vision_use_head": head}
    )
    return SiglipModel(config).eval(), SiglipProcessor(SiglipImageProcessorPil(size=square), tok)


def photograph(name: str, size: tuple[int, int] = (60, 44)) -> Image.Image:
    from skimage import data

    return Image.fromarray(getattr(data, name)()).convert("RGB").resize(size)


def cosines_by_hand(net: Any, processor: Any, image: Image.Image) -> np.ndarray:
    """[cell, name], one cell and one text at a time."""
    squeezed = processor.image_processor(image, size={"height": SIDE, "width": SIDE}, return_tensors="pt")
    vision = net.vision_model
    found = np.zeros((25, len(NAMES)))

    def said(text: str) -> torch.Tensor:
        tokens = processor.tokenizer(text, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        masks = {"attention_mask": tokens["attention_mask"]} if net.config.model_type == "clip" else {}
        pooled = net.text_model(tokens["input_ids"], **masks).pooler_output[0]
        return net.text_projection(pooled) if masks else pooled

    with torch.no_grad():
        hidden = vision(squeezed["pixel_values"]).last_hidden_state[0]
        cells = hidden[1:] if net.config.model_type == "clip" else hidden
        for i, cell in enumerate(cells):
            if net.config.model_type == "clip":
                feature = net.visual_projection(vision.post_layernorm(cell))
            else:
                feature = vision.head(cell[None, None])[0]
            near = [float(torch.cosine_similarity(feature, said(t), 0)) for t in ("anything", "a photo")]
            for j, name in enumerate(NAMES):
                cosine = float(torch.cosine_similarity(feature, said(f"see {name}"), 0))
                found[i, j] = cosine - np.mean(near)
    return found


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_patches_have_the_cosines_of_the_cells_that_they_cover_less_those_of_anything(kind: str) -> None:
    net, processor = clip(kind)
    bank = Clip(net, processor, [*NAMES, "red"], template="see {}", anything=("anything", "a photo"))
    assert [c.phrase for c in bank.concepts("picture")] == NAMES and bank.concepts("text") == () and bank.on_device
    first, second = photograph("chelsea"), photograph("coffee", (30, 90))
    view = view_of(model(), [first, second])
    (maps, alone) = bank.maps_of_batch([view, view_of(model(), [second])], "cpu")
    wanted = []
    for image, boxes in zip(view.images, view.boxes, strict=True):
        cells = cosines_by_hand(net, processor, image).T.reshape(-1, 5, 5)
        scaled = boxes * 5 / np.tile(image.size, 2)
        wanted += [[share_by_loops(c, box) for c in cells] for box in scaled]
    np.testing.assert_allclose(maps.picture, wanted, atol=1e-5)
    np.testing.assert_allclose(alone.picture, maps.picture[16:], atol=1e-6)
    np.testing.assert_allclose(bank.maps(view).picture, maps.picture, atol=1e-6)
    assert bank.maps(view_of(model(), [])).picture.shape == (0, 3)


def test_a_model_whose_patches_are_in_no_space_with_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="only behind the head"):
        Clip(*clip("siglip", head=False), NAMES)
    with pytest.raises(ValueError, match="type 'llava'"):
        Clip(tiny.llava(), None, NAMES)
    with pytest.raises(ValueError, match="Clip takes CLIP"):
        Clip(model(), None, NAMES)


@pytest.mark.parametrize("names", [[], "red", ["red", ""], ["red", 3]])
def test_names_that_are_no_words_are_refused(names: Any) -> None:
    with pytest.raises(ValueError, match="a list of words is needed"):
        Clip(*clip(), names)


def test_a_bank_tells_that_it_is_the_models_own_tower() -> None:
    net, processor = clip()
    bank = Clip(net, processor, NAMES)
    tok = tiny.tokenizer()
    own = tiny.llava(tok, image_size=SIDE)
    joined, scanned = Pixels() + Kept(bank, "unused"), vn.HookedVLM(own, tiny.processor(tok, image_size=SIDE))
    assert joined.remark(own) == "" == joined.remark(scanned)
    weights = own.model.vision_tower.state_dict()
    matching = next(k for k in weights if k.endswith("patch_embedding.weight"))
    with torch.no_grad():
        weights[matching].copy_(net.vision_model.state_dict()["embeddings.patch_embedding.weight"] * 1.01)
    assert "share their eyes" in joined.remark(own) and joined.remark(scanned) == joined.remark(own)


def test_other_words_or_weights_are_another_bank() -> None:
    net, processor = clip()
    bank = Clip(net, processor, NAMES)
    assert bank.identity() == Clip(net, processor, NAMES, generic=("red",)).identity()
    others = [Clip(net, processor, NAMES[:2]), Clip(net, processor, NAMES, template="{}"),
              Clip(net, processor, NAMES, anything=("x",)), Clip(*clip("siglip"), NAMES)]  # fmt: skip
    assert len({json.dumps(one.identity()) for one in [bank, *others]}) == 5


def test_the_shipped_words_are_about_a_thousand_each_once() -> None:
    words = visual_words()
    assert 900 < len(words) < 1100 and len({w.lower() for w in words}) == len(words)
    assert {"dog", "person", "sky", "grass", "face", "tree"} <= {*words}
    assert len(Clip(*clip()).concepts("picture")) == len(words)


@dataclass(frozen=True, eq=False)
class Counted(ConceptBank):
    """A bank that notes what it was asked for."""

    factor: float = 1.0
    texts: bool = False
    asked: list[str] = field(default_factory=list)
    name = "counted"

    def concepts(self, side: Side) -> tuple[Concept, ...]:
        return (Concept("mean", ""),) if side == "picture" or self.texts else ()

    def identity(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def maps(self, view: View) -> Maps:
        self.asked.append(view.name)
        level = sum(float(np.asarray(i).mean()) for i in view.images) * self.factor
        return Maps(np.full((view.n_patches, 1), level), np.full((len(view.tokens), len(self.concepts("text"))), level))


def kept(bank: ConceptBank, folder: Path, views: Sequence[View]) -> list[Maps]:
    return Kept(bank, folder).maps_of_batch(views, "cpu")


def test_kept_maps_are_read_instead_of_made_and_are_the_same(tmp_path: Path) -> None:
    views = [view_of(model(), [photograph(n)], f"a {n}", name=n) for n in ("chelsea", "coffee")]
    bank = Counted()
    first = kept(bank, tmp_path, views[:1])
    both = kept(bank, tmp_path, views)
    assert bank.asked == ["chelsea", "coffee"]
    again = [Kept(bank, tmp_path).maps(view) for view in views]
    assert bank.asked == ["chelsea", "coffee"]
    for found in (first + both[1:], again):
        for maps, view in zip(found, views, strict=True):
            np.testing.assert_array_equal(maps.picture, bank.maps(view).picture)
            assert maps.text.shape == (len(view.tokens), 0)
    for real in (Pixels(), Pixels() + Words().fitted(["a chelsea", "a coffee"]), Clip(*clip(), NAMES)):
        made = real.maps_of_batch(views, "cpu")
        for _ in range(2):
            for maps, other in zip(kept(real, tmp_path, views), made, strict=True):
                for one, two in zip(maps, other, strict=True):
                    np.testing.assert_array_equal(one, two)
                    assert one.dtype == two.dtype


def test_what_decides_the_maps_makes_them_anew_and_what_does_not_does_not(tmp_path: Path) -> None:
    photo = photograph("chelsea")
    pixels = np.asarray(photo).copy()
    pixels[20, 20] ^= 128
    view = view_of(model(), [photo], "a cat", paths=["/a/cat.jpg"])
    shifted = replace(view, boxes=(view.boxes[0] + 0.5,))
    changed = view_of(model(), [Image.fromarray(pixels)], "a cat", paths=["/a/cat.jpg"])
    said, moved = replace(view, tokens=(" a", " dog")), replace(view, paths=("/b/cat.jpg",), name="other")
    bank = Counted()
    kept(bank, tmp_path, [view])
    kept(bank, tmp_path, [said, moved])
    assert len(bank.asked) == 1, "neither another response nor another folder is another picture"
    kept(bank, tmp_path, [shifted, changed])
    assert len(bank.asked) == 3
    other = Counted(factor=2.0)
    np.testing.assert_array_equal(kept(other, tmp_path, [view])[0].picture, other.maps(view).picture)
    words = Counted(factor=3.0, texts=True)
    kept(words, tmp_path, [view, said, view, said])
    assert len(words.asked) == 4 and len(kept(words, tmp_path, [said, view])) == 2 and len(words.asked) == 4


def test_a_broken_file_is_made_again(tmp_path: Path) -> None:
    view = view_of(model(), [photograph("chelsea")])
    bank = Counted()
    kept(bank, tmp_path, [view])
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no zip"):
        file.write_bytes(broken)
        bank.asked.clear()
        for _ in range(2):
            np.testing.assert_array_equal(kept(bank, tmp_path, [view])[0].picture, Counted().maps(view).picture)
        assert len(bank.asked) == 1


def test_the_size_is_told_once_before_it_is_taken_and_refused_without_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [view_of(model(), [photograph(n)]) for n in ("chelsea", "coffee")]
    bank = Kept(Counted(), tmp_path / "maps").fitted(["a"] * 3000)
    bank.maps_of_batch(views, "cpu")
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("3,000 samples: about") == 1 and "maps of counted are kept in" in told and "are free" in told
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    poor = Kept(Counted(), tmp_path / "poor").fitted(["a"] * 3000)
    for _ in range(2):
        with pytest.raises(OSError, match="make room"):
            poor.maps(views[0])
    assert not [*(tmp_path / "poor").rglob("*.npz")]

"""What a "visual" neuron does on pictures that show nothing stands beside its label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.concepts import Concept
from vlm_neurons.planted.weights import rows_of
from vlm_neurons.scanning.always_on import CONTROLS, N
from vlm_neurons.tokens import TokenKind

SCENES = 40


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")


@pytest.fixture(scope="module")
def told(model: vn.HookedVLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[vn.Run, Any]:
    data = vn.scenes(SCENES, seed=3)
    run = vn.scan(model, data, site=["gate", "post", "vision"], top_n=5, batch_size=7, controls=True, progress=False,
                  out=tmp_path_factory.mktemp("controls") / "run")  # fmt: skip
    return run, data


def of_one(model: vn.HookedVLM, data: Any, hook: str, name: str) -> list[np.ndarray]:
    """[patch, unit] of every sample that is looked at, through the bridge, in other batches."""
    ids = sorted({int(k) for k in np.linspace(0, SCENES - 1, N).round()})
    images = [CONTROLS[name](data[i].load_images()[0], np.random.default_rng([i, len(name)])) for i in ids]
    batch = model.prepare(images, [data[i].prompt for i in ids], [data[i].response for i in ids])
    _, cache = model.run_with_cache(batch, names_filter=hook)
    if hook.startswith("vision"):
        values, patch = batch.by_patch(hook, cache[hook])
        return [values[batch.row_of_patches[patch] == row].numpy() for row in range(len(ids))]
    visual = batch.mask(TokenKind.VISUAL)
    return [cache[hook][row][visual[row]].numpy() for row in range(len(ids))]


@pytest.mark.parametrize(("hook", "pole"), [("blocks.2.mlp.hook_act", "+"), ("blocks.1.mlp.hook_post", "-"),
                                            ("vision.0.mlp.hook_post", "+")])  # fmt: skip
def test_controls_equal_looking_at_every_picture_alone(model: vn.HookedVLM, told: Any, hook: str, pole: Any) -> None:
    run, data = told
    table = vn.classify(run)
    rows = table[(table.hook == hook) & (table.pole == pole)]
    sign = 1 if pole == "+" else -1
    means = {name: np.concatenate(of_one(model, data, hook, name)) * sign for name in ("natural", "blank", "noise")}
    means = {name: np.maximum(values, 0).mean(0) for name, values in means.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = np.minimum(np.minimum(means["blank"], means["noise"]) / means["natural"], 1)
    np.testing.assert_allclose(rows.always_on, np.where(means["natural"] > 0, wanted, np.nan), atol=1e-4)
    every = of_one(model, data, hook, "natural")
    flat = np.concatenate(every).astype(float)
    between = sum(len(x) * (x.mean(0) - flat.mean(0)) ** 2 for x in every)
    np.testing.assert_allclose(rows.between_images, between / ((flat - flat.mean(0)) ** 2).sum(0), atol=1e-4)


def test_a_neuron_for_any_picture_is_told_from_one_for_a_colour(model: vn.HookedVLM, tmp_path: Path) -> None:
    data, hook = vn.scenes(SCENES, seed=3), "blocks.1.mlp.hook_in"
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    nothing = model.prepare([Image.new("RGB", (64, 64), (128, 128, 128)), noise], [data[0].prompt] * 2, ["A"] * 2)
    _, cache = model.run_with_cache(nothing, names_filter=hook)
    seen = cache[hook][nothing.mask(TokenKind.VISUAL)].mean(0)
    weight = rows_of(model, "gate", 1, 7)["in"]
    before = weight.clone()
    with planted.plant(model, data, Concept("color", "red"), layer=1, index=5):
        try:
            weight.copy_(seen * (5 / seen.norm() ** 2))
            run = vn.scan(model, data, top_n=5, batch_size=20, controls=True, out=tmp_path / "run", progress=False)
        finally:
            weight.copy_(before)
    table = vn.classify(run).set_index("neuron")
    assert table.always_on["L1N7"] > 0.6 and table.always_on["L1N5"] < 0.3
    assert table.label["L1N7"] in ("visual", "multimodal")  # the label alone does not tell


def test_controls_are_written_once_whoever_asks_and_never_taken_for_another_runs(
    model: vn.HookedVLM, told: Any, tmp_path: Path
) -> None:
    run, data = told
    options: Any = {"site": ["gate", "post", "vision"], "top_n": 5, "batch_size": 7, "progress": False}
    file = run.path / "controls.parquet"
    before = file.stat().st_mtime_ns
    vn.scan(model, data, **options, controls=True, out=run.path)
    assert file.stat().st_mtime_ns == before
    plain = vn.scan(model, data, **options, out=tmp_path / "plain")
    assert "always_on" not in vn.classify(plain) and "always_on" in vn.modality_test(run)
    (tmp_path / "plain" / "controls.parquet").write_bytes(file.read_bytes())
    assert "always_on" in vn.classify(plain), "the same scan elsewhere"
    other = vn.scan(model, vn.scenes(20, seed=4), **options, out=tmp_path / "other")
    (tmp_path / "other" / "controls.parquet").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="of another run: delete it"):
        vn.classify(other)
    (tmp_path / "other" / "controls.parquet").write_bytes(b"torn")
    with pytest.raises(ValueError, match="cannot be read"):
        vn.classify(other)


def test_a_shuffled_picture_has_the_same_pixels_elsewhere() -> None:
    rng = np.random.default_rng(0)
    for width, height in ((64, 64), (67, 35), (5, 3)):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        shuffled = np.asarray(CONTROLS["shuffled"](Image.fromarray(pixels), np.random.default_rng(1)))
        assert shuffled.shape == pixels.shape and not (shuffled == pixels).all()
        same = [sorted(map(tuple, one.reshape(-1, 3).tolist())) for one in (pixels, shuffled)]
        assert same[0] == same[1]

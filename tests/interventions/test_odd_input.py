"""What a user may get wrong is said in words that help."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vlm_neurons as vn
from vlm_neurons.hooks import ablate


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes")


@pytest.fixture(scope="module")
def run(model: vn.HookedVLM, tmp_path_factory: pytest.TempPathFactory) -> vn.Run:
    data = vn.scenes(120, seed=8)
    return vn.scan(model, data, batch_size=20, out=tmp_path_factory.mktemp("odd") / "run", progress=False)


def test_groups_of_an_image_test_table_are_its_surest_neurons(run: vn.Run) -> None:
    table = vn.classify(run, method="image-test")
    for label, group in vn.class_groups(table, top=5).items():
        others = table[(table.label == label) & ~table.neuron.isin(group.neuron)]
        assert len(group) <= 5
        assert others.q.dropna().empty or group.q.dropna().empty or group.q.max() <= others.q.min()


def test_options_of_the_other_method_are_refused(run: vn.Run) -> None:
    with pytest.raises(ValueError, match="add method='image-test'"):
        vn.classify(run, alpha=0.01)
    with pytest.raises(ValueError, match="of the thresholds"):
        vn.classify(run, method="image-test", t_visual=3.0)


def test_a_layer_that_is_not_there_is_said(model: vn.HookedVLM) -> None:
    with pytest.raises(IndexError, match="the backbone has 4 layers"):
        vn.vocabulary(model, "L99N3")


@pytest.mark.parametrize("where", [3, np.ones((1, 3), dtype=bool)])
def test_positions_of_another_type_are_refused(model: vn.HookedVLM, where: object) -> None:
    sample = vn.scenes(1, seed=8)[0]
    batch = model.prepare([sample.load_images()], [sample.prompt])
    with pytest.raises(TypeError, match="torch bool tensor"):
        model.run_with_hooks(batch, fwd_hooks=ablate("L0N7", where=where))  # type: ignore[arg-type]


def test_a_gpu_that_is_not_there_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="no CUDA GPU"):
        vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cuda")

"""What a user may get wrong is said in words that help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vlm_neurons as vn
from vlm_neurons.hooks import ablate, scale


@pytest.fixture(scope="module")
def model() -> vn.HookedVLM:
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes")


@pytest.fixture(scope="module")
def run(model: vn.HookedVLM, tmp_path_factory: pytest.TempPathFactory) -> vn.Run:
    data = vn.scenes(120, seed=8)
    return vn.scan(model, data, batch_size=20, out=tmp_path_factory.mktemp("odd") / "run", progress=False)


def test_groups_of_a_modality_test_table_are_its_surest_neurons(run: vn.Run) -> None:
    table = vn.modality_test(run)
    for label, group in vn.interventions.class_groups(table, top=5).items():
        others = table[(table.label == label) & ~table.neuron.isin(group.neuron)]
        assert len(group) <= 5
        assert others.q.dropna().empty or group.q.dropna().empty or group.q.max() <= others.q.min()


@pytest.mark.parametrize("neurons", [7, [3, 4], None, 2.5])
def test_what_names_no_neurons_is_refused_with_what_does(neurons: object) -> None:
    with pytest.raises(ValueError, match=r"ablate: .* names no neurons: write ids such as 'L3N17'"):
        ablate(neurons)


@pytest.mark.parametrize("by", ["2", None, [[1.0], [2.0, 3.0]]])
def test_a_factor_that_is_no_number_is_refused(by: object) -> None:
    with pytest.raises(ValueError, match=r"scale: by=.* give a number, or a tensor"):
        scale("L0N1", by=by)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"t_text": "3"}, {"t_visual": None}, {"fdr": "0.1"}])
def test_a_threshold_that_is_no_number_is_refused(run: vn.Run, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{list(options)[-1]}="):
        (vn.modality_test if "fdr" in options else vn.classify)(run, **options)  # type: ignore[arg-type]


def test_patching_between_runs_that_do_not_differ_says_why_nothing_is_recovered(model: vn.HookedVLM) -> None:
    sample = vn.scenes(1, seed=8)[0]
    batch = model.prepare([sample.load_images()], [sample.prompt])
    for patched in (vn.attribute_neurons, vn.patch_neurons):
        with pytest.warns(UserWarning, match="the same|nothing to recover"):
            table = patched(
                model,
                corrupted=batch,
                clean=batch,
                neurons=["L0N1", "L1N2"],
                patching_metric=lambda logits: logits[:, -1].max(-1).values,
            )
        assert table.recovered.isna().all() and (table.effect == 0).all()


def test_a_run_goes_into_a_directory_of_its_own(model: vn.HookedVLM, tmp_path: Path) -> None:
    data = vn.scenes(4, seed=8)
    photos, page = tmp_path / "photos", tmp_path / "page.html"
    photos.mkdir()
    data[0].load_images()[0].save(photos / "a.png")
    page.write_text("mine")
    for out, said in ((photos, r"holds other files \(a.png\).*photos/run"), (page, "is a file; out= is a directory")):
        with pytest.raises(ValueError, match=said):
            vn.scan(model, data, out=out, batch_size=2, progress=False)
    assert [p.name for p in photos.iterdir()] == ["a.png"] and page.read_text() == "mine"
    started = tmp_path / "run"
    started.mkdir()
    (started / "slurm-7.out").write_text("")
    assert vn.scan(model, data, out=started, batch_size=2, progress=False).complete


def test_a_file_where_a_folder_should_be_is_said(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("")
    with pytest.raises(ValueError, match=r"is a file, not a directory of images; .*from_jsonl"):
        vn.ImageTextData.from_folder(file)


def test_a_layer_that_is_not_there_is_said(model: vn.HookedVLM) -> None:
    with pytest.raises(IndexError, match=r"layer 99 at site .gate.: there are 4 layers, 0 to 3"):
        vn.interventions.logit_lens(model, "L99N3")


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

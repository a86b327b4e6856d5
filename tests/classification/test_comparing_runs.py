"""Two runs side by side hold what each says alone."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from banks import Means

import vlm_neurons as vn


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    rng, folder, processor = np.random.default_rng(3), tmp_path_factory.mktemp("two"), tiny.processor()
    data = vn.ImageTextData.from_samples(
        [{"image": tiny.image(30 + i, 36, rng), "response": f"red dogs {i}.", "name": f"s {i}a"} for i in range(14)]
    )
    found = []
    for seed in (5, 6):
        model = vn.HookedVLM(tiny.llava(processor.tokenizer, seed=seed), processor)
        options = {"concepts": Means(), "folds": 4, "null_directions": 0, "top_n": 3, "progress": False}
        found.append(vn.scan(model, data, site="gate", out=folder / str(seed), **options))
    found.append(vn.scan(model, data, site="vision", out=folder / "other", **options))
    return found


def test_every_neuron_and_side_has_both_runs_beside_each_other(runs):
    a, b, other = runs
    table = vn.compare_runs(a, b, min_images=2)
    assert "label_a" not in table and len(table) == len(a.concepts(2)) == 2 * 88
    for one, end in ((a, "_a"), (b, "_b")):
        alone = one.concepts(2).set_index(["neuron", "side"])
        beside = table.set_index(["neuron", "side"])
        for name in ("concept", "r", "r_low", "r_high"):
            assert (beside[name + end] == alone.loc[beside.index, name]).all()
    apart = [r.concept_a == r.concept_b and (r.r_high_a < r.r_low_b or r.r_high_b < r.r_low_a)
             for r in table.itertuples()]  # fmt: skip
    assert table["apart"].tolist() == apart and any(apart)
    same = vn.compare_runs(a, a, min_images=2)
    assert same["same_concept"].all() and not same["apart"].any()
    with pytest.raises(ValueError, match="no neuron is in both"):
        vn.compare_runs(a, other, min_images=2)


def test_classes_stand_beside_each_other_where_both_have_them(runs):
    a, b, _ = runs
    for one in (a, b):
        one.save(vn.classify(one))
    table = vn.compare_runs(a, b, min_images=2)
    labels = [one.table().set_index("neuron")["label"] for one in (a, b)]
    for row in table.itertuples():
        assert (row.label_a, row.label_b) == tuple(own[row.neuron] for own in labels)
        assert row.same_label == (row.label_a == row.label_b)


def test_what_is_no_run_is_named(runs):
    with pytest.raises(TypeError, match="run_b"):
        vn.compare_runs(runs[0], "runs/x")

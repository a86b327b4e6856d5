"""Neurons that stand out on a sample are those whose means are farthest above their own over the run."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from banks import Means

import vlm_neurons as vn
from vlm_neurons.units import Neuron


@pytest.fixture(scope="module")
def model():
    processor = tiny.processor()
    return vn.HookedVLM(tiny.llava(processor.tokenizer), processor)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    return vn.ImageTextData.from_samples(
        [{"image": tiny.image(30 + i, 36, rng), "response": f"red dogs {i}.", "name": f"s {i}a"} for i in range(12)]
    )


@pytest.fixture(scope="module")
def run(model, data, tmp_path_factory):
    options = {"concepts": Means(), "folds": 4, "null_directions": 0, "top_n": 4, "progress": False}
    return vn.scan(model, data, site=["gate", "post", "projector"], out=tmp_path_factory.mktemp("r") / "r", **options)


def batch_of(model, data, ids):
    some = [data[i] for i in ids]
    prompts = [one.question(vn.data.DEFAULT_PROMPT) for one in some]
    return model.prepare([one.load_images() for one in some], prompts, [one.response for one in some])


def positive(model, data, i, neuron, kind):
    batch = batch_of(model, data, [i])
    _, cache = model.run_with_cache(batch, names_filter=neuron.hook)
    acts = cache[neuron.hook][0, batch.mask(kind)[0], neuron.index].double()
    return acts if neuron.pole == "+" else -acts


def test_every_number_is_that_of_all_samples_run_one_by_one(model, data, run):
    batch = batch_of(model, data, [7, 5])
    table = vn.top_neurons(model, batch, run, row=1, n=6)
    assert table["z"].is_monotonic_decreasing and table["side"].value_counts().to_dict() == {"picture": 6, "text": 6}
    assert set(table["site"]) <= {"gate", "post"}
    for one in table.itertuples():
        neuron, kind = Neuron.parse(one.neuron), "visual" if one.side == "picture" else "text"
        every = [positive(model, data, i, neuron, kind) for i in range(12)]
        means, mine = torch.stack([acts.clamp(min=0).mean() for acts in every]), every[5]
        assert one.z == pytest.approx(float((means[5] - means.mean()) / means.std(correction=0)), rel=1e-3)
        assert one.peak == pytest.approx(float(mine.max()), rel=1e-4)
        if one.side == "picture":
            assert batch.patches[one.patch].image == 1 and one.token == ""
            assert [p.image for p in batch.patches[: one.patch]].count(1) == int(mine.argmax())
        else:
            words = [t for t, is_text in zip(batch.tokens(1), batch.mask("text")[1], strict=True) if is_text]
            assert one.patch == -1 and one.token == words[int(mine.argmax())]
        both = [max(float(positive(model, data, i, neuron, k).max()) for k in ("visual", "text")) for i in range(12)]
        close = 1e-3 * abs(one.peak) + 1e-5  # last digits differ from batch to batch
        surely, perhaps = (sum(value > one.peak + off for value in both) for off in (close, -close))
        assert perhaps - surely <= 3, "too many alike to tell"
        assert surely < one.rank <= perhaps + 1 or (np.isnan(one.rank) and perhaps >= 4)


def test_no_neuron_that_is_left_out_stands_out_more(model, data, run):
    batch = batch_of(model, data, [5])
    few, all_of_them = (vn.top_neurons(model, batch, run, n=n) for n in (3, 10_000))
    for side in ("picture", "text"):
        whole = all_of_them[all_of_them["side"] == side]
        assert few[few["side"] == side]["neuron"].tolist() == whole["neuron"].head(3).tolist()
        assert len(whole) > 100 and np.isfinite(whole["z"]).all()


def test_classes_and_concepts_of_the_run_stand_beside_them(model, data, run):
    batch = batch_of(model, data, [2])
    assert "label" not in vn.top_neurons(model, batch, run) and "phrase" in vn.top_neurons(model, batch, run)
    run.save(vn.classify(run))
    labels = run.table().set_index("neuron")["label"]
    assert all(one.label == labels[one.neuron] for one in vn.top_neurons(model, batch, run).itertuples())


def test_text_alone_has_one_side_and_what_does_not_fit_is_named(model, data, run, tmp_path):
    text = model.prepare(None, ["red dogs"], ["dogs are red."])
    assert set(vn.top_neurons(model, text, run)["side"]) == {"text"}
    with pytest.raises(IndexError, match="row=1: the batch has 1 rows"):
        vn.top_neurons(model, text, run, row=1)
    other = vn.HookedVLM(tiny.llava(tiny.processor().tokenizer, seed=9), tiny.processor())
    with pytest.raises(ValueError, match="another model"):
        vn.top_neurons(other, text, run)
    seen = vn.scan(model, data, site="projector", out=tmp_path / "p", top_n=3, progress=False)
    with pytest.raises(ValueError, match="see images alone"):
        vn.top_neurons(model, text, seen)

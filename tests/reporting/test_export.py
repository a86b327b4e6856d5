"""Units go to viewers of text activations in the form that these read, with their pictures as links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm_neurons as vn

# of sae-dashboard 0.8.0: what its NeuronpediaDashboardFeature and -Activation are made from
FEATURE = {
    "feature_index": int, "neuron_alignment_indices": list, "neuron_alignment_values": list,
    "neuron_alignment_l1": list,
    "correlated_neurons_indices": list, "correlated_neurons_l1": list, "correlated_neurons_pearson": list,
    "correlated_features_indices": list, "correlated_features_l1": list, "correlated_features_pearson": list,
    "neg_str": list, "neg_values": list, "pos_str": list, "pos_values": list, "frac_nonzero": float,
    "freq_hist_data_bar_values": list, "freq_hist_data_bar_heights": list, "logits_hist_data_bar_heights": list,
    "logits_hist_data_bar_values": list, "n_prompts_total": int, "n_tokens_in_prompt": int, "dataset": str,
    "activations": list, "decoder_weights_dist": list,
}  # fmt: skip
ACTIVATION = {"bin_min": float, "bin_max": float, "bin_contains": float, "tokens": list, "values": list}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model, data = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu"), vn.scenes(12, seed=3)
    where = tmp_path_factory.mktemp("exported")
    run = vn.scan(model, data, ["gate", "post", "heads"], 4, batch_size=12, out=where / "run", progress=False)
    units = ["L2N304", "L2N3", "post:L1N5-", "L1H2"]
    evidence = vn.gather_evidence(model, data, run, units, n_top=3, n_spare=3, n_pool=0, out=run, progress=False)
    return run, evidence, vn.export(run, "neuronpedia", where / "out", model)


def test_files_have_the_form_and_the_numbers_of_the_evidence(exported: Any) -> None:
    _, evidence, files = exported
    assert [file.parent.name for file in files] == ["1-heads", "1-post-negative", "2-gate"]
    whole = json.loads(files[2].read_text(encoding="utf-8"))
    assert (whole["model_id"], whole["layer"], whole["sae_set"]) == ("tiny-llava-scenes", 2, "gate")
    assert [one["feature_index"] for one in whole["features"]] == [3, 304]
    for feature in whole["features"]:
        assert {name: type(value) for name, value in feature.items()} == FEATURE
        assert len(feature["pos_str"]) == len(feature["neg_values"]) == 10
        own = evidence[f"L2N{feature['feature_index']}"]
        assert len(feature["activations"]) == len(own.exemplars) and feature["n_prompts_total"] == 12
        for found, exemplar in zip(feature["activations"], own.exemplars, strict=True):
            assert {name: type(value) for name, value in found.items()} == ACTIVATION
            links = [i for i, token in enumerate(found["tokens"]) if token.startswith("![image](")]
            assert links == [exemplar.seen.places[0]]
            words = [token for i, token in enumerate(found["tokens"]) if i not in links]
            assert words == list(exemplar.seen.tokens)
            values = np.delete(found["values"], links)
            np.testing.assert_allclose(values, exemplar.token_acts, atol=6e-4)
            assert found["values"][links[0]] == pytest.approx(exemplar.patch_acts[0].max(), abs=6e-4)
            picture = files[2].parent / found["tokens"][links[0]][len("![image](") : -1]
            assert Image.open(picture).tobytes() == exemplar.seen.images[0].tobytes()
            assert (found["bin_contains"] == -1) == (exemplar.group == "top")
            assert exemplar.group == "top" or 0 <= found["bin_min"] < found["bin_max"] <= own.peak + 1e-3
        drawn = [e for e in own.exemplars if e.group == "random"]
        every = np.concatenate([np.r_[e.patch_acts[0].ravel(), e.token_acts[e.seen.is_text]] for e in drawn])
        assert feature["frac_nonzero"] == pytest.approx((every > 0).mean())
        assert sum(feature["freq_hist_data_bar_heights"]) == (every > 0).sum()


def test_what_writes_nowhere_has_no_words_and_links_start_where_one_says(exported: Any, tmp_path: Path) -> None:
    run, _, files = exported
    (head,) = json.loads(files[0].read_text(encoding="utf-8"))["features"]
    assert head["pos_str"] == [] and head["feature_index"] == 2
    file = vn.export(run, "neuronpedia", tmp_path, url="https://example.org/units/")[0]
    tokens = json.loads(file.read_text(encoding="utf-8"))["features"][0]["activations"][0]["tokens"]
    assert any(token.startswith("![image](https://example.org/units/images/") for token in tokens)
    with pytest.raises(ValueError, match="format='csv': only 'neuronpedia'"):
        vn.export(run, "csv", tmp_path)  # type: ignore[arg-type]

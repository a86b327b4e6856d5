"""The embedded model sees, says what it sees, and its neurons do the work. Small versions of what its card measures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons import zoo
from vlm_neurons.hooks import ablate

SCRIPTS = Path(__file__).parents[2] / "examples" / "tiny_llava"
SEED = 10_000 + seeds.number(900_000)  # none of the scenes of the card


@pytest.fixture(scope="module")
def scripts():
    """The measuring scripts of the card."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import card
        import measure

        yield card, measure
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def model():
    return vn.HookedVLM.from_pretrained("tiny-llava-scenes")


def test_it_describes_held_out_objects_rightly(model, scripts):
    card, _ = scripts
    data = vn.scenes(60, SEED, split="held_out", objects=1)
    found = card.description_scores(data, card.say(model, data))
    assert found["joint"] >= 75 and found["background"] >= 95, (SEED, found)


def test_without_its_mlps_at_visual_positions_it_is_nearly_blind_and_without_as_many_in_the_background_it_is_not(
    model, scripts
):
    card, _ = scripts
    data = vn.scenes(40, SEED, objects=1)
    layers = list(range(model.n_layers))
    intact = card.description_scores(data, card.say(model, data))["joint"]
    blind = card.description_scores(
        data, card.say(model, data, card.silence(model, lambda b: b.mask("visual"), layers))
    )

    def background(batch):
        return card.on_objects(data, 0, batch, objects=False)

    kept = card.description_scores(data, card.say(model, data, card.silence(model, background, layers)))["joint"]
    assert intact - blind["joint"] >= 30, (SEED, intact, blind)
    assert kept >= intact - 25, (SEED, intact, kept)


def test_its_neurons_tell_concepts_apart_and_random_gates_do_less_so(model, scripts):
    _, measure = scripts
    data = vn.scenes(100, SEED)
    layers = np.repeat(np.arange(model.n_layers), model.config.text_config.intermediate_size)

    def found():
        return measure.counts(measure.selectivity(measure.record_site(model, data)), layers)

    trained = found()
    with vn.interventions.random_gates(model, seed=SEED):
        random = found()
    for bar in ("colour F1 > .6 when firing", "patch and word of one concept, both F1 > .5"):
        assert trained[bar] >= 10 and trained[bar] >= 2 * random[bar], (SEED, bar, trained[bar], random[bar])


def test_measures_are_what_scikit_learn_says(scripts):
    from scipy.stats import rankdata
    from sklearn.metrics import f1_score, roc_auc_score

    _, measure = scripts
    rng = np.random.default_rng(SEED)
    values = np.round(rng.normal(size=(80, 5)), 1)  # ties
    positive = rng.random(80) < 0.3
    fires = values > 0.5
    auroc, f1 = measure._auroc(rankdata(values, axis=0), positive), measure.f1_of_firing(fires, positive)
    for i in range(5):
        assert auroc[i] == pytest.approx(roc_auc_score(positive, values[:, i]))
        assert f1[i] == pytest.approx(f1_score(positive, fires[:, i]))


def test_it_is_an_ordinary_half_precision_checkpoint_of_a_few_megabytes():
    from safetensors import safe_open

    folder = zoo.path("tiny-llava-scenes")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 8 * 2**20
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_its_weights_have_the_names_that_vllm_and_older_transformers_know():
    """transformers 4.57.1 loads all of them and lacks none (tried); vLLM reads the same names."""
    from safetensors import safe_open

    folder = zoo.path("tiny-llava-scenes")
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    block = (
        "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"
    )
    wanted = {
        f"language_model.model.layers.{i}.{part}.weight"
        for i in range(config["text_config"]["num_hidden_layers"])
        for part in (*block.split(), "input_layernorm", "post_attention_layernorm")
    }
    wanted |= {"language_model.model.embed_tokens.weight", "language_model.model.norm.weight"}
    both = ("weight", "bias")
    wanted |= {f"multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in both}
    tower, parts = "vision_tower.vision_model", "q_proj k_proj v_proj out_proj"
    layer = [f"self_attn.{p}" for p in parts.split()] + ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    wanted |= {
        f"{tower}.encoder.layers.{i}.{part}.{kind}"
        for i in range(config["vision_config"]["num_hidden_layers"])
        for part in layer
        for kind in both
    }
    wanted |= {f"{tower}.{norm}.{kind}" for norm in ("pre_layrnorm", "post_layernorm") for kind in both}
    wanted |= {
        f"{tower}.embeddings.{p}" for p in ("class_embedding", "patch_embedding.weight", "position_embedding.weight")
    }
    assert names == wanted


def test_its_card_and_numbers_are_beside_it():
    folder = zoo.path("tiny-llava-scenes")
    text = (folder / "README.md").read_text()
    for heading in ("Accuracy", "Control A", "Control B", "Control C", "Do the classes mean something"):
        assert heading in text


def test_zeroing_a_neuron_everywhere_equals_zeroing_its_column(model):
    import torch

    other = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    sample = vn.scenes(1, SEED)[0]
    batch = model.prepare(sample.load_images(), [sample.prompt], [sample.response])
    by_hook = model.run_with_hooks(batch, fwd_hooks=ablate("L1N5"))
    with torch.no_grad():
        other.bridge.original_model.model.language_model.layers[1].mlp.down_proj.weight[:, 5] = 0
        assert torch.equal(other(batch), by_hook)

"""Close-ups are the model's own activations, patch by patch and token by token."""

from __future__ import annotations

import re

import numpy as np
import pytest
import seeds
import tiny
from hostile import Made

from vlm_neurons.models import HookedVLM
from vlm_neurons.units import Neuron
from vlm_neurons.viz import close_ups


def test_values_equal_a_cache_read_by_hand(made: Made) -> None:
    rng = seeds.rng()
    names = rng.choice(made.table["neuron"], 12, replace=False).tolist()
    names += ["P0N3", "post:L1N5", "post:L1N5-"]
    rows = made.run.samples.set_index("id")
    for name, close in close_ups(made.model, made.data, made.run, names, top=2).items():
        neuron = Neuron.parse(name)
        sign = -1 if neuron.pole == "-" else 1
        for one in close:
            sample, text = one.seen.sample, one.scored_tokens(sinks=True)
            assert one.group == "top"
            batch = made.model.prepare(
                [made.data[sample].load_images()], [rows.loc[sample, "prompt"]], [rows.loc[sample, "response"]]
            )
            _, cache = made.model.run_with_cache(batch, names_filter=neuron.hook)
            values = sign * cache[neuron.hook][..., neuron.index].float().numpy()
            if neuron.site == "projector":
                expected = [v.reshape(4, 4) for v in values]
                assert not text.any()
            else:
                visual = values[0][batch.mask("visual")[0].numpy()]
                expected = [visual[16 * i : 16 * i + 16].reshape(4, 4) for i in range(len(one.seen.images))]
                np.testing.assert_allclose(
                    one.token_acts[text], values[0][batch.mask("text")[0].numpy()], rtol=1e-4, atol=1e-4
                )
                tokens = [token for token, counts in zip(one.seen.tokens, text, strict=True) if counts]
                assert "".join(tokens) in batch.texts[0]
            assert len(one.patch_acts) == len(expected) == len(batch.images)
            for mine, theirs in zip(one.patch_acts, expected, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_samples_are_the_strongest_first(made: Made) -> None:
    name = made.table["neuron"].iloc[0]
    close = close_ups(made.model, made.data, made.run, [name], top=5)[name]
    best = [c.peak for c in close]
    assert [c.rank for c in close] == [0, 1, 2, 3, 4]
    assert best == sorted(best, reverse=True) and len(close) == 5
    neuron = Neuron.parse(name)
    assert [c.seen.sample for c in close] == made.run.top(neuron.hook).sample_ids[neuron.index, :5].tolist()


def test_a_sample_without_image_and_one_with_two_are_shown_as_they_are(made: Made) -> None:
    shown = close_ups(made.model, made.data, made.run, made.table["neuron"][:40].tolist(), top=8)
    n_images = {c.seen.sample: len(c.seen.images) for close in shown.values() for c in close}
    assert n_images.get(7, 0) == 0 and n_images.get(11, 2) == 2 and len(n_images) > 10


def test_another_model_is_noticed(made: Made) -> None:
    other = HookedVLM(tiny.llava(made.model.tokenizer), made.model.processor)
    with pytest.raises(ValueError, match=re.escape("the scan stored")):
        close_ups(other, made.data, made.run, made.table["neuron"][:10].tolist())

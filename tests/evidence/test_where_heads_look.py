"""Where heads look is what the attention patterns of plain transformers say, word by word."""

from __future__ import annotations

import copy
import math
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import vlm_neurons as vn
from vlm_neurons.evidence.attention import SHARES


def test_shares_and_focus_are_those_of_transformers_patterns() -> None:
    tok = tiny.tokenizer()
    plain = tiny.llava(tok)
    plain.set_attn_implementation("eager")
    model = vn.HookedVLM(copy.deepcopy(plain), tiny.processor(tok))
    entries = [
        {"image": [tiny.image()] * n, "response": text, "prompt": "Hi"}
        for n, text in ((1, "A dog is in the picture."), (2, "two cats"), (0, "no picture"), (1, "red"))
    ]
    data = vn.ImageTextData.from_samples(entries)
    found: dict[str, list[list[float]]] = defaultdict(list)
    maps = {}  # of head L1H2: what patches and words get from the words that see them
    for i in (0, 1, 3):  # not the one without an image
        batch = model.prepare([data[i].load_images()], ["Hi"], [data[i].response])
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **batch.model_inputs}
        patterns = plain(**inputs, output_attentions=True).attentions
        kinds = batch.kinds[0].tolist()
        of_head = patterns[1][0, 2].detach().numpy()
        words = [k for k, kind in enumerate(kinds) if kind == 3]
        patches = [of_head[words, k].mean() for k, kind in enumerate(kinds) if kind == 2]
        maps[i] = np.array(patches), np.array([np.mean([of_head[q, k] for q in words if q >= k]) for k in words])
        for layer, pattern in enumerate(patterns):
            for head, rows in enumerate(pattern[0].tolist()):
                mine = []
                for q, row in enumerate(rows):
                    if kinds[q] != 3:
                        continue
                    of = {"to_image": 0.0, "to_first": row[0], "to_itself": row[q], "to_text": 0.0, "to_template": 0.0}
                    for k, weight in enumerate(row):
                        if k in (0, q):
                            continue
                        of[{2: "to_image", 3: "to_text"}.get(kinds[k], "to_template")] += weight
                    p = [w / of["to_image"] for w, kind in zip(row, kinds, strict=True) if kind == 2]
                    focus = 1 + sum(x * math.log(x) for x in p if x > 0) / math.log(len(p))
                    mine.append([*of.values(), focus])
                found[f"L{layer}H{head}"].append(np.mean(mine, axis=0).tolist())
    looked = vn.evidence.attention_evidence(model, data, ["L1H2"], batch_size=2, progress=False)["L1H2"]
    assert [e.seen.sample for e in looked.exemplars] == sorted(  # not the one with two images
        (0, 3), key=lambda i: -max(maps[i][0].max(), maps[i][1].max())
    )
    for one in looked.exemplars:
        patches, words = maps[one.seen.sample]
        np.testing.assert_allclose(one.patch_acts[0].ravel(), patches, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(one.token_acts, words, rtol=1e-4, atol=1e-6)
    table = vn.evidence.where_heads_look(model, data, batch_size=2, progress=False).set_index("neuron")
    assert set(table.index) == set(found) and set(table.n_samples) == {3}
    classes = ["visual", "text", "visual", "unknown", "multimodal", "visual", "multimodal", "visual"]
    labels = pd.DataFrame({"neuron": [*found, "L0N3"], "label": [*classes, "text"]})  # in the order of layers and heads
    by_class = vn.evidence.heads_by_class(table.reset_index(), labels).set_index(["layer", "label"])
    assert list(by_class.index) == [
        (0, "visual"), (0, "text"), (0, "unknown"), (1, "visual"), (1, "multimodal"),
        ("all", "visual"), ("all", "text"), ("all", "multimodal"), ("all", "unknown"),
    ]  # fmt: skip
    for (layer, label), row in by_class.iterrows():
        own = [
            np.mean(samples, axis=0)
            for (neuron, samples), mine in zip(found.items(), classes, strict=True)
            if mine == label and layer in ("all", int(neuron[1]))
        ]
        assert row.n_heads == len(own) > 0
        expected = np.mean(own, axis=0).tolist()
        assert row[[*SHARES, "focus"]].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    html = vn.viz.show_heads(by_class.reset_index()).fragment.html
    share = round(100 * by_class.to_image[1, "visual"])
    assert f"layer 1, visual: {share} % of attention to the image (2 heads)" in html
    with pytest.raises(ValueError, match="no label of L1H2 and 1 other heads: give the labels of a scan with"):
        vn.evidence.heads_by_class(table.reset_index(), labels[:6])
    for neuron, samples in found.items():
        expected = np.mean(samples, axis=0)
        assert table.loc[neuron, [*SHARES, "focus"]].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
        assert table.loc[neuron, [*SHARES]].sum() == pytest.approx(1, abs=1e-6)


def test_data_without_images_or_responses_is_refused() -> None:
    tok = tiny.tokenizer()
    model = vn.HookedVLM(tiny.llava(tok), tiny.processor(tok))
    data = vn.ImageTextData.from_samples([{"image": None, "response": "words", "prompt": "Hi"}])
    with pytest.raises(ValueError, match="no sample has an image and a response"):
        vn.evidence.where_heads_look(model, data, progress=False)
    seen = vn.ImageTextData.from_samples([{"image": tiny.image(), "response": "words", "prompt": "Hi"}] * 2)
    with pytest.raises(ValueError, match="heads: L1N2: ids of attention heads are L2H1"):
        vn.evidence.attention_evidence(model, seen, "L1N2", progress=False)
    for head, message in (("L7H0", "layer 7 of .* has no attention heads"), ("L1H9", "has 4 heads, 0 to 3")):
        with pytest.raises(IndexError, match=message):
            vn.evidence.attention_evidence(model, seen, head, progress=False)


def test_a_first_token_that_is_a_patch_is_counted_once() -> None:
    from vlm_neurons.evidence.attention import _looks
    from vlm_neurons.tokens import TokenKind as K

    kinds = torch.tensor([K.VISUAL, K.VISUAL, K.TEMPLATE, K.TEXT, K.TEXT])
    pattern = torch.tril(torch.ones(1, 5, 5)) / torch.arange(1, 6)[None, :, None]
    looks = _looks(pattern, kinds)[0, :5]
    assert looks.sum().item() == pytest.approx(1) and looks[0].item() == pytest.approx((1 / 4 + 1 / 5) / 2)

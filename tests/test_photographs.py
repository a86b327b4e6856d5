"""Real photographs go the whole way, and come out as brute force says."""

import json
from importlib.util import find_spec
from pathlib import Path

import brute_force as brute
import pytest
import seeds

import vlm_neurons as vn

PARAMETERS = {"top_n": 5, "n_visual": 4, "n_text": 2}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of photographs of many sizes, some with a caption, one of them broken."""
    folder = tmp_path_factory.mktemp("photographs")
    skimage = Path(find_spec("skimage").submodule_search_locations[0]) / "data"
    sklearn = Path(find_spec("sklearn").submodule_search_locations[0]) / "datasets" / "images"
    for source in [*(skimage / n for n in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "coins.png")),
                   sklearn / "china.jpg", sklearn / "flower.jpg"]:  # fmt: skip
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "broken.jpg").write_bytes((sklearn / "china.jpg").read_bytes()[:500])
    caption = {"image": "chelsea.png", "response": "a red cat. the cat is at the middle center."}
    (folder / "captions.jsonl").write_text(json.dumps(caption) + "\n")
    return folder


def test_every_label_and_probability_of_photographs_equals_brute_force(photographs, tmp_path):
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    data = vn.ImageTextData.from_folder(photographs)
    run = vn.scan(model, data, batch_size=3, out=tmp_path / "run", progress=False, **PARAMETERS)
    assert [s["name"] for s in run.skipped] == ["broken.jpg"]
    assert run.samples.set_index("name").response["chelsea.png"].startswith("a red cat")
    table = vn.classify(run).set_index("neuron")
    assert len(run.samples) == 7 and len(table) == 4 * 384

    recordings: dict[str, list[list]] = {hook: [] for hook in model.site_hooks("gate")}
    scanned = dict(zip(run.samples.id, run.samples.response, strict=True))
    for first in range(0, len(data), 3):
        ids = [i for i in range(first, min(first + 3, len(data))) if i in scanned]
        prompts = [vn.data.DEFAULT_PROMPT] * len(ids)
        batch = model.prepare([data[i].load_images() for i in ids], prompts, [scanned[i] for i in ids])
        seen = {}
        model.observe(batch, {h: lambda t, h=h, seen=seen: seen.__setitem__(h, t.clone()) for h in recordings})
        for row, i in enumerate(ids):
            for hook, found in recordings.items():
                found.append([i, seen[hook][row].double().numpy(), batch.kinds[row].tolist()])

    rng = seeds.rng()
    for neuron in rng.choice(table.index, 150, replace=False):
        row = table.loc[neuron]
        mine = [
            brute.Recording(i, values[:, row["index"]].tolist(), kinds) for i, values, kinds in recordings[row.hook]
        ]
        shares = brute.classify(mine, PARAMETERS["top_n"], 2.0, 4, 3.0, 2)
        for name, share in shares.items():
            assert row[f"p_{name}"] == pytest.approx(share, abs=1e-12), neuron
        if not row.tie:
            assert row.label == max(shares, key=shares.get)


def test_the_page_about_photographs_shows_them(photographs, tmp_path):
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    run = vn.scan(model, photographs, site="projector", out=tmp_path / "run", progress=False, **PARAMETERS)
    page = vn.report(run, out=run).read_text()
    assert "flower.jpg" in page and "astronaut.png" in page

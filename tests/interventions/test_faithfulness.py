"""`vn.faithfulness`: how often the model says what an explanation names while the neuron is clamped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds

import vlm_neurons as vn
from vlm_neurons.autointerp.asked import Asking
from vlm_neurons.autointerp.spoken import says, ways_to_say
from vlm_neurons.interventions.faithful import FIRST_DRAW, fade
from vlm_neurons.planted.weights import rows_of, writing

WORDS = {"post:L2N7": "red", "post:L2N8": "blue", "post:L2N9": "striped"}


@pytest.fixture(scope="module")
def model() -> Iterator[vn.HookedVLM]:
    """With neurons that write words, and one that writes nothing."""
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes", device="cpu")
    for key, word in WORDS.items():
        rows_of(model, "post", 2, vn.Neuron.parse(key).index)["out"].copy_(writing(model, "post", 2, word))
    rows_of(model, "post", 2, 10)["out"].zero_()
    yield model


@pytest.fixture(scope="module")
def evidence() -> dict[str, vn.Evidence]:
    return {key: vn.Evidence(key, 12.0, ()) for key in (*WORDS, "post:L2N10")}


SMALL = {"strengths": (1, 60), "n": 12, "max_new_tokens": 8}


def test_a_neuron_is_faithful_to_the_word_that_it_writes_and_others_are_not(
    model: vn.HookedVLM, evidence: dict[str, vn.Evidence], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "post:L2N7": "red regions", "post:L2N8": vn.Explanation("post:L2N8", "the word 'blue'"),
        "post:L2N9": "the word 'green'", "post:L2N10": "the word 'red'",
    }  # fmt: skip
    found = vn.faithfulness(model, words, evidence, **SMALL, out=tmp_path)
    assert "4 units, 12 answers at each of up to 2 strengths and 24 without" in capsys.readouterr().err
    by = found.set_index("neuron")
    for key in ("post:L2N7", "post:L2N8"):
        row = by.loc[key]
        assert row.faithfulness > 0.8 > row.null + 0.3 and row.low > 0.5 and row.low <= row.faithfulness <= row.high
        assert row.strength == 1 and row.n_strengths == 1 and row.note == "text breaks down at 60"
    assert by.loc["post:L2N9"].faithfulness < 0.3 and by.loc["post:L2N10"].faithfulness < 0.3
    assert by.loc["post:L2N7"].n_null == 3 and by.loc["post:L2N7"].p == pytest.approx(1 / 4)
    common = vn.faithfulness(model, {"post:L2N7": "small"}, evidence, **SMALL, out=tmp_path, progress=False).iloc[0]
    each = [{"post:L2N7": evidence["post:L2N7"], key: evidence[key]} for key in evidence if key != "post:L2N7"]
    alone = [vn.faithfulness(model, {"post:L2N7": "small"}, two, **SMALL, out=tmp_path, progress=False) for two in each]
    assert common.null == pytest.approx(np.median([one["null"][0] for one in alone]))
    kept = sorted((tmp_path / "faithfulness").glob("*.json"))
    assert len(kept) == 4
    kept[0].unlink()  # as after a kill
    again = vn.faithfulness(model, words, evidence, **SMALL, out=tmp_path, progress=False)
    assert again.equals(found) and sorted((tmp_path / "faithfulness").glob("*.json")) == kept
    kept[1].write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read.*Move it away; vn.faithfulness"):
        vn.faithfulness(model, words, evidence, **SMALL, out=tmp_path, progress=False)


def test_a_unit_is_not_its_own_null_and_one_edited_by_hand_is_asked_again(
    model: vn.HookedVLM, evidence: dict[str, vn.Evidence], tmp_path: Path
) -> None:
    poles = {f"{key}{pole}": vn.Evidence(f"{key}{pole}", 12.0, ()) for key in [*WORDS][:2] for pole in ("", "-")}
    small: dict[str, Any] = {"strengths": (1,), "n": 4, "max_new_tokens": 4, "progress": False, "out": tmp_path}
    found = vn.faithfulness(model, {"post:L2N7": "red"}, poles, **small).iloc[0]
    assert found.n_null == 1 and found.faithfulness > 0.5  # the other unit, once
    out, mark = rows_of(model, "post", 2, 7)["out"], model.fingerprint()
    out.mul_(-1)
    try:
        assert model.fingerprint() == mark  # which looks at some of all weights
        again = vn.faithfulness(model, {"post:L2N7": "red"}, poles, **small).iloc[0]
    finally:
        out.mul_(-1)
    assert again.share < found.share


def test_rows_of_other_neurons_stay_and_half_a_character_loses_nothing(
    model: vn.HookedVLM, evidence: dict[str, vn.Evidence], tmp_path: Path
) -> None:
    small: dict[str, Any] = {"strengths": (1,), "n": 2, "max_new_tokens": 2, "progress": False, "out": tmp_path}
    some = {key: evidence[key] for key in [*WORDS][:2]}
    vn.faithfulness(model, dict.fromkeys(some, "red \ud800"), some, **small)
    table = vn.faithfulness(model, {"post:L2N8": "blue"}, some, **small)
    assert table["neuron"].tolist() == ["post:L2N8"] and vn.faithfulness(model, {}, some, **small).empty
    kept = pd.read_parquet(tmp_path / "faithfulness" / "table.parquet")
    assert dict(zip(kept["neuron"], kept["explanation"], strict=True)) == {
        "post:L2N7": "red \ufffd",
        "post:L2N8": "blue",
    }


def test_the_numbers_are_those_of_the_answers_counted_one_by_one(
    model: vn.HookedVLM, evidence: dict[str, vn.Evidence], tmp_path: Path
) -> None:
    row = vn.faithfulness(
        model, {"post:L2N8": "blue circles; the word 'small'"}, {"post:L2N8": evidence["post:L2N8"]}, (0.5, 1), 12,
        max_new_tokens=8, out=tmp_path, progress=False,
    ).iloc[0]  # fmt: skip
    asking = Asking(model, n=12, max_new_tokens=8)
    before = [*asking.answers(draw=FIRST_DRAW), *asking.answers(draw=FIRST_DRAW + 1)]

    def share(answers: list[str]) -> float:
        hits = 0
        for answer in answers:
            words = answer.replace(".", " ").split()
            both = "blue" in words and ("circle" in words or "circles" in words)
            hits += both or "small" in words or "smalls" in words
        return hits / len(answers)

    (kept,) = [json.loads(file.read_text()) for file in (tmp_path / "faithfulness").glob("*.json")]
    shares = {float(s): share(answers) for s, answers in kept["answers"].items()}
    assert row.before == pytest.approx(share(before)) and row.share == pytest.approx(max(shares.values()))
    assert row.faithfulness == pytest.approx(max(0, row.share - row.before) / (1 - row.before))


def test_the_formula_is_fades_and_undefined_where_the_model_says_it_anyway(
    model: vn.HookedVLM, evidence: dict[str, vn.Evidence]
) -> None:
    rng = seeds.rng()
    shares, before = rng.random((20, 3)), np.append(rng.random(19), 1.0)
    found = fade(shares, before)
    for i in range(19):
        assert found[i] == pytest.approx(max(0, max(shares[i]) - before[i]) / (1 - before[i]))
    assert np.isnan(found[19])
    words = {"post:L2N7": "the word 'a'", "post:L2N8": "no clear pattern", "post:L2N9": "vertical edges"}
    strange = {"V0N999": vn.Evidence("V0N999", 1.0, ()), "a probe": vn.Evidence("a probe", 1.0, ())}
    strange["post:L2N11"] = vn.Evidence("post:L2N11", 0.0, ())
    table = vn.faithfulness(model, words | dict.fromkeys(strange, "red"), evidence | strange, (0.5,), 8,
                            max_new_tokens=6, progress=False)  # fmt: skip
    assert table.faithfulness.isna().all() and table.p.isna().all()
    said = ["says it without a clamp too", "names nothing", "nothing that an answer could say", "V0N999", "a probe",
            "never active"]  # fmt: skip
    assert all(part in note for part, note in zip(said, table.note, strict=True))
    with pytest.raises(ValueError, match="strengths=a tuple: give some numbers above 0"):
        vn.faithfulness(model, words, evidence, ())
    with pytest.raises(KeyError, match="an explanation without evidence"):
        vn.faithfulness(model, {"L0N1": "red"}, evidence)


def test_an_answer_says_what_an_explanation_names_if_it_has_all_words_of_one_alternative() -> None:
    for explanation, answer, expected in (
        ("red circles", "a red ring and a blue circle", True),
        ("red circles", "a red ring", False),
        ("crosses", "a small cross", True),
        ("red regions at the top left", "red at the top", False),
        ("red regions at the top left", "a red one, top left", True),
        ("less strongly: pink regions; the word 'blue'", "pink", True),
        ("words for animals", "two dogs", True),
        ("anything but red regions", "blue", False),
        ("words before 'red'; the word 'dark'", "red", False),
        ("dogs in the snow", "a dog in snow", True),
        ("dogs in the snow", "a dog", False),
    ):
        words = answer.replace(",", "").split()
        assert says(words, ways_to_say(explanation)) == expected, (explanation, answer)


def test_a_plural_is_said_by_its_singular_and_the_other_way_round() -> None:
    pairs = ("horse horses, house houses, vase vases, nose noses, maze mazes, axe axes, cache caches, box boxes, "
             "dress dresses, bus buses, baby babies, pie pies, toy toys, tomato tomatoes, shoe shoes")  # fmt: skip
    for one, many in (pair.split() for pair in pairs.split(", ")):
        assert says({one}, ways_to_say(many)) and says({many}, ways_to_say(one)), (one, many)
    assert not says({"us"}, ways_to_say("uses")) and not says({"to"}, ways_to_say("toes"))

"""What does not fit is said by name: answers of simulators, evidence of probes, explanations, simulations of before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
from pieces import Answers
from PIL import Image

import vlm_neurons as vn
from vlm_neurons import planted
from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.scorers.aligned import pieces_of, resolved
from vlm_neurons.autointerp.simulation import mark_of
from vlm_neurons.autointerp.simulators import Job, Oracle, Prediction, Resolution
from vlm_neurons.autointerp.store import table_file

RNG = seeds.rng()
N = 40


def probe(grids: Sequence[tuple[int, int]], name: str = "probe", **options: Any) -> vn.Evidence:
    """Evidence of pictures of one colour each, with activations that have nothing to do with it."""
    images = [Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in grids]
    return vn.Evidence.from_arrays(name, images=images, patch_acts=[RNG.random(g) for g in grids], **options)


def scored(explanations: dict[str, Any], evidence: dict[str, vn.Evidence], **options: Any) -> pd.DataFrame:
    return vn.score(
        explanations, evidence, **{"n_null": 0, "n_permutations": 999, "progress": False, "full": True, **options}
    )


@pytest.mark.parametrize(("answer", "said"), [
    (lambda job: Prediction((np.zeros((3, 3)),)), r"\(3, 3\).*\(4, 4\)"),
    (lambda job: Prediction((np.zeros((4, 4)),) * 2), r"\(4, 4\), \(4, 4\)"),
    (lambda job: Prediction((np.full((4, 4), np.inf),)), "infinite"),
    (lambda job: Prediction(), "nor a failure"),
    (lambda job: Prediction((np.zeros((4, 4)),), failure=Failure("network", "cut")), "values and a failure"),
    (lambda job: Prediction((), np.full(len(job.exemplar.seen.tokens), 1.0)), "another side than 'picture'"),
    (lambda job: np.zeros((4, 4)), "ndarray, not a Prediction"),
])  # fmt: skip
def test_an_answer_that_does_not_fit_names_simulator_neuron_and_sample(answer, said):
    with pytest.raises(ValueError, match=rf"mine, probe, sample \d+: .*{said}"):
        scored({"probe": "x"}, {"probe": probe([(4, 4)] * N)}, simulator=Answers(answer))


def test_tokens_and_jobs_that_are_missing_are_named():
    words = [["a ", "dog"]] * N
    evidence = {"probe": vn.Evidence.from_arrays("probe", tokens=words, token_acts=[RNG.random(2) for _ in words])}
    for answer, said in (
        (lambda job: Prediction(token_acts=np.zeros(1)), r"\(1,\)"),
        (lambda job: Prediction(), "nor a"),
    ):
        with pytest.raises(ValueError, match=said):
            scored({"probe": "x"}, evidence, simulator=Answers(answer))
    with pytest.raises(ValueError, match="mine left jobs without an answer: probe"):
        scored({"probe": "x"}, evidence, simulator=Answers(lambda job: Prediction(token_acts=np.zeros(2)), last=3))


def test_what_is_no_simulator_and_what_is_no_explanation_is_refused():
    evidence = {"probe": probe([(4, 4)] * N)}
    for simulator in (vn.simulators.ConceptSimulator, None, object()):
        with pytest.raises(ValueError, match=r"simulator \w+: a name \('concepts', .*or an object"):
            scored({"probe": "x"}, evidence, simulator=simulator)
    with pytest.raises(ValueError, match="probe: NoneType as explanation"):
        scored({"probe": None}, evidence)


def test_an_explanation_made_from_what_it_would_be_tested_on_is_refused(tmp_path: Path):
    """As when evidence is gathered anew with another seed: the splits are others then."""
    images = [Image.new("RGB", (32, 32), tuple(RNG.integers(0, 255, 3).tolist())) for _ in range(N)]
    patches = [RNG.random((4, 4)) for _ in images]
    before, after = (vn.Evidence.from_arrays("probe", images=images, patch_acts=patches, seed=s) for s in (0, 1))
    explanation = Explanation("probe", "red", exemplars=tuple(e.seen.sample for e in before.split("explain")))
    assert len(scored({"probe": explanation}, {"probe": before})) == 1
    for use in (scored, vn.simulate):
        with pytest.raises(ValueError, match=r"probe: .* tested on .*explain it again"):
            use({"probe": explanation}, {"probe": after})
    assert len(scored({"probe": explanation.text}, {"probe": after})) == 1  # your own words


def test_simulations_of_other_words_evidence_or_simulators_are_not_scored():
    evidence = {name: probe([(4, 4)] * N, name) for name in ("a", "b")}
    made = vn.simulate(dict.fromkeys(evidence, "red regions"), evidence, progress=False)
    fitting = scored({"a": "red regions"}, evidence, simulations=made)
    assert list(fitting.neuron) == ["a"] and fitting.r.equals(scored({"a": "red regions"}, evidence).r)
    for words, those, simulator in (("blue regions", evidence, "concepts"), ("red regions", evidence, "position-prior"),
                                    ("red regions", {"a": probe([(4, 4)] * N, "a")}, "concepts")):  # fmt: skip
        with pytest.raises(ValueError, match=r"a: its simulation was made by another"):
            scored({"a": words}, those, simulator=simulator, simulations=made)


def test_a_missing_p_says_why():
    same, none = (scored({"probe": "x"}, {"probe": probe(g)}, simulator=Answers(
        lambda job: Prediction(tuple(RNG.random(p.shape) for p in job.exemplar.patch_acts)))).iloc[0]
        for g in ([(4, 4)] * N, [(3 + i, 4) for i in range(N)]))  # fmt: skip
    assert same.p > 0 and same.note == ""
    assert np.isnan(none.p) and np.isfinite(none.r) and "same shape" in none.note
    few = scored({"probe": "red regions"}, {"probe": probe([(4, 4)] * 2)}).iloc[0]
    assert few.note == "no test exemplars"
    blind = scored({"probe": "x"}, {"probe": probe([(4, 4)] * N)},
                   simulator=Answers(lambda job: Prediction((np.full((4, 4), np.nan),)))).iloc[0]  # fmt: skip
    assert "activation and a prediction" in blind.note


def test_patches_without_a_value_take_nothing_from_the_rest():
    grids, places = [RNG.random((4, 4)) for _ in range(N)], RNG.permutation(N)
    grids[places[0]][1, 1] = 9.0
    for place in places[: N // 2]:
        grids[place][0, 0] = np.nan
    images = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in range(N)]
    evidence = vn.Evidence.from_arrays("probe", images=images, patch_acts=grids)
    assert evidence.peak == 9.0 and evidence.exemplars[0].seen.sample == places[0]
    assert scored({"probe": "x"}, {"probe": evidence}, simulator=Answers(
        lambda job: Prediction(job.exemplar.patch_acts))).r[0] == pytest.approx(1)  # fmt: skip


@pytest.mark.parametrize(("given", "said"), [
    ({"images": [["picture"]], "patch_acts": [np.zeros((4, 4))]}, "list in images"),
    ({"images": ["photo.png"], "patch_acts": [np.zeros((4, 4))]}, "str in images"),
    ({"tokens": ["a dog"], "token_acts": [np.zeros(5)]}, "one string"),
])  # fmt: skip
def test_evidence_of_what_is_no_picture_and_no_tokens_is_refused(given, said):
    with pytest.raises(ValueError, match=f"probe, sample 0: .*{said}"):
        vn.Evidence.from_arrays("probe", **given)


def test_one_neuron_scored_anew_keeps_the_nulls_that_it_has_among_all():
    made = {p.evidence.neuron: p for p in planted.neurons("color", n=5, seed=seeds.PLANTED)}
    evidence, said = ({k: f(p) for k, p in made.items()} for f in (
        lambda p: p.evidence, lambda p: p.rule.explanations["true"]))  # fmt: skip
    every = scored(said, evidence, n_null=20).set_index("neuron")
    key = every.n_null.idxmax()
    alone = scored({key: said[key]}, evidence, n_null=20, pool=said).iloc[0]
    assert alone.n_null == every.n_null[key] > 0 and alone.r_null == pytest.approx(every.r_null[key])
    assert scored({key: said[key]}, evidence, n_null=20).n_null[0] == 0


@pytest.mark.parametrize(("ids", "n_null"), [(("L1E0N0", "L1E1N3"), 1), (("L1E0N0", "post:L1E0N3"), 0),
                                             (("L1E0N0", "L2E0N3"), 0), (("L1N0", "L1E1N3"), 1)])  # fmt: skip
def test_nulls_come_from_the_layer_whatever_the_expert(ids: tuple[str, str], n_null: int):
    pair = zip(ids, planted.neurons("color", n=2, seed=seeds.PLANTED), strict=True)
    evidence = {i: replace(p.evidence, neuron=i) for i, p in pair}
    apart = {i: replace(e, exemplars=[x for x in e.exemplars if (x.group, x.split) != ("top", "explain")])
             for i, e in evidence.items()}  # fmt: skip
    assert scored(dict.fromkeys(ids, "red regions"), apart, n_null=5).n_null.tolist() == [n_null, n_null]


def test_nulls_share_no_image_even_under_another_number():
    from vlm_neurons.autointerp.scorers.other_explanations import others

    images = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in range(N)]
    patches = [np.full((4, 4), float(i)) for i in range(N)]
    one = vn.Evidence.from_arrays("one", images=images, patch_acts=patches)
    tested = {e.seen.sample for e in one.split("test") if e.group == "top"}
    strong = [np.full((4, 4), 99.0 + i if i in tested else 0.0) for i in range(N)]
    two = vn.Evidence.from_arrays("two", images=images, patch_acts=strong, sample_ids=range(100, 100 + N))
    said, rng = {"one": "red", "two": "blue"}, np.random.default_rng(0)

    def alike(_: str) -> tuple[str, str]:
        return "gate 0", "visual"

    assert others("one", said, {"one": one, "two": two}, 20, rng, alike) == []
    elsewhere = probe([(4, 4)] * N, "two")  # of the same numbers, but other pictures
    assert others("one", said, {"one": one, "two": elsewhere}, 20, rng, alike) == ["blue"]


def test_a_sink_does_not_lift_its_cell_in_the_ceiling():
    evidence = probe([(4, 4)] * N)
    (e, *_) = evidence.split("test")
    sinks = np.zeros((4, 4), bool)
    sinks[0, 0] = True
    patches = np.zeros((4, 4))
    patches[0, 0], patches[3, 3] = 100.0, evidence.peak
    e = replace(e, seen=replace(e.seen, patch_sinks=(sinks,)), patch_acts=(patches,))
    pieces = pieces_of(evidence, [e], [Prediction((np.zeros((4, 4)),))], "picture")
    (piece,) = resolved(pieces, Resolution(grid=(2, 2)))
    assert piece.simulated[0, 1] == 0 and piece.simulated[3, 3] == 2.5


def test_tables_without_rows_have_the_columns_of_others():
    empty = scored({}, {})
    assert list(empty.columns) == list(scored({"probe": ""}, {"probe": probe([(4, 4)] * 2)}).columns)
    assert vn.autointerp.score_statistics(empty).n.tolist() == [0]


def test_wrong_types_and_numbers_are_named_before_anything_is_simulated(tmp_path: Path):
    evidence = {"probe": probe([(4, 4)] * N)}

    def never(job: Job) -> Any:
        raise AssertionError("simulated")

    for options, said in (
        ({"seed": -1}, "seed=-1: give a whole"), ({"seed": None}, "seed=None"), ({"n_null": -1}, "^n_null=-1"),
        ({"n_null": "2"}, "n_null='2'"), ({"n_null": 2.5}, "n_null=2.5"), ({"n_permutations": 1e4}, "n_permutations="),
        ({"pool": ["blue"]}, "pool: list; give a dict"),
        ({"simulations": {("probe", "picture"): 3}}, r"simulations\[\('probe', 'picture'\)\]: int"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            scored({"probe": "x"}, evidence, simulator=Answers(never), **options)
    with pytest.raises(TypeError, match="out=3: give"):
        scored({"probe": "x"}, evidence, simulator=Answers(never), out=3)
    with pytest.raises(KeyError, match="zzz: an explanation without evidence"):
        scored({"probe": "x"}, evidence, simulator=Answers(never), pool={"zzz": "blue"})
    for words, of, said in ((["red"], evidence, "explanations: list"), ("red", evidence, "explanations: str"),
                            ({"probe": "x"}, [1], "evidence: list"),
                            ({"probe": "x"}, {"probe": 3}, r"\['probe'\]: int"),
                            ({"probe": "x"}, evidence["probe"], "evidence: Evidence")):  # fmt: skip
        for use in (scored, vn.simulate, lambda w, e: vn.autointerp.detect(w, e, vn.simulators.ApiJudge("m"))):
            with pytest.raises(ValueError, match=said):
                use(words, of)
    with pytest.raises(ValueError, match="judge='api': give an object"):
        vn.autointerp.detect({"probe": "x"}, evidence, "api")
    with pytest.raises(KeyError, match="by='zz' is no column"):
        vn.autointerp.score_statistics(scored({}, {}), by="zz")
    with pytest.raises(ValueError, match="picture='concepts': give a simulator object"):
        vn.simulators.BothSides(picture="concepts", text=vn.simulators.ConceptSimulator())
    with pytest.raises(ValueError, match="oracle: probe is none of its planted neurons"):
        scored({"probe": "x"}, evidence, simulator=Oracle())


@pytest.mark.parametrize("name", ["scores", "simulations"])
def test_a_damaged_file_is_named_before_anything_is_simulated(tmp_path: Path, name: str):
    def never(job: Job) -> Any:
        raise AssertionError("simulated")

    simulator, evidence = Answers(never), {"probe": probe([(4, 4)] * N)}
    file = table_file(tmp_path, name, simulator.name, mark_of(simulator))
    file.parent.mkdir()
    for content in (b"", b"PAR1 and no more"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}/mine-\w+\.parquet cannot be read: .*Move it away"):
            scored({"probe": "x"}, evidence, simulator=simulator, out=tmp_path)
    pd.DataFrame({"neuron": ["probe"]}).to_parquet(file)
    with pytest.raises(ValueError, match=rf"{name}/mine-\w+\.parquet cannot be read: it is not of format"):
        scored({"probe": "x"}, evidence, simulator=simulator, out=tmp_path)


def test_key_and_neuron_are_one():
    one = probe([(4, 4)] * N)
    for use in (scored, vn.simulate):
        with pytest.raises(ValueError, match=r"evidence\['mine'\] is of neuron 'probe': key and neuron are one; use"):
            use({"mine": "red regions"}, {"mine": one})
        with pytest.raises(ValueError, match=r"explanations\['probe'\] is of neuron 'other'"):
            use({"probe": Explanation("other", "red")}, {"probe": one})
    with pytest.raises(ValueError, match="key and neuron are one"):
        vn.explain({"mine": one})

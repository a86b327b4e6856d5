"""Cards say what the tables say, pictures show what the arrays hold, and what cannot be shown is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seeds
from hostile import HOSTILE
from matplotlib.figure import Figure
from neurons_shown import evidence, hostile, row, score, simulation
from PIL import Image, ImageColor
from test_layers import random_table

from vlm_neurons.autointerp.explanation import Explanation, Failure
from vlm_neurons.autointerp.protocols import Prediction
from vlm_neurons.evidence import Evidence
from vlm_neurons.viz import (
    compare_neurons,
    show_distribution,
    show_layers,
    show_neuron,
    show_scores,
    to_circuitsvis,
)
from vlm_neurons.viz.card_charts import along, segments
from vlm_neurons.viz.card_content import choose, tops_of
from vlm_neurons.viz.card_figure import CHART, MARGIN
from vlm_neurons.viz.card_html import card_html
from vlm_neurons.viz.colours import COLORS, cividis
from vlm_neurons.viz.drawing import DPI, pixels, svg
from vlm_neurons.viz.figures import layers_figure
from vlm_neurons.viz.html_pages import styles
from vlm_neurons.viz.wording import number

SCALE = DPI / 72  # pixels a unit
FAILED = Prediction(failure=Failure("server", "503"))


def told_by(view: Any) -> str:
    """The words of its figure."""
    return " ".join(text.get_text() for axes in view.static().axes for text in axes.texts)


def text_of(view: Any) -> str:
    return unescape(re.sub(r"<[^>]+>", "", view.fragment.html))


def test_the_card_says_class_explanation_score_null_and_interval() -> None:
    made = evidence(seeds.rng())
    told = Explanation("L3N17", "red things", "and more", 0.8, "reader", "model-1")
    text = text_of(show_neuron(made, row("L3N17"), told, None, score("L3N17")))
    for words in (
        "visual 70 %", "text 10 %", "multi-modal 16 %", "unknown 4 %", "not confident", "50 top samples",
        "red things", "and more", "reader · model-1 · its own confidence 0.80",
        "r = .41 [.30, .52], other neurons' explanations reach .03, ceiling .97", "q < .001", "60 images",
    ):  # fmt: skip
        assert words in text


def test_a_whole_table_gives_the_row_of_the_neuron() -> None:
    made = evidence(seeds.rng())
    table = pd.DataFrame([row("L0N1", label="text"), row("L3N17"), row("L9N9", label="unknown")])
    for given in (table, table.iloc[1], table.iloc[1:2], row("L3N17")):
        assert "visual 70 %" in text_of(show_neuron(made, given))


def test_what_is_missing_is_told_and_never_shown_as_zero() -> None:
    rng = seeds.rng()
    made = evidence(rng)
    bare = text_of(show_neuron(made))
    assert "r =" not in bare and "ceiling" not in bare and "visual 0" not in bare and "multi-modal" in bare
    missing = text_of(show_neuron(made, score=score("L3N17", r=np.nan, r_low=np.nan, note="constant simulation")))
    assert "No score: constant simulation." in missing and "r =" not in missing
    nothing = text_of(show_neuron(made, score=score("L3N17", r_null=np.nan, ceiling=np.nan, q=np.nan)))
    assert "no null was measured" in nothing and "ceiling" not in nothing and "q " not in nothing
    failed = Explanation("L3N17", "", failure=Failure("refusal", "I would rather not"))
    assert "No explanation: refusal. I would rather not" in text_of(show_neuron(made, explanation=failed))
    whole = simulation(rng, made)
    broken = {key: replace(one, predictions=(FAILED,) * len(one.samples)) for key, one in whole.items()}
    for side, one in broken.items():
        text = text_of(show_neuron(made, simulation=one))
        assert "No simulation of this sample: server. 503" in text and f"{one.n_failed} simulations failed" in text
        assert 'data-name="simulated"' not in show_neuron(made, simulation=one).fragment.html, side
    text = text_of(show_neuron(made, simulation=broken))
    assert "No simulation of its pictures: server. 503 No simulation of its text: server. 503" in text
    assert f"{sum(one.n_failed for one in broken.values())} simulations failed" in text


def test_a_card_shows_both_sides_and_says_which_a_score_is_of() -> None:
    rng = seeds.rng()
    made = evidence(rng)
    both, key = simulation(rng, made), ("L3N17", "text")
    rows = pd.DataFrame([score("L3N17", side="picture", r=0.61), score("L3N17", side="text", r=0.72)])
    for side, names in ((None, {"maps", "strips"}), ("picture", {"maps"}), ("text", {"strips"})):
        given = both if side is None else both["L3N17", side]
        shown = show_neuron(made, simulation=given).fragment.html.split("Real and simulated")[1].split("</section>")[0]
        found = {n for n, c in (("maps", "vn-map"), ("strips", "vn-strip")) for part in shown.split(f'class="{c}"')[1:]
                 if 'data-name="simulated"' in part.split(">")[0]}  # fmt: skip
        assert found == names
    text = text_of(show_neuron(made, score=rows))
    assert "on pictures: r = .61 [.30, .52]" in text and "on text: r = .72" in text
    assert (
        "on text: r = .72" in text_of(show_neuron(made, score=rows.iloc[1]))
        and pixels(show_neuron(made, simulation=both, score=rows).static()).height
        > pixels(show_neuron(made, simulation=both, score=rows.iloc[0]).static()).height
    )
    half = show_neuron(
        made, simulation=both | {key: replace(both[key], predictions=(FAILED,) * len(both[key].samples))}
    )
    assert "No simulation of its text: server. 503" in text_of(half) and "of its pictures" not in text_of(half)
    assert 'data-name="simulated"' in half.fragment.html
    without = score("L3N17", side="text", r=np.nan, note="constant simulation")
    assert "No score on text: constant simulation." in text_of(show_neuron(made, score=without))
    nobody = simulation(rng, evidence(rng, "L1N1"))
    assert "Real and simulated" not in text_of(show_neuron(made, simulation=nobody))  # of those it takes its own


def test_a_card_takes_a_neuron_without_text_and_one_without_images() -> None:
    made = evidence(seeds.rng(), n_images=2)
    sees = card_html(made.only("picture"))
    assert 'class="vn-map"' in sees.html and "vn-strip" not in sees.html and "tokens" not in _scales(sees.html)
    assert not sees.circuitsvis  # no bundle for nothing
    words = Evidence.from_arrays("words", tokens=[["a", " cat"], ["b"]], token_acts=[np.array([0.0, 2]), np.ones(1)])
    reads = card_html(words)
    assert "vn-strip" in reads.html and 'class="vn-map"' not in reads.html and "patches" not in _scales(reads.html)
    assert "vn-hide" not in reads.html  # there is no heat to hide
    for one in (made.only("picture"), words):
        assert pixels(show_neuron(one).static()).width == 1600


def test_a_picture_of_a_card_names_the_classes_beside_their_colours() -> None:
    picture = np.asarray(pixels(show_neuron(evidence(seeds.rng()), row("L3N17")).static()))
    for color, _ in COLORS.values():
        rows = np.where((picture == ImageColor.getrgb(color)).all(-1).any(1))[0]
        gap = np.diff(rows[rows < 300]).max()
        assert gap > 5, color  # it stands in the bar and again below, in the legend


def _scales(html: str) -> str:
    return html.split('class="vn-scales"')[1].split("</div>")[0]


def test_a_sink_does_not_stretch_the_colour_scale_and_is_named_as_one() -> None:
    made = evidence(seeds.rng())
    assert all(e.token_acts[0] == 50 for e in made.exemplars)
    scale = tops_of(made)[1]
    counted = [e.token_acts[e.scored_tokens()].max() for e in made.exemplars]
    counted += [p.max() for e in made.exemplars for p in e.patch_acts]
    assert scale == pytest.approx(float(max(counted))) and scale < 10
    assert "50; template, not counted; draws activation whatever the content (sink)" in card_html(made).html


def test_the_marks_of_sinks_are_explained_where_there_are_sinks_and_only_there() -> None:
    made = evidence(seeds.rng())
    calm = tuple(replace(e, seen=replace(e.seen, token_sinks=e.seen.token_sinks & False)) for e in made.exemplars)
    hot = tuple(replace(e, seen=replace(e.seen, patch_sinks=tuple(s | True for s in e.seen.patch_sinks))) for e in calm)
    cases = (
        (made, True, False),
        (replace(made, exemplars=calm), False, False),
        (replace(made, exemplars=hot), False, True),
    )
    for one, tokens, patches in cases:
        legend = unescape(re.sub("<[^>]+>", "", _scales(card_html(one).html)))
        assert ("dotted: sink, not counted" in legend) == tokens and ("sink patch, not counted" in legend) == patches
        told = told_by(show_neuron(one))
        assert ("dotted: sink, not counted" in told) == tokens and ("sink patch, not counted" in told) == patches
    dots = [
        [line for line in show_neuron(one).static().axes[0].lines if line.get_linestyle() == ":"]
        for one in (made, replace(made, exemplars=calm))
    ]
    assert len(dots[0]) == len(made.exemplars) and dots[1] == []  # the mark stands under the token


def test_rows_and_simulations_of_another_neuron_are_refused() -> None:
    rng = seeds.rng()
    made = evidence(rng)
    other = simulation(rng, evidence(rng, "L1N1"))["L1N1", "text"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"row": row("L1N1")}, "row= is the row of L1N1"),
        ({"row": pd.DataFrame([row("L1N1")])}, "row= has 0 rows of L3N17"),
        ({"score": pd.DataFrame([score("L3N17")] * 2)}, "score= has 2 rows"),
        ({"score": pd.DataFrame([score("L3N17", side="text")] * 2)}, "score= has 2 rows of L3N17; pass one of each"),
        ({"score": pd.DataFrame([score("L1N1", side="text")])}, "score= has 0 rows of L3N17"),
        ({"row": 3}, "pass a row of the table"),
        ({"simulation": other}, "simulation= is of L1N1"),
        ({"explanation": 3}, "pass a vn.Explanation or a text"),
    ]
    for given, words in cases:
        with pytest.raises(ValueError, match=re.escape(words)):
            show_neuron(made, **given)
    with pytest.raises(ValueError, match="has no exemplars"):
        show_neuron(replace(made, exemplars=()))
    with pytest.raises(ValueError, match=r"\.html or \.png"):
        show_neuron(made).save("card.pdf")
    with pytest.raises(ValueError, match="no column 'r'"):
        show_scores(pd.DataFrame({"neuron": ["L0N0"]}))


def test_a_score_or_a_simulation_of_other_words_is_refused_with_both_texts_and_the_remedy() -> None:
    rng = seeds.rng()
    made = evidence(rng)
    simulated, of_red = simulation(rng, made, "red"), score("L3N17", explanation="red")
    for told in ("blue", Explanation("L3N17", "blue"), Explanation("L3N17", "", failure=Failure("server", "503"))):
        says = "''" if isinstance(told, Explanation) and told.failure else "'blue'"
        for name, given in (("score", of_red), ("score", pd.DataFrame([of_red])), ("simulation", simulated)):
            with pytest.raises(ValueError, match=rf"{name}= is of the explanation 'red', .* {says}; .* vn\.\w+"):
                show_neuron(made, explanation=told, **{name: given})
    for same in ("red", " red\n", Explanation("L3N17", "red"), None):
        assert "r = .41" in text_of(show_neuron(made, None, same, simulated, of_red))
    for untold in (score("L3N17"), {**of_red, "explanation": None}, {**of_red, "explanation": np.nan}):
        assert "r = .41" in text_of(show_neuron(made, explanation="blue", score=untold))


def test_what_is_not_meant_is_refused_with_what_to_give() -> None:
    made = evidence(seeds.rng())
    what = "give the evidence of a neuron, such as vn.gather_evidence"
    cases: list[tuple[Any, str]] = [
        (lambda: show_neuron("L0N1"), f"evidence='L0N1': {what}"),  # type: ignore[arg-type]
        (lambda: show_neuron(None), f"evidence=None: {what}"),  # type: ignore[arg-type]
        (lambda: show_neuron({"L3N17": made}), "evidence= is of 1 neurons; give that of one"),  # type: ignore[arg-type]
        (
            lambda: show_neuron(made, simulation=3),
            "simulation=3: give one, such as vn.simulate(...)['L0N1', 'picture']",
        ),  # type: ignore[arg-type]
        (lambda: show_neuron(made, simulation={"L3N17": 3}), "simulation=3: give one"),  # type: ignore[dict-item]
        (lambda: compare_neurons("a", "b"), f"a='a': {what}"),  # type: ignore[arg-type]
        (lambda: compare_neurons(show_neuron(made), "b"), f"b='b': {what}"),  # type: ignore[arg-type]
        (lambda: to_circuitsvis("x"), f"evidence='x': {what}"),  # type: ignore[arg-type]
        (lambda: to_circuitsvis([made, 3]), f"evidence=3: {what}"),  # type: ignore[list-item]
        (lambda: show_distribution("x"), f"evidence='x': {what}"),  # type: ignore[arg-type]
        (lambda: show_scores(3), "scores=3: give the table that vn.score returns"),  # type: ignore[arg-type]
        (lambda: show_scores([{"r": 1.0}]), "scores=a list: give the table"),  # type: ignore[arg-type]
        (lambda: show_layers("runs/demo"), "table='runs/demo': give the table that vn.classify"),  # type: ignore[arg-type]
    ]
    for call, words in cases:
        with pytest.raises(TypeError, match=re.escape(words)):
            call()
    for threshold in (np.nan, np.inf, -1.0, 11, "2", True):
        with pytest.raises(ValueError, match=re.escape(f"t_text={threshold!r}: give a number from 0 to 10")):
            show_distribution(made, t_text=threshold)  # type: ignore[arg-type]


def test_an_infinite_score_is_none() -> None:
    rows = pd.DataFrame({"neuron": ["a", "b"], "r": [0.5, np.inf], "r_low": [-np.inf, 0.1], "r_high": [0.6, np.inf]})
    view = show_scores(rows)
    assert "2 neurons, median r .50, 1 without a score" in text_of(view) and pixels(view.static()).height > 100
    card = show_neuron(evidence(seeds.rng()), score=score("L3N17", r=-np.inf))
    assert "No score: " in text_of(card) and pixels(card.static()).height > 100


def test_a_token_of_a_million_characters_is_shown_by_its_beginning() -> None:
    long = "x" * 1_000_000
    made = Evidence.from_arrays("wide", tokens=[[long, " cat"]], token_acts=[[1.0, 0.5]], names=[long])
    card = show_neuron(made)
    assert len(card.fragment.html) < 20_000 and "the first of its 1,000,000 characters" in card.fragment.html
    assert "x" * 199 + "…" in text_of(card) and " cat" in text_of(card) and pixels(card.static()).height < 2000


def test_half_a_character_in_any_text_does_not_keep_a_card_from_being_saved(tmp_path: Path) -> None:
    half = "\ud800"
    made = Evidence.from_arrays(f"pro{half}be", tokens=[["a"]], token_acts=[[1.0]], names=[half])
    card = show_neuron(made, explanation=half)
    for view in (card, compare_neurons(card, made), show_distribution(made)):
        page = view.save(tmp_path / "card.html").read_text(encoding="utf-8")
        assert "pro‹U+D800›be" in page.split("<title>")[1].split("</title>")[0] and "pro‹U+D800›be" in repr(view)
        assert view.save(tmp_path / "card.png").stat().st_size > 1000


def test_what_is_not_there_is_neither_named_nor_called_nan() -> None:
    made = Evidence.from_arrays(
        "blank", images=[Image.new("RGB", (8, 8))], patch_acts=[np.ones((2, 2))], tokens=[["a"]],
        token_acts=[np.ones(1)],
    )  # fmt: skip
    silent = replace(made.exemplars[0], patch_acts=(np.full((2, 2), np.nan),), token_acts=np.full(1, np.nan))
    blank = replace(made, peak=-np.inf, exemplars=(silent,))
    page = show_neuron(blank).fragment.html
    assert "largest activation –" in text_of(show_neuron(blank)) and "nan" not in page and "-inf" not in page
    words = Evidence.from_arrays("words", tokens=[["a", " cat"]], token_acts=[np.array([0.0, 2.0])])
    assert "orange frame" not in text_of(show_neuron(words))
    assert "orange frame" in text_of(show_neuron(evidence(seeds.rng())))


def test_a_null_tells_on_how_many_explanations_it_rests() -> None:
    made = evidence(seeds.rng())
    assert "null from 1 explanation)" in text_of(show_neuron(made, score=score("L3N17", n_null=1, n_failed=0)))
    assert "null from 7 explanations" in text_of(show_neuron(made, score=score("L3N17", n_null=7)))
    assert "null from" not in text_of(show_neuron(made, score=score("L3N17", n_null=0, r_null=np.nan)))


def test_a_very_tall_picture_does_not_make_an_endless_card() -> None:
    tall = Evidence.from_arrays("tall", images=[Image.new("RGB", (10, 1000))], patch_acts=[np.ones((100, 1))])
    assert pixels(show_neuron(tall).static()).height < 2000


def test_every_view_shows_in_a_notebook_and_is_saved_as_page_and_as_picture(tmp_path: Path) -> None:
    made = evidence(seeds.rng())
    views = [
        show_neuron(made), show_layers(random_table(2, 20)), show_distribution(made), compare_neurons(made, made),
        show_scores(pd.DataFrame([score("L3N17", label="visual")])),
    ]  # fmt: skip
    for view in views:
        assert view.fragment.html in view._repr_html_()
        assert view.fragment.html in view.save(tmp_path / "view.html").read_text(encoding="utf-8")
        still = view.static()
        with Image.open(view.save(tmp_path / "view.png")) as picture:
            assert len(set(picture.convert("L").getdata())) > 10
        assert still._repr_png_() == (tmp_path / "view.png").read_bytes()  # what a notebook shows
        assert isinstance(still, Figure)


def test_a_card_has_samples_of_every_strength_and_a_colour_bar_with_its_maximum_for_each_modality() -> None:
    made = evidence(seeds.rng())
    card = show_neuron(made)
    for group, title in (("top", "strongest"), ("quantile", "lower quantiles"), ("random", "random samples")):
        assert any(e.group == group for e in made.exemplars)
        assert re.search(rf"<h4>{title}.*?<figure", card.fragment.html, re.S | re.I)
    patches, tokens = tops_of(made)
    bars = re.search(
        r"patches: 0 <img.*?> (\S+)</span>.*tokens: 0 <span.*?</span> (\S+)</span>", card.fragment.html, re.S
    )
    assert bars is not None and bars.groups() == (number(patches), number(tokens))


def test_layers_of_another_table_are_refused_and_of_an_empty_one_told() -> None:
    table = random_table(2, 20)
    with pytest.raises(ValueError, match="no column 'site'"):
        show_layers(table.drop(columns="site"))
    with pytest.raises(ValueError, match="the label 'both'"):
        show_layers(table.assign(label="both"))
    assert "No neuron has a class" in text_of(show_layers(table.iloc[:0]))


def test_scores_from_elsewhere_may_lack_numbers() -> None:
    rows = [
        {"neuron": "a", "r": 0.5, "r_low": None, "r_high": None, "r_null": None, "q": None},
        {"neuron": "b", "r": None},
    ]
    assert "2 neurons, median r .50, 1 without a score" in text_of(show_scores(pd.DataFrame(rows, dtype=object)))


def test_a_page_stores_a_picture_once_however_many_cards_show_it() -> None:
    one = evidence(seeds.rng())
    cards = [card_html(replace(one, neuron=f"L0N{i}"), per_group=1) for i in range(5)]
    strongest, groups = choose(one, 1)
    pictures = {e.seen.image_digests for e in (strongest, *(e for es in groups.values() for e in es))}
    assert styles(cards).count("background-image:") == len(pictures)
    assert all(address not in card.html for card in cards for address in card.images.values())


def test_same_neuron_same_bytes(tmp_path: Path) -> None:
    made = evidence(seeds.rng())
    for name in ("card.html", "card.png"):
        first = show_neuron(made, row("L3N17"), "red").save(tmp_path / name).read_bytes()
        assert show_neuron(made, row("L3N17"), "red").save(tmp_path / name).read_bytes() == first


def test_the_picture_has_its_brightest_heat_at_the_strongest_patch(tmp_path: Path) -> None:
    rng = seeds.rng()
    made = evidence(rng)
    e, _ = choose(made, 3)
    values = rng.uniform(0, 0.4, e.patch_acts[0].shape).astype(np.float32) * made.peak
    values[-1, 0] = made.peak
    black = Image.new("RGB", (48, 48))
    seen = replace(e.seen, images=(black,), boxes=e.seen.boxes)
    only = replace(made, exemplars=(replace(e, seen=seen, patch_acts=(values,)),), label=None)
    picture = Image.open(show_neuron(only).save(tmp_path / "card.png")).convert("RGB")
    drawn = np.asarray(picture).astype(int)
    # the plain picture is black, 188 units wide, and the heat stands four units to its right
    width = (380 - 4) / 2
    rows, columns = np.where((drawn == 0).all(-1) & (np.arange(drawn.shape[1]) < (MARGIN + width) * SCALE))
    top, left = int(rows.min()), int(columns.min()) + round((width + 4) * SCALE)
    n_rows, n_columns = values.shape
    centres = np.array(
        [
            [
                drawn[
                    round(top + (r + 0.5) * width * SCALE / n_rows), round(left + (c + 0.5) * width * SCALE / n_columns)
                ]
                for c in range(n_columns)
            ]
            for r in range(n_rows)
        ]
    )
    expected = 224 / 255 * cividis(values / made.peak).astype(float)
    np.testing.assert_allclose(centres, expected, atol=3)
    brightness = centres.sum(-1)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (n_rows - 1, 0)


def test_pictures_of_hostile_and_endless_texts_are_drawn() -> None:
    parts = hostile(seeds.rng())
    parts["explanation"] = replace(parts["explanation"], text="x" * 3000, description="long " * 900)
    parts["simulation"] = {k: replace(one, explanation="x" * 3000) for k, one in parts["simulation"].items()}
    picture = pixels(show_neuron(**parts).static())
    drawn = np.asarray(picture)
    assert picture.width == 1600 and (drawn[:, :8] == 255).all() and (drawn[:, -8:] == 255).all()  # margins stay free
    assert (drawn < 100).any()


def test_the_sequence_of_a_figure_has_a_bar_for_every_place_as_tall_as_its_value() -> None:
    made = evidence(seeds.rng())
    e, _ = choose(made, 3)
    parts = segments(e)
    values = along(e, parts)
    bars = [bar for group in show_neuron(made).static().axes[0].containers for bar in group]
    heights = np.array([-bar.get_height() for bar in bars])
    assert len(bars) == len(values) == sum(n for *_, n in parts)
    np.testing.assert_allclose(heights, CHART * np.clip(np.nan_to_num(values), 0, None) / np.nanmax(values), atol=1e-4)
    assert np.allclose(np.diff([bar.get_x() for bar in bars]), bars[0].get_width())


def test_the_picture_of_the_layers_has_every_bar_in_its_colour() -> None:
    table = random_table(3, 60).assign(label="visual")
    drawn = np.asarray(pixels(show_layers(table).static()))
    share = (drawn == [0x00, 0x72, 0xB2]).all(-1).mean(1)
    assert (share > 0.6).sum() > 3 * 20  # rows of pixels of three bars, and of the one of all layers
    html = show_layers(table).fragment.html
    assert html.count("</svg>") == 1 and svg(layers_figure(table)) in html


def test_the_distribution_counts_what_is_above_the_thresholds() -> None:
    made = evidence(seeds.rng())
    t_visual, t_text = 1.5, 4.0
    text = text_of(show_distribution(made, t_visual, t_text))
    named = {"top": "top samples", "random": "random samples below the top 4"}
    for group in ("top", "random"):
        chosen = [e for e in made.exemplars if e.group == group]
        patches = np.concatenate([made.scale(p).ravel() for e in chosen for p in e.patch_acts])
        tokens = np.concatenate([made.scale(e.token_acts)[e.scored_tokens()] for e in chosen])
        for values, unit, threshold in ((patches, "patches", t_visual), (tokens, "tokens", t_text)):
            share = (values > threshold).mean()
            words = f"{100 * share:.0f} % of {len(values):,} in {named[group]}"
            assert f"{unit} above {number(threshold)}" in text
            assert words in text or 0 < share < 0.005
    only = text_of(show_distribution(made.only("picture")))
    assert "image patches" in only and "text tokens" not in only


def test_random_samples_are_said_to_be_those_below_the_top_ones() -> None:
    made = evidence(seeds.rng())
    for view in (show_neuron(made), show_distribution(made)):
        assert "random samples below the top 4" in text_of(view).lower()
    without = replace(made, exemplars=tuple(e for e in made.exemplars if e.group != "top"))
    assert "random samples that are not its top samples" in text_of(show_distribution(without))


def test_scores_are_counted_by_class_with_those_that_are_missing() -> None:
    rows = [score(f"L0N{i}", label="visual", r=0.1 * i, q=0.01 if i > 3 else 0.2) for i in range(10)]
    rows += [score("L1N0", label="text", r=np.nan, q=np.nan), score("L1N1", label=HOSTILE[0])]
    view = show_scores(pd.DataFrame(rows))
    text = text_of(view)
    assert "10 neurons, median r .45, their null .03, 60 % with q < .05" in text
    assert "1 neuron, 1 without a score" in text and HOSTILE[0] in text
    squares = view.static().axes[1].collections[-1]  # of the class that comes first
    assert squares.get_offsets()[:, 1].tolist() == pytest.approx(sorted((0.1 * i for i in range(10)), reverse=True))
    assert squares.get_alpha().tolist() == [1] * 6 + [0.45] * 4
    assert "No scores" in text_of(show_scores(pd.DataFrame({"r": [], "label": []})))


def test_compared_neurons_share_their_scales() -> None:
    rng = seeds.rng()
    small, large = evidence(rng, "L0N0"), evidence(rng, "L0N1")
    stretched = [
        replace(e, patch_acts=tuple(3 * p for p in e.patch_acts), token_acts=3 * e.token_acts) for e in large.exemplars
    ]
    large = replace(large, exemplars=tuple(stretched), peak=3 * large.peak)
    html = compare_neurons(small, show_neuron(large, explanation="red")).fragment.html
    scales = re.findall(r'class="vn-scales">(.*?)</div>', html, re.S)
    assert len(scales) == 2 and scales[0] == scales[1] and f"{number(tops_of(large)[0])}</span>" in scales[0]
    assert pixels(compare_neurons(small, large).static()).width == 3200


def test_tokens_for_circuitsvis_read_as_they_are_with_finite_values_and_bounds() -> None:
    made = evidence(seeds.rng())
    e = made.exemplars[2]
    given = to_circuitsvis(made, e.seen.sample)
    assert [t.replace("\u2060", "") for t in given["tokens"]][:6] == ["<s>", "USER", "<image>", ":", "↵", " look"]
    assert not any(re.search(r"[<&][^\u2060]", token) for token in given["tokens"])
    assert given["values"] == pytest.approx([*e.token_acts[:2].tolist(), 0, *e.token_acts[2:].tolist()], abs=1e-3)
    assert given["max_value"] == -given["min_value"] == max(map(abs, given["values"]))
    blank = replace(
        made, exemplars=tuple(replace(x, token_acts=np.full(len(x.token_acts), np.nan)) for x in made.exemplars)
    )
    assert to_circuitsvis(blank) == {**to_circuitsvis(made), "values": [0.0] * 17, "min_value": -1.0, "max_value": 1.0}
    several = to_circuitsvis([made, blank], e.seen.sample)
    assert several["values"].shape == (17, 2) and several["labels"] == ["L3N17", "L3N17"]
    for bad, words in (((made, 99), "no exemplar of sample 99"), (([made] * 6,), "6 neurons")):
        with pytest.raises(ValueError, match=words):
            to_circuitsvis(*bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no text"):
        to_circuitsvis(Evidence.from_arrays("x", images=[Image.new("RGB", (8, 8))], patch_acts=[np.ones((2, 2))]))

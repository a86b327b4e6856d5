"""What a reader of a card sees and can do, in a real browser with real mouse and keyboard and without network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
from browser import CSP
from driver import Tab, audit, browser
from hostile import HOSTILE
from neurons_shown import evidence, hostile, row, score, simulation

from vlm_neurons.autointerp.explanation import Explanation
from vlm_neurons.viz import compare_neurons, show_distribution, show_layers, show_neuron, show_scores, to_circuitsvis
from vlm_neurons.viz.card_charts import WIDTH
from vlm_neurons.viz.card_content import choose
from vlm_neurons.viz.card_html import card_html
from vlm_neurons.viz.html_pages import bundle_text, document
from vlm_neurons.viz.wording import visible

DRAWN = "[...document.querySelectorAll('.vn-strip')].every(e => e.dataset.state === 'drawn')"
SPANS = "[...e.querySelectorAll(e.classList.contains('vn-drawn') ? '.colored-tokens > span' : '.vn-token')]"
FIRST = "document.querySelector('.vn-exemplar')"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as one:
        yield one


@pytest.fixture(autouse=True)
def quiet(tab: Tab) -> Iterator[None]:
    """No test leaves a request or a complaint behind, but those that look for them."""
    tab.console.clear()
    tab.requests.clear()
    yield
    assert tab.requests == [] and tab.console == []


def opened(tab: Tab, view: Any, path: Path, **how: Any) -> Path:
    file = view.save(path / "card.html")
    tab.open(file, **how)
    scrolled(tab)
    return file


def scrolled(tab: Tab) -> None:
    """Every strip comes near the window once, and circuitsvis has drawn it."""
    tab.run(
        "(async () => { for (const e of document.querySelectorAll('.vn-strip')) { e.scrollIntoView();"
        "await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r))) } scrollTo(0, 0) })()"
    )
    tab.until(DRAWN)


def shown_tokens(words: tuple[str, ...]) -> list[str]:
    return [*(visible(w) for w in words[:2]), "<image>", *(visible(w) for w in words[2:])]


@pytest.mark.parametrize("drawn", [True, False])
def test_every_token_is_visible_whoever_draws_it(tab: Tab, tmp_path: Path, drawn: bool) -> None:
    made = evidence(seeds.rng())
    file = show_neuron(made).save(tmp_path / "card.html")
    if not drawn:  # as in an output of a notebook whose first cell is not there
        page = re.sub(r"<script>/\* circuitsvis.*?</script>", "", file.read_text(), flags=re.S)
        assert "vnUnpacking = true" not in page
        file.write_text(page)
    tab.open(file)
    if drawn:
        scrolled(tab)
    strips = tab.run(
        f"[...document.querySelectorAll('.vn-strip')].map(e => {SPANS}.map(t => {{"
        "t.scrollIntoView({block: 'center'});"
        "const ground = getComputedStyle(t.firstElementChild || t).backgroundColor;"
        "const r = t.getBoundingClientRect(), card = e.closest('.vn-card').getBoundingClientRect();"
        "const top = document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2);"
        "return [t.textContent, r.width > 1 && r.height > 8 && r.left >= card.left && r.right <= card.right,"
        "(t === top || t.contains(top)) && ground !== 'rgba(0, 0, 0, 0)'] }))"
    )
    assert len(strips) == 6  # one per exemplar
    for strip in strips:
        assert [t.replace("\u2060", "").replace("\xa0", " ") for t, _, _ in strip] == shown_tokens(
            made.exemplars[0].seen.tokens
        )
        assert all(inside and on_top for _, inside, on_top in strip)
    line = "getComputedStyle(t.firstElementChild || t).textDecorationLine"
    marks = f"[...document.querySelectorAll('.sink')].map(t => {line})"
    assert set(tab.run(marks)) == {"underline"}  # a sink, whoever draws it
    assert {"<s>", "<image>", "</s>", "↵", "&lt;", "<b>"} <= {t.replace("\u2060", "").strip() for t, _, _ in strips[0]}


def test_pointing_at_a_patch_tells_its_row_column_and_value_and_marks_it_everywhere(tab: Tab, tmp_path: Path) -> None:
    rng = seeds.rng()
    made = evidence(rng, n_images=2)
    strongest, _ = choose(made, 3)
    opened(tab, show_neuron(made), tmp_path)
    n_tokens = len(strongest.seen.tokens)
    before = [2, 2 + strongest.patch_acts[0].size]  # two tokens stand before the images
    total = n_tokens + sum(p.size for p in strongest.patch_acts)
    for image, patches in enumerate(strongest.patch_acts):
        rows, columns = patches.shape
        for r, c in [(0, 0), (rows - 1, columns - 1), (int(rng.integers(rows)), int(rng.integers(columns)))]:
            where = f"{FIRST}.querySelectorAll('.vn-map .vn-seen')[{image}]"
            tab.over(where, (c + 0.5) / columns, (r + 0.5) / rows)
            told = tab.run(f"{FIRST}.querySelector('.vn-readout').textContent")
            place, value = re.fullmatch(r"(row \d+, column \d+): (\S+)", told).groups()  # type: ignore[union-attr]
            assert place == f"row {r}, column {c}"
            assert float(value) == pytest.approx(float(patches[r, c]), abs=2e-3)
            box = tab.run(
                f"(() => {{ const a = {where}.getBoundingClientRect(),"
                f"b = {where}.querySelector('.vn-here').getBoundingClientRect();"
                "return [(b.left - a.left) / a.width, (b.top - a.top) / a.height, b.width / a.width] })()"
            )
            assert box == pytest.approx([c / columns, r / rows, 1 / columns], abs=0.02)
            x, width = _cursor(tab)
            assert (x + width / 2) / WIDTH * total == pytest.approx(before[image] + r * columns + c + 0.5, abs=0.01)


def _cursor(tab: Tab) -> tuple[float, float]:
    x, width = tab.run(f"['x', 'width'].map(k => Number({FIRST}.querySelector('.vn-cursor').getAttribute(k)))")
    assert width > 0
    return x, width


def test_pointing_at_a_token_marks_the_chart_and_at_the_chart_the_token(tab: Tab, tmp_path: Path) -> None:
    rng = seeds.rng()
    made = evidence(rng)
    strongest, _ = choose(made, 3)
    opened(tab, show_neuron(made), tmp_path)
    tab.until(f"{FIRST}.querySelector('.vn-drawn') !== null")
    n = len(strongest.seen.tokens)
    total = n + strongest.patch_acts[0].size
    for k in {0, 1, 2, 9, n - 1}:
        position = k if k < 2 else k + strongest.patch_acts[0].size
        told = f"token {k + 1}, “{visible(strongest.seen.tokens[k]).strip()}”: "
        tab.over(f"{FIRST}.querySelectorAll('.colored-tokens > span')[{k if k < 2 else k + 1}]")
        readout = tab.run(f"{FIRST}.querySelector('.vn-readout').textContent")
        assert readout.startswith(told)
        assert float(readout[len(told) :]) == pytest.approx(float(strongest.token_acts[k]), abs=2e-3)
        x, width = _cursor(tab)
        assert (x + width / 2) / WIDTH * total == pytest.approx(position + 0.5, abs=0.01)
        tab.move(0, 0)
        tab.over(f"{FIRST}.querySelector('.vn-seq')", (position + 0.5) / total, 0.5)
        assert tab.run(f"{FIRST}.querySelector('.vn-readout').textContent").startswith(told)
        marked = tab.run(
            f"[...{FIRST}.querySelectorAll('.colored-tokens > span')].map(e => e.classList.contains('vn-on'))"
        )
        assert marked.count(True) == 1 and marked.index(True) == (k if k < 2 else k + 1)


def test_real_and_simulated_values_of_a_place_are_told_together(tab: Tab, tmp_path: Path) -> None:
    rng = seeds.rng()
    made = evidence(rng)
    simulated = simulation(rng, made)
    opened(tab, show_neuron(made, simulation=simulated), tmp_path)
    name = tab.run("document.querySelector('.vn-compared figcaption').textContent").strip().split(": ")[1]
    shown = next(e for e in made.exemplars if e.seen.name == name)
    real, guess = made.scale(shown.patch_acts[0]), simulated["L3N17", "picture"].of(shown.seen.sample).patch_acts[0]
    rows, columns = real.shape
    for _ in range(3):
        r, c = int(rng.integers(rows)), int(rng.integers(columns))
        tab.over("document.querySelectorAll('.vn-compared .vn-map .vn-seen')[1]", (c + 0.5) / columns, (r + 0.5) / rows)
        told = tab.run("document.querySelector('.vn-compared .vn-readout').textContent")
        first, second = re.fullmatch(rf"row {r}, column {c}: real (\S+), simulated (\S+)", told).groups()  # type: ignore[union-attr]
        assert float(first) == pytest.approx(float(real[r, c]), abs=2e-3)
        assert float(second) == pytest.approx(float(guess[r, c]), abs=2e-3)
        assert tab.run("document.querySelectorAll('.vn-here').length") == 2


def test_heat_is_hidden_and_comes_back_by_keyboard(tab: Tab, tmp_path: Path) -> None:
    opened(tab, show_neuron(evidence(seeds.rng())), tmp_path)
    hot = "[...document.querySelectorAll('.vn-heat')].map(e => getComputedStyle(e).visibility)"
    state = "document.querySelector('.vn-hide').getAttribute('aria-pressed')"
    for _ in range(10):
        tab.press("Tab")
        if tab.run("document.activeElement.matches('.vn-hide')"):
            break
    assert set(tab.run(hot)) == {"visible"} and tab.run(state) == "false"
    tab.press("Space")
    assert set(tab.run(hot)) == {"hidden"} and tab.run(state) == "true"
    tab.press("Enter")
    assert set(tab.run(hot)) == {"visible"} and tab.run(state) == "false"


def test_arrow_keys_walk_over_the_patches_and_stop_at_the_edge(tab: Tab, tmp_path: Path) -> None:
    made = evidence(seeds.rng())
    strongest, _ = choose(made, 3)
    columns = strongest.patch_acts[0].shape[1]
    opened(tab, show_neuron(made), tmp_path)
    tab.run(f"{FIRST}.querySelector('.vn-map').focus()")
    told = f"{FIRST}.querySelector('.vn-readout').textContent"
    for _ in range(columns + 2):
        tab.press("ArrowRight")
    assert tab.run(told).startswith(f"row 0, column {columns - 1}:")
    tab.press("ArrowDown")
    tab.press("ArrowLeft")
    assert tab.run(told).startswith(f"row 1, column {columns - 2}:")


def test_the_frame_lies_on_the_strongest_patch_and_the_heat_on_the_picture(tab: Tab, tmp_path: Path) -> None:
    made = evidence(seeds.rng(), n_images=2)
    strongest, _ = choose(made, 3)
    opened(tab, show_neuron(made), tmp_path)
    boxes = tab.run(
        f"[...{FIRST}.querySelectorAll('.vn-map')].map(m => ['.vn-seen', '.vn-heat', '.vn-best'].map(s => {{"
        "const r = m.querySelector(s)?.getBoundingClientRect(); return r && [r.left, r.top, r.width, r.height] }))"
    )
    assert len(boxes) == 2
    for patches, (seen, heat, best) in zip(strongest.patch_acts, boxes, strict=True):
        assert heat == pytest.approx(seen, abs=0.5)
        if patches.max() > 0:
            (rows, columns), (row_, column) = patches.shape, np.unravel_index(patches.argmax(), patches.shape)
            width, height = seen[2] / columns, seen[3] / rows
            place = [seen[0] + column * width, seen[1] + row_ * height, width, height]
            assert best == pytest.approx(place, abs=0.5)


@pytest.mark.parametrize("guarded", [True, False])
def test_hostile_text_in_every_field_runs_nothing_and_breaks_nothing(tab: Tab, tmp_path: Path, guarded: bool) -> None:
    parts = hostile(seeds.rng())
    file = show_neuron(**parts).save(tmp_path / "card.html")
    page = file.read_text()
    if not guarded:
        assert CSP.search(page)
        file.write_text(CSP.sub("", page))
    tab.open(file)
    scrolled(tab)
    for k in range(len(HOSTILE)):  # circuitsvis writes tokens once more into its tooltips
        tab.over(f"{FIRST}.querySelectorAll('.colored-tokens > span')[{k}]")
    tab.run("new Promise(r => setTimeout(r, 200))")
    assert tab.run("[window.pwned ?? null, location.protocol, document.querySelectorAll('.vn-card').length]") == [
        None,
        "file:",
        1,
    ]
    assert (
        tab.run("document.querySelectorAll('.vn-card script, .vn-card iframe, .vn-card link, .vn-card meta').length")
        == 0
    )
    text = tab.run("document.body.textContent").replace("\u2060", "")
    for field in (
        parts["explanation"].text,
        parts["explanation"].explainer,
        parts["evidence"].neuron,
        parts["score"]["note"],
    ):
        assert field in text
    assert tab.run("document.querySelectorAll('.vn-strip.vn-drawn').length") > 6


def test_a_page_of_two_cards_has_one_bundle_and_each_picture_once(tab: Tab, tmp_path: Path) -> None:
    rng = seeds.rng()
    one = evidence(rng)
    two = replace(one, neuron="L3N18")  # the same samples, and so the same pictures
    page = opened(tab, compare_neurons(one, show_neuron(two, explanation="red")), tmp_path).read_text()
    scrolled(tab)
    assert page.count("window.vnUnpacking = true") == 1 and len(page) < 0.6 * len(bundle_text()) + 200_000
    pictures = re.findall(r"\.(vi\w+)\{background-image", page)
    assert len(pictures) == len(set(pictures)) == 6
    assert tab.run("[...document.querySelectorAll('.vn-card')].map(e => e.id)") == ["L3N17", "L3N18"]
    tops = tab.run("[...document.querySelectorAll('.vn-card')].map(e => e.querySelector('.vn-scales').textContent)")
    assert tops[0] == tops[1]


def test_without_scripts_the_content_is_there(tab: Tab, tmp_path: Path) -> None:
    rng = seeds.rng()
    made = evidence(rng)
    view = show_neuron(made, row("L3N17"), "red things", simulation(rng, made, "red things"), score("L3N17"))
    file = view.save(tmp_path / "card.html")
    file.write_text(re.sub(r"<script>.*?</script>", "", file.read_text(), flags=re.S))
    tab.open(file)
    text = tab.run("document.body.innerText")
    for words in (
        "L3N17",
        "visual 70 %",
        "multi-modal 16 %",
        "red things",
        "r = .41 [.30, .52]",
        "reach .03",
        "ceiling .97",
    ):
        assert words in text
    assert tab.run("[...document.querySelectorAll('.vn-token')].every(e => e.getBoundingClientRect().width > 1)")
    assert tab.run("getComputedStyle(document.querySelector('.vn-hide')).display") == "none"  # it could do nothing
    alts = tab.run("[...document.querySelectorAll('.vn-heat')].map(e => e.alt)")
    assert all(re.search(r"row \d+, column \d+ of|no patch is positive", alt) for alt in alts)


@pytest.mark.parametrize(("width", "dark"), [(400, False), (400, True), (1000, True)])
def test_nothing_sticks_out_and_words_stand_out(tab: Tab, tmp_path: Path, width: int, dark: bool) -> None:
    rng = seeds.rng()
    made = evidence(rng)
    view = show_neuron(made, row("L3N17"), "red " * 60, simulation(rng, made, "red " * 60), score("L3N17"))
    opened(tab, view, tmp_path, width=width, dark=dark)
    scrolled(tab)
    assert tab.run("document.documentElement.scrollWidth") <= width
    found = tab.run(
        """(() => {
        const parse = c => { const v = c.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v };
        const over = (below, [r, g, b, a]) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
        const ground = e => { const layers = [];
            for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
            return layers.reverse().reduce(over, [255, 255, 255]) };
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const light = c => c.slice(0, 3).reduce((s, v, i) => s + linear(v / 255) * [.2126, .7152, .0722][i], 0);
        const ratio = e => {const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
            return (Math.max(a, b) + .05) / (Math.min(a, b) + .05)};
        const words = 'h3,h4,p,.vn-soft,figcaption,.vn-token,.colored-tokens > span > span,strong,.vn-scales,' +
            '.vn-legend,button';
        return [light(ground(document.querySelector('.vn-card'))),
            Math.min(...[...document.querySelectorAll(words)].map(ratio))] })()"""
    )
    assert (found[0] < 0.1) == dark and found[1] >= 4.5  # WCAG AA


def test_an_endless_explanation_is_shown_by_its_beginning_and_on_request_as_a_whole(tab: Tab, tmp_path: Path) -> None:
    made = evidence(seeds.rng())
    text = f"red {'<b>things</b> ' * 4000}at the end"
    told = Explanation("L3N17", text, f"{text} of the description")
    opened(tab, show_neuron(made, row("L3N17"), told), tmp_path, width=400)
    height = "document.querySelector('.vn-said').getBoundingClientRect().height"
    assert tab.run(height) < 1500  # two texts of 600 characters in a narrow window
    assert tab.run("document.querySelector('blockquote bdi').innerText.slice(0, 6)") == "red <b"
    assert tab.run("[...document.querySelectorAll('.vn-all')].map(e => e.open)") == [False, False]
    tab.run("document.querySelector('blockquote summary').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('blockquote .vn-all').open") and tab.run(height) > 5000
    assert tab.run("document.querySelector('blockquote .vn-all bdi').innerText") == text
    assert tab.run("document.documentElement.scrollWidth") <= 400
    assert audit(tab) == []


@pytest.mark.parametrize("width", [400, 1000])
def test_in_a_narrow_window_the_explanation_and_r_come_first(tab: Tab, tmp_path: Path, width: int) -> None:
    told = Explanation("L3N17", "red things", "They are red, all of them.")
    shown = show_neuron(evidence(seeds.rng()), row("L3N17"), told, score=score("L3N17", explanation="red things"))
    opened(tab, shown, tmp_path, width=width)
    order = tab.run(
        "['h3', 'blockquote', '.vn-scored', '.vn-more', '.vn-shares', '.vn-exemplar'].map("
        "(e) => [e, document.querySelector('.vn-card ' + e).getBoundingClientRect().top])"
        ".sort((a, b) => a[1] - b[1]).map((e) => e[0])"
    )
    narrow = ["h3", "blockquote", ".vn-scored", ".vn-more", ".vn-shares", ".vn-exemplar"]
    assert order == (narrow if width == 400 else ["h3", ".vn-shares", "blockquote", ".vn-more", ".vn-scored",
                                                  ".vn-exemplar"])  # fmt: skip
    assert tab.run("document.documentElement.scrollWidth") <= width and audit(tab) == []


def test_what_is_read_off_by_pointing_covers_nothing_and_moves_nothing(tab: Tab, tmp_path: Path) -> None:
    opened(tab, show_neuron(evidence(seeds.rng())), tmp_path)
    places = f"[...{FIRST}.children].map((e) => e.getBoundingClientRect().top)"
    before = tab.run(places)
    tab.over(f"{FIRST}.querySelector('.vn-map .vn-seen')", 0.5, 0.5)
    assert tab.run(f"{FIRST}.querySelector('.vn-readout').textContent") != ""
    assert tab.run(places) == pytest.approx(before, abs=0.5)
    gap = f"{FIRST}.querySelector('figcaption').getBoundingClientRect().top - {FIRST}.querySelector('.vn-readout')"
    assert tab.run(f"{gap}.getBoundingClientRect().bottom") >= 0


def test_tokens_that_do_not_count_have_no_colour_whoever_draws_them(tab: Tab, tmp_path: Path) -> None:
    made = evidence(seeds.rng())
    opened(tab, show_neuron(made), tmp_path)
    grounds = "[...document.querySelectorAll('.colored-tokens > span:is(.template, .sink)')].flatMap((e) => " \
        "[e, ...e.querySelectorAll('span')]).map((e) => getComputedStyle(e).backgroundColor)"  # fmt: skip
    found = tab.run(grounds)
    assert len(found) > 3 and set(found) <= {"rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"}


def test_one_sample_of_each_group_stand_side_by_side_where_there_is_room(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "card.html"
    page.write_text(document([card_html(evidence(seeds.rng()), per_group=1)], "card"), encoding="utf-8")
    for width, places in ((1000, 1), (400, 3)):
        tab.open(page, width=width)
        tops = tab.run("[...document.querySelectorAll('.vn-few h4')].map((e) => e.getBoundingClientRect().top)")
        assert len(tops) == 3 and len(set(tops)) == places


def test_charts_of_many_neurons_open_and_are_as_wide_as_the_window_allows(tab: Tab, tmp_path: Path) -> None:
    import pandas as pd
    from test_layers import random_table

    rng = seeds.rng()
    scores = pd.DataFrame([score(f"L0N{i}", r=float(rng.uniform(-0.3, 0.9)), label=HOSTILE[i % 3]) for i in range(40)])
    for view in (show_layers(random_table(4, 50)), show_distribution(evidence(rng)), show_scores(scores)):
        opened(tab, view, tmp_path, width=400)
        assert tab.run("document.documentElement.scrollWidth") <= 400
        assert tab.run("document.querySelector('svg').getBoundingClientRect().width") > 300
        assert tab.run("window.pwned ?? null") is None


def test_words_of_charts_are_readable_and_not_cut_in_a_narrow_and_in_a_wide_window(tab: Tab, tmp_path: Path) -> None:
    import pandas as pd
    from test_layers import random_table

    rng = seeds.rng()
    made = evidence(rng)
    scores = pd.DataFrame([score(f"L0N{i}", label="visual", r=0.5 if i else np.nan) for i in range(40)])
    card = show_neuron(made, row("L3N17"), "red", simulation(rng, made, "red"), score("L3N17"))
    views = (card, show_layers(random_table(4, 50)), show_distribution(made), show_distribution(made, 10, 0),
             show_scores(scores))  # fmt: skip
    for width, view in ((w, v) for w in (400, 1400) for v in views):
        opened(tab, view, tmp_path, width=width)
        words = tab.run(
            "[...document.querySelectorAll('svg text')].map(t => { const r = t.getBoundingClientRect(),"
            "s = t.ownerSVGElement, b = s.getBoundingClientRect(), m = t.getScreenCTM();"
            "return [t.textContent, parseFloat(getComputedStyle(t).fontSize) * m.a,"
            "Math.max(b.left - r.left, r.right - b.right)] })"
        )
        assert len(words) > 5
        for text, size, out in words:
            assert 8.5 <= size <= 21 and out < 2, (text, size, out)


def test_functions_of_circuitsvis_show_every_token_of_what_they_are_given(tab: Tab, tmp_path: Path) -> None:
    from circuitsvis.tokens import colored_tokens, colored_tokens_multi

    rng = seeds.rng()
    made = evidence(rng)
    zeros = replace(
        made, exemplars=tuple(replace(e, token_acts=np.full(len(e.token_acts), np.nan)) for e in made.exemplars)
    )
    calls = [
        ("ColoredTokens", colored_tokens(**to_circuitsvis(made))),
        ("ColoredTokens", colored_tokens(**to_circuitsvis(zeros))),
        ("ColoredTokensMulti", colored_tokens_multi(**to_circuitsvis([made, replace(zeros, neuron="<b>")]))),
    ]
    for element, html in calls:
        given = re.search(r"\{.*\}", html.show_code().split(f"{element},", 1)[1], re.S)
        assert given
        bundle = bundle_text().replace("</script>", "")  # in a string of it; would end the element
        props = given[0].replace("</", "<\\/")
        file = tmp_path / "stock.html"
        file.write_text(
            f'<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="x"></div>'
            f"<script>{bundle}</script>"
            f'<script>CircuitsVis.render("x", CircuitsVis.{element}, {props})</script>',
            encoding="utf-8",
        )
        tab.open(file)
        tab.until("document.querySelector('#x').textContent.length > 0")
        tokens = shown_tokens(made.exemplars[0].seen.tokens)
        text = tab.run("document.querySelector('#x').innerText").replace("\u2060", "").replace("\xa0", " ")
        assert all(token.strip() in text for token in tokens), element
        each = "[...document.querySelectorAll('.colored-tokens > span > span')]"
        boxes = tab.run(f"{each}.map(e => [e.textContent.length, e.getBoundingClientRect().width])")
        assert all(width > 1 for n, width in boxes if n)
        tab.console[:] = [line for line in tab.console if "WebGL" not in line]  # of circuitsvis' own arithmetic
        if element == "ColoredTokens":
            assert len(boxes) == len(tokens)
            assert tab.run(f"{each}.every(e => !getComputedStyle(e).backgroundColor.includes('NaN'))")

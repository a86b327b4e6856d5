"""A reader at work in a report: filters, sorting, addresses, keyboard, print; hostile text everywhere; no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CSP
from driver import Tab, audit, browser
from hostile import HOSTILE, Told

from vlm_neurons.viz.wording import visible

LINES = "[...document.querySelectorAll('#list tbody tr')].filter(r => !r.hidden).map(r => r.dataset.n)"
CARDS = "[...document.querySelectorAll('#cards > *')].filter(c => !c.hidden).map(c => c.id)"


@pytest.fixture(scope="module")
def opened() -> Iterator[Tab]:
    with browser() as found:
        yield found


@pytest.fixture
def tab(opened: Tab) -> Tab:
    opened._ask("Emulation.setScriptExecutionDisabled", value=False)
    opened._ask("Page.navigate", url="about:blank")
    opened.console.clear()
    opened.requests.clear()
    return opened


def best(one: dict[str, Any]) -> float | None:
    """The largest r of a neuron, over its sides."""
    return max((score["r"] for score in one["scores"] if score["r"] is not None), default=None)


def named(told: Told, tab: Tab) -> dict[str, dict[str, Any]]:
    """Address on the page -> numbers of the neuron, in the order in which the page was written."""
    order = tab.run("[...document.querySelectorAll('#list tbody tr')].map(r => r.dataset.n)")
    return dict(zip(order, told.numbers["neurons"], strict=True))


def fill(tab: Tab, where: str, value: str) -> None:
    tab.run(
        f"(() => {{ const e = document.getElementById('{where}'); e.value = {json.dumps(value)};"
        "e.dispatchEvent(new Event('input', {bubbles: true})) })()"
    )


@pytest.mark.parametrize("guarded", [True, False])
def test_hostile_text_in_every_field_neither_runs_nor_breaks_anything(
    told: Told, tab: Tab, tmp_path: Path, guarded: bool
) -> None:
    text = told.page.read_text(encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(text if guarded else CSP.sub("", text), encoding="utf-8")
    tab.open(page)
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    for kind in ("mouseover", "focusin", "click"):  # handlers that a text may have smuggled in
        tab.run(f"document.querySelectorAll('body *').forEach(e => e.tagName === 'A' || "
                f"e.dispatchEvent(new Event('{kind}', {{bubbles: true}})))")  # fmt: skip
    assert tab.run("window.pwned ?? null") is None
    assert tab.run("location.href") == page.as_uri()
    assert tab.requests == [] and tab.console == []
    strange = "iframe, object, embed, base, form, link:not([rel=icon]), svg[onload], [onerror], [onmouseover]"
    assert tab.run(f"document.querySelectorAll({json.dumps(strange)}).length") == 0
    n = len(told.numbers["neurons"])
    assert len(tab.run(LINES)) == len(tab.run(CARDS)) == n
    shown = tab.run("document.body.textContent")
    for one in HOSTILE:
        assert visible(one) in shown or visible(" ".join(one.split())) in shown


def test_the_guarded_page_stops_what_a_driven_browser_would_run(told: Told, tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = told.page.read_text(encoding="utf-8")
    page.write_text(text.replace("<main>", f"<main>{HOSTILE[0]}{HOSTILE[1]}"), encoding="utf-8")
    tab.open(page)
    assert tab.run("window.pwned ?? null") is None and any("Content Security Policy" in c for c in tab.console)
    page.write_text(CSP.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    tab.open(page)
    tab.until("window.pwned === 1")  # so that the tests above would notice


def test_filters_leave_the_neurons_that_they_name(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    numbers = named(told, tab)
    assert tab.run(LINES) == tab.run(CARDS) == list(numbers)
    for where, key in (("by-class", "label"), ("by-layer", "layer")):
        values = sorted({str(n[key]) for n in numbers.values() if n.get(key) is not None})
        for value in values:
            fill(tab, where, value)
            wanted = [a for a, n in numbers.items() if str(n.get(key)) == value]
            assert tab.run(LINES) == tab.run(CARDS) == wanted != []
            assert tab.run("document.getElementById('count').textContent") == f"{len(wanted)} of {len(numbers)} neurons"
        fill(tab, where, "")
    least = float(np.median([best(n) for n in numbers.values() if best(n) is not None]))
    fill(tab, "by-score", f"{least:.2f}")
    wanted = [a for a, n in numbers.items() if (best(n) or -2) >= float(f"{least:.2f}") - 1e-9]
    assert tab.run(LINES) == tab.run(CARDS) == wanted and 0 < len(wanted) < len(numbers)
    tab.run("document.getElementById('all').focus()")
    tab.press("Enter")
    assert tab.run(LINES) == tab.run(CARDS) == list(numbers)


def test_the_search_finds_ids_explanations_and_text(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    numbers = named(told, tab)
    for word in ("BLANKS", "right TO left", "probe"):
        tab.run("document.getElementById('by-text').focus()")
        fill(tab, "by-text", "")
        tab._ask("Input.insertText", text=word)
        found = tab.run(LINES)
        assert found == tab.run(CARDS)
        words = word.lower().split()
        certain = [a for a, n in numbers.items() if all(w in n["explanation"]["text"].lower() for w in words)]
        assert set(certain) <= set(found) and found
    assert [numbers[a]["neuron"] for a in found] == [n["neuron"] for n in numbers.values() if "probe" in n["neuron"]]
    fill(tab, "by-text", "surely nowhere")
    assert tab.run(LINES) == tab.run(CARDS) == []


def test_the_search_looks_into_ids_and_explanations_first_and_says_where_it_found_what(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    numbers, places = named(told, tab), ["id", "explanation", "line", "strongest samples", "several places"]
    for word in ("a", "l0", "probe"):
        fill(tab, "by-text", word)
        lines = tab.run(LINES)
        said = tab.run(f"{LINES}.map((n) => document.querySelector(`#list tr[data-n='${{CSS.escape(n)}}'] th`))"
                       ".map((e) => e.dataset.found)")  # fmt: skip
        assert lines == tab.run(CARDS) and len(lines) > 0
        ranks = [places.index(one.removeprefix("in ")) for one in said]
        assert ranks == sorted(ranks)
        ids = [a for a in lines if word in visible(numbers[a]["neuron"]).lower()]
        assert ids == [a for a, one in zip(lines, said, strict=True) if one == "in id"]
        counts = [f"{ranks.count(n)} in {place}" for n, place in enumerate(places) if n in ranks]
        assert tab.run("document.getElementById('where').textContent") == ", ".join(counts)
    fill(tab, "by-text", "")
    assert tab.run(LINES) == list(numbers) and tab.run("document.getElementById('where').textContent") == ""


def test_an_address_is_found_however_it_is_written_and_one_that_is_not_there_is_named(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    address = next(a for a in named(told, tab) if re.fullmatch(r"L\d+N\d+", a))
    missing = "document.getElementById('missing').textContent"
    for written in (address.lower(), address):
        tab.run("scrollTo(0, 0)")
        tab.run(f"location.hash = '#{written}'")
        top = f"Math.abs(document.getElementById('{address}').getBoundingClientRect().top)"
        tab.until(f"{top} < innerHeight")
        assert tab.run(missing) == ""
    tab.run("location.hash = '#L99N99'")
    tab.until(f"{missing} === 'No neuron L99N99 is on this page.'")
    assert tab.run("!document.getElementById('missing').hidden")
    tab.run("location.hash = '#neurons'")
    tab.until(f"{missing} === ''")


@pytest.mark.parametrize("column", ["score", "peak", "layer", "share"])
def test_columns_sort_by_keyboard_and_what_has_no_value_comes_last(told: Told, tab: Tab, column: str) -> None:
    tab.open(told.page)
    numbers = named(told, tab)

    def value(address: str) -> float | None:
        one = numbers[address]
        return best(one) if column == "score" else one.get(f"p_{one['label']}" if column == "share" else column)

    heading = f"document.querySelector('[data-sort={column}]')"
    seen = set()
    for _ in range(2):
        tab.run(f"{heading}.querySelector('button').focus()")
        tab.press("Enter")
        order = tab.run(LINES)
        assert sorted(order) == sorted(numbers) and order == tab.run(CARDS)
        values = [value(a) for a in order]
        there = [v for v in values if v is not None]
        assert values[: len(there)] == there
        direction = tab.run(f"{heading}.getAttribute('aria-sort')")
        step = np.diff(there) if direction == "ascending" else -np.diff(there)
        assert (step >= -1e-6 * np.abs(there).max()).all()  # the page sorts by six digits
        seen.add(direction)
    assert seen == {"ascending", "descending"} and len(there) > 3
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1


def test_an_address_leads_to_its_neuron_even_if_a_filter_hides_it(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    addresses = list(named(told, tab))
    address = next(a for a in addresses if re.fullmatch(r"L\d+N\d+", a))
    inside = (
        f"(() => {{ const r = document.getElementById('{address}').getBoundingClientRect();"
        "return r.height > 50 && r.top > -2 && r.top < innerHeight - 50 })()"
    )
    assert not tab.run(inside)
    tab._ask("Page.navigate", url=f"{told.page.as_uri()}#{address}")
    tab.until(inside)
    assert tab.run("document.querySelector(':target').id") == address
    fill(tab, "by-text", "surely nowhere")
    other = addresses[-1]
    tab.run(f"location.hash = '#{other}'")
    tab.until(f"!document.getElementById('{other}').hidden")
    assert len(tab.run(LINES)) == len(addresses)
    assert len(set(addresses)) == len(addresses) == tab.run(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size - "
        "[...document.querySelectorAll('[id]:not(.vn-card)')].length"
    )  # fmt: skip


def test_all_of_it_is_there_without_javascript(told: Told, tab: Tab) -> None:
    tab._ask("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(told.page)
    boxes = tab.run("[...document.querySelectorAll('.vn-card')].map(e => e.getBoundingClientRect().height)")
    assert len(boxes) == len(told.numbers["neurons"]) and min(boxes) > 100
    controls = "[...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility()).length"
    assert tab.run(controls) == 0  # none that would do nothing


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(told: Told, tab: Tab, dark: bool) -> None:
    tab.open(told.page, dark=dark)
    assert audit(tab) == []


def test_axe_would_find_one(told: Told, tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = (
        told.page.read_text(encoding="utf-8")
        .replace('alt="', 'data-alt="')
        .replace("<main>", "<main><button></button>")
    )
    page.write_text(text, encoding="utf-8")
    tab.open(page)
    assert {fault.split(":")[0] for fault in audit(tab, ", runOnly: ['image-alt', 'button-name']")} == {
        "image-alt", "button-name"
    }  # fmt: skip


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    reached = set()
    for _ in range(60):
        tab.press("Tab")
        reached.add(tab.run("document.activeElement.id || document.activeElement.textContent.trim()"))
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {"by-text", "by-class", "by-site", "by-layer", "by-score", "all", "neuron", "peak", "r"} <= reached


def test_print_opens_what_is_folded_and_leaves_no_controls(told: Told, tab: Tab) -> None:
    tab.open(told.page)
    tab._ask("Emulation.setEmulatedMedia", media="print")
    folded = "[...document.querySelectorAll('details table')].map(e => e.getBoundingClientRect().height)"
    assert min(tab.run(folded)) > 30
    assert not tab.run("document.getElementById('filters').checkVisibility()")
    assert (
        tab.run("(() => { const e = document.querySelector('.list'); return e.scrollHeight - e.clientHeight })()") <= 1
    )


@pytest.mark.parametrize("dark", [False, True])
def test_400_pixels_are_enough(told: Told, tab: Tab, dark: bool) -> None:
    tab.open(told.page, width=400, dark=dark)
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.run("document.documentElement.scrollWidth") <= 400

"""Neurons without a card are found by id and by words; what is told of them is read when it is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import seeds
from browser import CSP
from driver import Tab, audit, browser
from hostile import HOSTILE, Told

import vlm_neurons as vn
from vlm_neurons.autointerp import Explanation
from vlm_neurons.autointerp.from_concepts import NAME
from vlm_neurons.autointerp.store import append_explanations
from vlm_neurons.reporting import other_neurons, report
from vlm_neurons.viz.wording import visible

ROWS = "[...document.querySelectorAll('#others tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
WORDS = "document.getElementById('others-words').textContent"
READ = "[...document.querySelectorAll('script[src]')].map(s => s.src.split('/').pop())"


@dataclass(frozen=True)
class Page:
    """A report, whether its pieces are files, and what those without a card have for explanations."""

    file: Path
    apart: bool
    run: vn.Run
    table: pd.DataFrame
    said: dict[str, str]


@pytest.fixture(scope="module")
def opened() -> Iterator[Tab]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module", params=["files", "page"])
def page(told: Told, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("others") / "run"
    shutil.copytree(told.run, folder)
    run, shown = vn.Run.load(folder), {one["neuron"] for one in told.numbers["neurons"]}
    table = run.table()
    hidden = [name for name in table["neuron"] if name not in shown]
    texts = ["pink regions"] * 2 + [*HOSTILE]  # more neurons than are shown at once
    said = {name: texts[k % len(texts)] for k, name in enumerate(hidden[: len(hidden) // 2])}
    append_explanations(folder, (Explanation(n, t, confidence=k / 1000, explainer=NAME)
                                 for k, (n, t) in enumerate(said.items())))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"ROWS": 8, "SAMPLES": 4, "SAID": 9}.items():
            patch.setattr(other_neurons, name, size)
        if request.param == "files":
            patch.setattr(other_neurons, "FEW", (0, 0))
        file = report(run, out=folder.parent / "a report #1.html", n_neurons=0)
    yield Page(file, request.param == "files", run, table[table["neuron"].isin(hidden)], said)


def search(tab: Tab, text: str) -> list[list[str]]:
    tab.run(f"(() => {{ const e = document.getElementById('by-text'); e.value = {json.dumps(text)};"
            "e.dispatchEvent(new Event('input', {bubbles: true})) })()")  # fmt: skip
    tab.until("!document.getElementById('others').hidden")
    return tab.run(ROWS)


def strongest(page: Page, row: dict[str, Any]) -> list[str]:
    ids = page.run.top(row["hook"], row["pole"]).sample_ids[row["index"], :3].tolist()
    samples = page.run.samples.set_index("id")
    return [f"{visible(samples.name[i])} {visible(samples.response[i])}" for i in ids if i >= 0]


def test_every_neuron_that_was_scanned_is_found_by_its_id(page: Page, opened: Tab) -> None:
    opened.open(page.file)
    assert opened.run(READ) == [], "nothing is read before it is asked for"
    assert f"of the {sum(c['d'] for c in page.run.info['columns']):,} that were scanned" in opened.run(
        "document.body.innerText"
    )
    for row in page.table.sample(12, random_state=seeds.rng()).to_dict("records"):
        (found,) = search(opened, str(row["neuron"]).lower())
        name, site, label, layer, share, peak, said, samples = found
        assert (name, layer) == (row["neuron"], str(row["layer"])) and site.startswith(row["site"])
        assert label.replace("-", "") in (row["label"], "no class")
        own = row.get(f"p_{row['label']}", float("nan"))
        assert float(share.replace("–", "nan").rstrip(" %")) == pytest.approx(100 * own, abs=0.51, nan_ok=True)
        assert float(peak.replace("–", "nan")) == pytest.approx(row["peak"], rel=6e-3, nan_ok=True)
        assert said == visible(page.said.get(name, "")).rstrip("▫")
        for one in strongest(page, row):
            assert one.strip() in samples
    read = opened.run(READ)
    assert 13 <= len(read) == len(set(read)) < 30 if page.apart else read == []
    assert opened.run("window.pwned ?? null") is None
    assert opened.requests == [] and opened.console == [] and audit(opened) == []


def test_words_find_all_neurons_whose_explanation_has_them_the_surest_first(page: Page, opened: Tab) -> None:
    opened.open(page.file)
    wanted = [name for name, text in page.said.items() if text == "pink regions"][::-1]
    found = [row[0] for row in search(opened, "REGIONS pink")]
    assert opened.run(WORDS) == f"Neurons without a card that have it in their explanation: {len(wanted)}."
    while len(found) < len(wanted):
        opened.run("for (const twice of [1, 2]) document.getElementById('others-more').click()")
        opened.until(f"document.querySelectorAll('#others tbody tr').length > {len(found)}")
        found = [row[0] for row in opened.run(ROWS)]
    assert found == wanted and opened.run("document.getElementById('others-more').hidden")
    for text in HOSTILE[:3]:
        assert {row[6] for row in search(opened, text)} == {visible(text)}
    assert opened.run("window.pwned ?? null") is None and opened.console == []


def test_an_address_finds_it_and_what_is_nowhere_is_told(page: Page, opened: Tab) -> None:
    opened.open(page.file)
    name = page.table["neuron"].iloc[-1]
    opened.run(f"location.hash = {json.dumps('#' + name)}")
    opened.until("!document.getElementById('others').hidden")
    assert opened.run(ROWS)[0][0] == name and opened.run("document.getElementById('missing').hidden")
    for elsewhere in ("document.querySelector('[data-n]').dataset.n", "'made'"):  # it has a card; a section
        opened.run(f"location.hash = '#' + {elsewhere}")
        opened.until("document.getElementById('others').hidden")
        opened.run(f"location.hash = {json.dumps('#' + name)}")
        opened.until("!document.getElementById('others').hidden")
    opened.run("location.hash = '#L99N99'")
    opened.until("document.getElementById('missing').textContent === 'No neuron L99N99 is on this page.'")
    assert opened.run("document.getElementById('others').hidden")


@pytest.mark.parametrize("page", ["files"], indirect=True)
def test_a_page_without_its_folder_says_what_is_missing(page: Page, opened: Tab, tmp_path: Path) -> None:
    opened.open(Path(shutil.copy(page.file, tmp_path)))
    assert search(opened, page.table["neuron"].iloc[0]) == []
    assert "a report #1_files/others/neurons-0.js cannot be read: keep the folder" in opened.run(WORDS)
    opened.console.clear()


def test_nothing_runs_without_the_policy_either(page: Page, opened: Tab, tmp_path: Path) -> None:
    shutil.copytree(page.file.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))
    file = tmp_path / "copy" / page.file.name
    file.write_text(CSP.sub("", file.read_text(encoding="utf-8")), encoding="utf-8")
    opened.open(file)
    for text in HOSTILE:
        search(opened, " ".join(text.split()[:2]))
    assert opened.run("window.pwned ?? null") is None and opened.requests == []

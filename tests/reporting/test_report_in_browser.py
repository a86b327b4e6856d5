"""What a reader sees, in a real browser without network."""

from __future__ import annotations

import numpy as np
import pytest
from browser import look
from hostile import HOSTILE, Made, rgb, strongest

from vlm_neurons.viz.colours import HEAT_OPACITY, cividis
from vlm_neurons.viz.wording import visible

OPEN = "document.querySelectorAll('details').forEach(d => d.open = true);"
BOX = "const box = e => {const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]};"


def test_the_page_opens_without_a_request_or_a_complaint(made: Made) -> None:
    seen = look(made.page)
    assert seen.requests == [] and seen.console == []
    assert len(np.unique(rgb(seen.screenshot).reshape(-1, 3), axis=0)) > 50  # something is painted


def test_the_browser_used_here_would_notice_both() -> None:
    seen = look("<script>console.error('boo')</script><img src='http://evil.example/a.png'>")
    assert any("boo" in line for line in seen.console) and any("evil.example/a.png" in r for r in seen.requests)


def test_hostile_text_does_not_run_even_without_the_policy(made: Made) -> None:
    probe = "await new Promise(r => setTimeout(r, 300)); return [window.pwned ?? null, location.protocol]"
    seen = look(made.page, OPEN + probe, guarded=False)
    assert seen.result == [None, "file:"]
    assert seen.requests == [] and seen.console == []


def test_the_policy_stops_what_escaping_would_miss(made: Made) -> None:
    # but for a page that sends its reader elsewhere: no policy covers that, escaping has to
    raw = "".join(p for p in HOSTILE if "refresh" not in p) + "<link rel=stylesheet href=http://evil.example/d>"
    seen = look(made.page.replace("<main>", f"<main>{raw}"), "return window.pwned ?? null")
    assert seen.result is None and seen.requests == []
    assert any("Content Security Policy" in line for line in seen.console)  # it was tried


def test_every_token_is_there_and_inside_its_card(made: Made) -> None:
    probe = f"""{OPEN}{BOX} return [...document.querySelectorAll('.vn-card')].map(card => ({{
        id: card.id, card: box(card), figures: [...card.querySelectorAll('.vn-exemplar')].map(f =>
            [...f.querySelectorAll('.vn-token')].map(t => [t.textContent, Number(t.dataset.index), ...box(t)]))}}))"""
    cards = look(made.page, probe).result
    shown = strongest(made, [c["id"] for c in cards])
    n_tokens = 0
    for card in cards:
        left, _, width, _ = card["card"]
        assert [[t[0] for t in figure if t[1] >= 0] for figure in card["figures"]] == [
            [] if np.isnan(e.token_acts).all() else [visible(t) for t in e.seen.tokens] for e in shown[card["id"]]
        ]
        assert [sum(t[1] < 0 for t in figure) for figure in card["figures"]] == [
            0 if np.isnan(e.token_acts).all() else len(e.seen.images) for e in shown[card["id"]]
        ]
        for _, _, x, _, w, h in (token for figure in card["figures"] for token in figure):
            n_tokens += 1
            assert w > 2 and h > 8 and x >= left and x + w <= left + width
    assert n_tokens > 500


def test_the_heat_lies_on_the_patch_that_the_model_says(made: Made) -> None:
    probe = f"""{BOX} const cards = [...document.querySelectorAll('.vn-card')].slice(0, 4);
        document.body.replaceChildren(...cards);
        return cards.map(card => ({{id: card.id, shown:
        [...card.querySelectorAll('.vn-exemplar')].map(f => [...f.querySelectorAll('.vn-pair')].map(p =>
            [box(p.querySelector('.vn-seen')), box(p.querySelector('img')), p.querySelector('.vn-best') &&
             box(p.querySelector('.vn-best')), p.querySelector('img').alt]))}}))"""
    seen = look(made.page, probe)
    screen = rgb(seen.screenshot)
    shown = strongest(made, [c["id"] for c in seen.result])
    n = 0
    for card in seen.result:
        close = shown[card["id"]]
        peak = float(made.table.set_index("neuron").loc[card["id"], "peak"])
        counts = [p[m] for e in close for p, m in zip(e.patch_acts, e.scored_patches(), strict=True)]
        counts += [e.token_acts[e.scored_tokens()] for e in close]
        top = max([0.1 * peak, *(float(np.nanmax(p)) for p in counts if p.size and not np.isnan(p).all())])
        for one, pairs in zip(close, card["shown"], strict=True):
            counted = [np.where(s, -1.0, p) for p, s in zip(one.patch_acts, one.seen.patch_sinks, strict=True)]
            for patches, (plain, heat, box, alt) in zip(counted, pairs, strict=True):
                rows, columns = patches.shape
                row, column = np.unravel_index(patches.argmax(), patches.shape)
                step_x, step_y = heat[2] / columns, heat[3] / rows
                if patches.max() > 0:
                    assert box == pytest.approx(
                        [heat[0] + column * step_x, heat[1] + row * step_y, step_x, step_y], abs=1.0
                    )
                    assert f"row {row}, column {column} of {rows} × {columns}" in alt
                for (r, c), value in np.ndenumerate(patches):
                    if plain[1] + plain[3] > screen.shape[0]:
                        continue  # below the window
                    x, y = (c + 0.5) * step_x, (r + 0.5) * step_y
                    below = screen[int(plain[1] + y), int(plain[0] + x)]
                    here = screen[int(heat[1] + y), int(heat[0] + x)]
                    colour = cividis(np.clip(np.array(value / top), 0, 1)).astype(float)
                    mixed = HEAT_OPACITY * colour + (1 - HEAT_OPACITY) * below
                    np.testing.assert_allclose(here, mixed, atol=6)
                    n += 1
    assert n > 100


def test_nothing_sticks_out_at_400_pixels(made: Made) -> None:
    probe = f"""{OPEN} document.documentElement.style.width = '400px';
        const wide = [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
            && e.getBoundingClientRect().right > 400.5);
        return wide.map(e => e.outerHTML.slice(0, 200))"""
    assert look(made.page, probe).result == []


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_ground(made: Made, dark: bool) -> None:
    probe = f"""{OPEN}
        const parse = c => {{const v = c.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v}};
        const over = (below, [r, g, b, a]) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
        const ground = e => {{ const layers = [];
            for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
            return layers.reverse().reduce(over, [255, 255, 255]) }};
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const light = c => c.slice(0, 3).reduce((s, v, i) => s + linear(v / 255) * [.2126, .7152, .0722][i], 0);
        const ratio = e => {{const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
            return (Math.max(a, b) + .05) / (Math.min(a, b) + .05)}};
        const words = 'h1,h2,h3,h4,p,.soft,summary,figcaption,.vn-token,.vn-soft,strong,.vn-scales,dt,dd,td,th,' +
            'label,button,input,select';
        return {{page: light(ground(document.body)),
                 least: Math.min(...[...document.querySelectorAll(words)].map(ratio))}}"""
    found = look(made.page, probe, dark=dark).result
    assert (found["page"] < 0.1) == dark
    assert found["least"] >= 4.5  # WCAG AA

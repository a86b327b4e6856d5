(() => {
  // One set of listeners on the document serves every card, those that come later included.
  if (window.vnCards) { window.vnCards(); return; }

  const EXEMPLAR = ".vn-exemplar";
  const near = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);
  const values = (element) => element.dataset.values.split(" ");
  const spoken = (value) => (value === undefined || value === "-" ? "no value" : value);

  function segments(chart) {
    return chart.dataset.segments.split(";").filter(Boolean).map((one) => {
      const [kind, place, first, n] = one.split(" ");
      return { kind, place: Number(place), first: Number(first), n: Number(n) };
    });
  }

  // A position of the sequence as {kind, place, index}, and back.
  function at(chart, position) {
    let start = 0;
    for (const s of segments(chart)) {
      if (position < start + s.n) return { kind: s.kind, place: s.place, index: s.first + position - start };
      start += s.n;
    }
    return null;
  }
  function position(chart, here) {
    let start = 0;
    for (const s of segments(chart)) {
      const inside = here.index >= s.first && here.index < s.first + s.n;
      if (s.kind === here.kind && s.place === here.place && inside) return [start + here.index - s.first, null];
      start += s.n;
    }
    return [-1, start];
  }

  function spans(strip) {
    const drawn = strip.querySelectorAll(".colored-tokens > span");
    return strip.classList.contains("vn-drawn") ? drawn : strip.querySelectorAll(".vn-token");
  }
  const own = (strip) => [...strip.querySelectorAll(".vn-token")];

  function clear(exemplar) {
    exemplar.querySelectorAll(".vn-here").forEach((e) => e.remove());
    exemplar.querySelectorAll(".vn-on").forEach((e) => e.classList.remove("vn-on"));
    exemplar.querySelectorAll(".vn-cursor").forEach((e) => e.setAttribute("width", 0));
  }

  // Mark one patch or token wherever the exemplar shows it, and say its values.
  function mark(exemplar, here) {
    clear(exemplar);
    if (!here) return;
    exemplar.vnHere = here;
    const said = [];
    let name = "";
    if (here.kind === "image") {
      exemplar.querySelectorAll(`.vn-map[data-image="${here.place}"]`).forEach((map) => {
        const rows = Number(map.dataset.rows), columns = Number(map.dataset.columns);
        const row = Math.floor(here.index / columns), column = here.index % columns;
        name = `row ${row}, column ${column}`;
        said.push([map.dataset.name, values(map)[here.index]]);
        const box = document.createElement("i");
        box.className = "vn-here";
        Object.assign(box.style, { left: `${100 * column / columns}%`, top: `${100 * row / rows}%`,
          width: `${100 / columns}%`, height: `${100 / rows}%` });
        map.querySelector(".vn-seen").append(box);
      });
    } else {
      exemplar.querySelectorAll(".vn-strip").forEach((strip) => {
        const n = own(strip).findIndex((e) => Number(e.dataset.index) === here.index);
        if (n < 0) return;
        name = `token ${here.index + 1}, “${own(strip)[n].textContent.trim()}”`;
        said.push([strip.dataset.name, values(strip)[here.index]]);
        spans(strip)[n].classList.add("vn-on");
      });
    }
    const chart = exemplar.querySelector(".vn-seq");
    if (chart) {
      const n = segments(chart).reduce((sum, s) => sum + s.n, 0);
      const [found] = position(chart, here);
      const box = chart.viewBox.baseVal, cursor = chart.querySelector(".vn-cursor");
      const width = Math.max(2, box.width / n);
      if (found >= 0) {
        const set = { x: (found + 0.5) * box.width / n - width / 2, y: 12, width, height: box.height - 29 };
        Object.entries(set).forEach(([key, value]) => cursor.setAttribute(key, value));
      }
    }
    const readout = exemplar.querySelector(".vn-readout");
    const series = said.length > 1 ? said.map(([s, v]) => `${s} ${spoken(v)}`).join(", ") : spoken(said[0]?.[1]);
    readout.textContent = `${name}: ${series}`;
  }

  function under(event) {
    const map = near(event, ".vn-map");
    if (map) {
      const box = map.querySelector(".vn-seen").getBoundingClientRect();
      const rows = Number(map.dataset.rows), columns = Number(map.dataset.columns);
      const column = Math.floor(columns * (event.clientX - box.left) / box.width);
      const row = Math.floor(rows * (event.clientY - box.top) / box.height);
      if (row < 0 || column < 0 || row >= rows || column >= columns) return null;
      return { kind: "image", place: Number(map.dataset.image), index: row * columns + column };
    }
    const span = near(event, ".vn-token, .colored-tokens > span");
    if (span) {
      const strip = span.closest(".vn-strip");
      const n = strip ? [...spans(strip)].indexOf(span) : -1;
      const index = n < 0 ? -1 : Number(own(strip)[n].dataset.index);
      return index < 0 ? null : { kind: "token", place: 0, index };
    }
    const chart = near(event, ".vn-seq");
    if (!chart) return null;
    const box = chart.getBoundingClientRect();
    const n = segments(chart).reduce((sum, s) => sum + s.n, 0);
    return at(chart, Math.min(n - 1, Math.max(0, Math.floor(n * (event.clientX - box.left) / box.width))));
  }

  document.addEventListener("mousemove", (event) => {
    const exemplar = near(event, EXEMPLAR);
    if (!exemplar) return;
    const here = under(event);
    if (here) mark(exemplar, here);
  });
  document.addEventListener("mouseout", (event) => {
    const exemplar = near(event, EXEMPLAR);
    if (exemplar && !exemplar.contains(event.relatedTarget)) clear(exemplar);
  });
  document.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const map = near(event, ".vn-map"), strip = near(event, ".vn-strip");
    if (!(event.key in steps) || !(map || strip)) return;
    event.preventDefault();
    const exemplar = (map || strip).closest(EXEMPLAR);
    const [down, right] = steps[event.key];
    const kind = map ? "image" : "token", place = map ? Number(map.dataset.image) : 0;
    const before = exemplar.vnHere;
    const same = before && before.kind === kind && before.place === place;
    const n = values(map || strip).length, columns = map ? Number(map.dataset.columns) : n;
    const step = map ? down * columns + right : down + right;
    const index = same ? before.index + step : 0;
    if (map && same && right && Math.floor(index / columns) !== Math.floor(before.index / columns)) return;
    if (index >= 0 && index < n) mark(exemplar, { kind, place, index });
  });
  document.addEventListener("click", (event) => {
    const button = near(event, ".vn-hide");
    if (!button) return;
    const hidden = button.closest(".vn-card").classList.toggle("vn-bare");
    button.setAttribute("aria-pressed", String(hidden));
  });

  // circuitsvis draws the tokens where it is on the page; our own words stay where it is not, or where it fails.
  // It writes tokens as HTML: U+2060, without width, after `<` and `&` keeps them text. NaN would hide all of them.
  let serial = 0;
  function props(strip) {
    const found = values(strip), top = Number(strip.dataset.top);
    return {
      tokens: own(strip).map((e) => e.textContent.replace(/[<&]/g, "$&\u2060")),
      values: own(strip).map((e) => Number(found[e.dataset.index]) || 0),
      minValue: -top, maxValue: top, negativeColor: "#ffffff", positiveColor: "#E69F00",
    };
  }
  function draw(strip) {
    const given = props(strip);
    const target = document.createElement("div");
    target.id = `vn-circuitsvis-${serial++}`;
    strip.dataset.state = "drawing";
    strip.prepend(target);
    window.CircuitsVis.render(target.id, window.CircuitsVis.ColoredTokens, given);
    let tries = 0;
    const check = () => {
      const drawn = target.querySelectorAll(".colored-tokens > span");
      if (drawn.length !== given.tokens.length) {
        if (tries++ < 50) setTimeout(check, 20); else target.remove();
        return;
      }
      own(strip).forEach((e, n) => drawn[n].classList.add(...[...e.classList].slice(1)));
      strip.classList.add("vn-drawn");
      strip.dataset.state = "drawn";
    };
    check();
  }
  const nearby = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => {
    nearby.unobserve(e.target);
    try { draw(e.target); } catch (error) { e.target.dataset.state = "own"; }
  }), { rootMargin: "600px" });
  window.vnCards = () => {
    document.querySelectorAll(".vn-hide[hidden]").forEach((e) => { e.hidden = false; });
    if (!window.CircuitsVis) return;
    document.querySelectorAll(".vn-strip:not([data-state])").forEach((strip) => {
      strip.dataset.state = "waiting";
      nearby.observe(strip);
    });
  };
  document.addEventListener("vn-circuitsvis", () => window.vnCards());
  window.vnCards();
})();

"use strict";
// Neurons without a line in the list, by id or by words of their explanation. Pieces of what is told of them are read when they are needed:
// from this page, or from a file beside it that calls `piece`.
const others = (() => {
  const told = document.getElementById("others-index");
  if (!told) return null;
  const index = JSON.parse(told.textContent), box = document.getElementById("others"), more = document.getElementById("others-more");
  const body = box.querySelector("tbody"), words = document.getElementById("others-words");
  const listed = new Set([...document.querySelectorAll("#list tbody th")].map((th) => th.textContent.toLowerCase()));
  const STEP = 20, pieces = new Map(), waiting = new Map();
  let asked = 0, left = [], begin = 0;

  for (const column of index.columns) { column.begin = begin; begin += column.n; }
  const lower = (text) => text.toLowerCase();

  window.piece = (name, value) => { waiting.get(name)?.(value); waiting.delete(name); };

  function piece(name) {
    if (!pieces.has(name)) {
      pieces.set(name, new Promise((done, failed) => {
        const here = document.getElementById(`piece-${name}`);
        if (here) { done(JSON.parse(here.textContent)); return; }
        const script = document.createElement("script");
        script.src = `${index.folder}/${name}.js`;
        script.onerror = () => { pieces.delete(name); failed(new Error(script.getAttribute("src"))); };
        waiting.set(name, done);
        document.head.append(script);
      }));
    }
    return pieces.get(name);
  }

  // The row of an id, or -1.
  function rowOf(id) {
    for (const column of index.columns) {
      if (column.names) {
        const place = column.names.findIndex((name) => lower(name) === lower(id));
        if (place >= 0) return column.begin + place;
        continue;
      }
      const before = lower(column.before), behind = column.behind, middle = id.slice(before.length, id.length - behind.length);
      if (lower(id).startsWith(before) && id.endsWith(behind) && /^(0|[1-9]\d{0,9})$/.test(middle) && Number(middle) < column.n)
        return column.begin + Number(middle);
    }
    return -1;
  }

  function idOf(row) {
    const column = index.columns.find((one) => row < one.begin + one.n), place = row - column.begin;
    return [column, column.names ? column.names[place] : `${column.before}${place}${column.behind}`];
  }

  // Rows whose explanation has all words, text by text; how many there are; and how many texts.
  async function rowsOf(text) {
    const all = lower(text).split(/\s+/), { texts, sizes, places } = await piece("texts");
    const hits = texts.map((one, k) => k).filter((k) => all.every((word) => lower(texts[k]).includes(word)));
    const rows = [];
    for (const k of hits) {
      if (rows.length >= 5000) break;  // nobody reads on
      const [name, place] = places[k];
      rows.push(...(await piece(`said-${name}`))[place]);
    }
    return [rows, hits.reduce((sum, k) => sum + sizes[k], 0), hits.length];
  }

  function cell(line, text, kind = "td", left = true) {
    const made = document.createElement(kind);
    if (left) made.className = "left";
    made.textContent = text;
    line.append(made);
    return made;
  }

  async function line(row) {
    const [column, id] = idOf(row), k = row % index.rows, made = document.createElement("tr");
    const own = await piece(`neurons-${Math.floor(row / index.rows)}`);
    cell(made, id, "th").scope = "row";
    cell(made, column.site);
    const label = own.label[k], name = cell(made, ""), swatch = document.createElement("span");
    swatch.className = `swatch ${index.labels[label]}`;
    swatch.setAttribute("aria-hidden", "true");
    name.append(swatch, index.classes[label]);
    cell(made, column.layer, "td", false);
    cell(made, own.share[k] === null ? "–" : `${Math.round(100 * own.share[k])} %`, "td", false);
    cell(made, own.peak[k] === null ? "–" : `${own.peak[k]}`, "td", false);
    if (index.explained) {
      const text = own.said[k];
      cell(made, text < 0 ? "" : (await piece("texts")).texts[text]).classList.add("said");
    }
    const shown = cell(made, "");
    for (const sample of own.top[k].filter((one) => one >= 0)) {
      const found = (await piece(`samples-${Math.floor(sample / index.samples)}`))[sample % index.samples];
      const told = document.createElement("div"), text = document.createElement("span");
      if (!found) continue;
      text.className = "soft";
      text.textContent = found[1];
      told.append(document.createElement("bdi"), " ", text);
      told.firstChild.textContent = found[0];
      shown.append(told);
    }
    return made;
  }

  async function show(rows) {
    const mine = asked, now = rows.slice(0, STEP);
    left = [];  // a second click adds nothing twice
    const lines = await Promise.all(now.map(line));
    if (mine !== asked) return;  // something else was asked for meanwhile
    left = rows.slice(STEP);
    body.append(...lines);
    more.hidden = left.length === 0;
    box.hidden = body.rows.length === 0;
  }

  // Look for an id, or for words. True where the text is the id of a neuron without a card.
  function look(text) {
    const mine = ++asked, row = rowOf(text), other = row >= 0 && !listed.has(lower(idOf(row)[1]));
    body.replaceChildren();
    box.hidden = true;
    words.textContent = "";
    if (!text) return false;
    (async () => {
      let rows = [row], count = "";
      if (!other) {
        if (row >= 0 || !index.explained) return;
        const [found, n] = await rowsOf(text);
        rows = found.filter((one) => !listed.has(lower(idOf(one)[1])));
        count = `Neurons without a card that have it in their explanation: ${n.toLocaleString("en")}.`;
        if (mine !== asked || !n) return;
      }
      words.textContent = count || `${idOf(row)[1]} has no card. What the scan says of it:`;
      await show(rows);
    })().catch(unread(mine));
    return other;
  }

  const unread = (mine) => (error) => {
    if (mine !== asked) return;
    words.textContent = `${decodeURIComponent(error.message)} cannot be read: keep the folder of this name beside the page.`;
    box.hidden = false;
  };

  more.addEventListener("click", () => show(left).catch(unread(asked)));
  return { look };
})();

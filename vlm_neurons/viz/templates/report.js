"use strict";
// Filters, sorting and permalinks of the list. Without it everything is there, in the order in which it was written.
(() => {
  const table = document.getElementById("list"), cards = document.getElementById("cards");
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  if (!table) return;
  const body = table.tBodies[0], lines = [...body.rows], filters = document.getElementById("filters");
  const cardOf = new Map([...cards.children].map((card) => [card.id, card]));
  const inputs = {};
  for (const name of ["text", "class", "site", "layer", "score"]) inputs[name] = document.getElementById(`by-${name}`);
  // Where words are looked for, the first place that has all of them counts.
  const PLACES = ["id", "explanation", "line", "strongest samples", "several places"];
  const texts = new Map(lines.map((line) => {
    const id = line.cells[0].textContent, said = line.querySelector(".said")?.textContent ?? "";
    const parts = [id, `${said} ${line.dataset.told}`, line.textContent, line.dataset.samples];
    return [line, [...parts, parts.join(" ")].map((part) => part.toLowerCase())];
  }));
  let order = lines;

  // The place in PLACES that has all words, or -1.
  function found(line) {
    const words = inputs.text.value.toLowerCase().split(/\s+/);
    return texts.get(line).findIndex((text) => words.every((word) => text.includes(word)));
  }

  function matches(line) {
    const same = (name) => !inputs[name]?.value || line.dataset[name] === inputs[name].value;
    const least = inputs.score ? inputs.score.value : "";
    return same("class") && same("site") && same("layer") && found(line) >= 0 &&
      (least === "" || (line.dataset.score !== "" && Number(line.dataset.score) >= Number(least)));
  }

  function filter() {
    const asked = inputs.text.value.trim() !== "", counts = new Map();
    const rank = new Map(lines.map((line) => [line, asked ? found(line) : 0]));
    let shown = 0;
    for (const line of lines) {
      line.hidden = !matches(line);
      shown += !line.hidden;
      const card = cardOf.get(line.dataset.n), place = PLACES[rank.get(line)];
      if (card) card.hidden = line.hidden;
      if (!line.hidden) counts.set(place, (counts.get(place) ?? 0) + 1);
      line.cells[0].dataset.found = asked && !line.hidden ? `in ${place}` : "";
    }
    place([...order].sort((a, b) => rank.get(a) - rank.get(b)));
    table.parentNode.hidden = shown === 0;
    document.getElementById("count").textContent = `${shown} of ${lines.length} neurons`;
    document.getElementById("where").textContent =
      asked ? PLACES.filter((p) => counts.has(p)).map((p) => `${counts.get(p)} in ${p}`).join(", ") : "";
  }

  function place(sorted) {
    if (sorted.every((line, n) => body.rows[n] === line)) return;
    for (const line of sorted) {
      body.append(line);
      if (cardOf.has(line.dataset.n)) cards.append(cardOf.get(line.dataset.n));
    }
  }

  function sort(column, descending) {
    const value = (line) => line.cells[column].dataset.v;
    const numbers = lines.every((line) => value(line) === "" || !Number.isNaN(Number(value(line))));
    const compare = (a, b) => (numbers ? Number(a) - Number(b) : a.localeCompare(b, "en"));
    const sorted = [...lines].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");  // what has no value comes last either way
      return descending ? compare(y, x) : compare(x, y);
    });
    order = sorted;
    filter();
  }

  function show() {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { /* as it is */ }
    const same = (one) => one.dataset.n === name, alike = (one) => one.dataset.n.toLowerCase() === name.toLowerCase();
    const line = lines.find(same) || lines.find(alike), missing = document.getElementById("missing");
    const other = !line && name !== "" && !document.getElementById(name);
    missing.textContent = other && !others?.look(name) ? `No neuron ${name} is on this page.` : "";
    missing.hidden = missing.textContent === "";
    if (other) missing.parentNode.querySelector("#filters").scrollIntoView();
    if (!other && !inputs.text?.value.trim()) others?.look("");  // what the last address showed
    if (!line) return;
    if (line.hidden) clear();
    (cardOf.get(line.dataset.n) || line).scrollIntoView();
  }

  function clear() {
    for (const input of Object.values(inputs)) if (input) input.value = "";
    others?.look("");
    filter();
  }

  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = ["share", "peak", "score", "null"].includes(heading.dataset.sort) ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const direction = heading.getAttribute("aria-sort") === first ? other : first;
      for (const one of heading.parentNode.cells) one.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", direction);
      sort(heading.cellIndex, direction === "descending");
    });
  }
  for (const input of Object.values(inputs)) if (input) input.addEventListener("input", filter);
  inputs.text.addEventListener("input", () => others?.look(inputs.text.value.trim()));
  document.getElementById("all").addEventListener("click", clear);
  addEventListener("hashchange", show);
  filters.hidden = false;
  filter();
  show();
})();

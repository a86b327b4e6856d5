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
  const texts = new Map(lines.map((line) => [line, `${line.textContent} ${line.dataset.search}`.toLowerCase()]));

  function matches(line) {
    const same = (name) => !inputs[name].value || line.dataset[name] === inputs[name].value;
    const least = inputs.score ? inputs.score.value : "";
    const words = inputs.text.value.toLowerCase().split(/\s+/);
    return same("class") && same("site") && same("layer") && words.every((word) => texts.get(line).includes(word)) &&
      (least === "" || (line.dataset.score !== "" && Number(line.dataset.score) >= Number(least)));
  }

  function filter() {
    let shown = 0;
    for (const line of lines) {
      line.hidden = !matches(line);
      shown += !line.hidden;
      const card = cardOf.get(line.dataset.n);
      if (card) card.hidden = line.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${lines.length} neurons`;
  }

  function sort(column, descending) {
    const value = (line) => line.cells[column].dataset.v;
    const numbers = lines.every((line) => value(line) === "" || !Number.isNaN(Number(value(line))));
    const order = (a, b) => (numbers ? Number(a) - Number(b) : a.localeCompare(b, "en"));
    const sorted = [...lines].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");  // what has no value comes last either way
      return descending ? order(y, x) : order(x, y);
    });
    for (const line of sorted) {
      body.append(line);
      if (cardOf.has(line.dataset.n)) cards.append(cardOf.get(line.dataset.n));
    }
  }

  function show() {
    const name = location.hash.slice(1), line = lines.find((one) => one.dataset.n === name);
    if (!line) return;
    if (line.hidden) clear();
    (cardOf.get(name) || line).scrollIntoView();
  }

  function clear() {
    for (const input of Object.values(inputs)) if (input) input.value = "";
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
  document.getElementById("all").addEventListener("click", clear);
  addEventListener("hashchange", show);
  filters.hidden = false;
  filter();
  show();
})();

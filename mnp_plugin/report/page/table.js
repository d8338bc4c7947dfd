// Tables that sort: by a click or key on a heading. Long ones show their first rows, and more on demand. Buttons in the rows of a table
// are one stop of the tab key together.

const STEP = 100; // rows that are added at once

const words = new Intl.Collator("en", { numeric: true }); // many times as quick as localeCompare

/** Compare for sorting: numbers as numbers, words as words, what is missing last in both directions. */
function compare(a, b, down) {
  const none = (v) => v === null || v === undefined || v === "";
  if (none(a) || none(b)) return none(a) - none(b);
  const order = isNumber(a) && isNumber(b) ? a - b : words.compare(String(a), String(b));
  return down ? -order : order;
}

const sorted = new Map(); // how each table was sorted last, by its label: a page that is drawn anew keeps it

/**
 * A sortable table.
 * columns: [{name, title, value(row), show(row) -> text or node, number, head (of its row), help}]
 * options: {rows, label, sort: [index, down], row(node, row), short (first rows only)}; label is what a screen reader calls it.
 * Gives {node, update(rows)}.
 */
function sortable(columns, options) {
  const { label } = options;
  let rows = options.rows, [by, down] = sorted.get(label) || options.sort || [null, false], shown = STEP;
  if (by >= columns.length) [by, down] = options.sort || [null, false];
  const body = el("tbody"), heads = [], status = el("p", { class: "quiet", role: "status" });
  const more = el("button", { type: "button", class: "more", onclick: () => { shown += 5 * STEP; draw(); } });
  columns.forEach((column, i) => {
    const button = el("button", { type: "button", onclick: () => {
      [by, down] = by === i ? [i, !down] : [i, Boolean(column.number && !column.low)];
      sorted.set(label, [by, down]);
      shown = STEP;
      draw();
    } }, column.title, el("span", { class: "arrow", "aria-hidden": "true" }));
    if (column.help) tip(button, column.help);
    heads.push(el("th", { scope: "col", class: column.number ? "number" : null }, button));
  });
  function draw() {
    const order = by === null ? rows : rows
      .map((row, i) => [columns[by].value(row), i, row])
      .sort((a, b) => compare(a[0], b[0], down) || a[1] - b[1])
      .map((item) => item[2]);
    heads.forEach((head, i) => (i === by ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    const limit = options.short ? shown : order.length;
    body.replaceChildren(...order.slice(0, limit).map((row) => {
      const line = el("tr", {}, ...columns.map((column) => {
        const cell = column.show ? column.show(row) : column.number ? fixed(column.value(row)) : column.value(row);
        return el(column.head ? "th" : "td", { scope: column.head ? "row" : null, class: column.number ? "number" : null }, cell);
      }));
      if (options.row) options.row(line, row);
      return line;
    }));
    stopAt(0);
    more.hidden = order.length <= limit;
    more.textContent = `Show more (${order.length - limit} left)`;
    if (options.short) status.textContent = `${order.length} of ${plural(options.rows.length, "row")}${order.length > limit ? `, the first ${limit} shown` : ""}`;
  }
  const stopAt = oneStop(body, () => [...body.querySelectorAll("button")], inTable);
  draw();
  const table = el("table", {}, caption(label), el("thead", {}, el("tr", {}, ...heads)), body);
  const node = el("div", {}, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table), options.short && status, options.short && more);
  return { node, update(found) { rows = found; shown = STEP; draw(); } };
}

// Many things in one: the points of a chart, the cells of a table. The tab key stops once at each whole, arrow keys go on from there.

/**
 * Make items of `root` one stop of the tab key. items() gives them in order; lead(all, at, key) the one that a key leads to from the
 * one at place `at`: null at an edge, undefined for a key that leads nowhere. Gives a function that puts the stop at a place.
 */
function oneStop(root, items, lead) {
  const stopAt = (stop) => { for (const item of items()) item.setAttribute("tabindex", item === stop ? "0" : "-1"); };
  root.addEventListener("focusin", (event) => items().includes(event.target) && stopAt(event.target));
  root.addEventListener("keydown", (event) => {
    const all = items(), at = all.indexOf(event.target);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const to = lead(all, at, event.key);
    if (to === undefined) return;
    event.preventDefault(); // at an edge, too: nothing scrolls, and a drawer stays at its cell
    if (to) to.focus();
  });
  return (at) => stopAt(items()[Math.max(0, Math.min(at, items().length - 1))]);
}

/** Through points in their order; up and down by a row, where they lie in rows of so many columns. */
const along = (columns) => (all, at, key) => {
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: all.length - 1 }[key];
  return to === undefined ? undefined : all[to] || null;
};

/** Through the buttons of a table: up and down within a column, left and right within a row. */
function inTable(all, at, key) {
  const cell = all[at].closest("td, th"), row = cell.parentNode, own = [...row.querySelectorAll("button")], place = own.indexOf(all[at]);
  const side = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: own.length - 1 }[key];
  if (side !== undefined) return own[side] || null;
  const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[key];
  if (!to) return undefined;
  let other = row[to];
  while (other && !other.cells[cell.cellIndex].querySelector("button")) other = other[to];
  return other ? other.cells[cell.cellIndex].querySelector("button") : null;
}

/**
 * Make the points of a drawing in `root`, an HTML element, reachable: the pointer and the focus show the text of each.
 * points: [{node, text, name, open}]: text is a string or a function that gives one; name, what a screen reader calls the point where that is
 * not its text; open(), what a click or Enter does.
 */
function reach(root, points, columns) {
  const by = new Map(points.map((one) => [one.node, one])), said = (one) => (typeof one.text === "function" ? one.text() : one.text);
  for (const { node, name, open, text } of points) {
    fill(node, { role: open ? "button" : "img", "aria-label": name || text, tabindex: "-1", onclick: open }, []);
  }
  const on = (kind, act) => root.addEventListener(kind, (event) => by.has(event.target) && act(by.get(event.target), event));
  const show = (one, event) => showTip(one.node, said(one), event, Boolean(one.name));
  on("pointerover", (one, event) => isPointed(event) && show(one, event));
  on("focusin", (one, event) => (!one.open || one.node.matches(":focus-visible")) && show(one, event)); // where nothing opens, a touch shows it
  for (const kind of ["pointerout", "focusout"]) on(kind, (one) => hideTip(one.node));
  on("keydown", (one, event) => {
    if (!one.open || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    one.open();
  });
  return oneStop(root, () => points.map((one) => one.node), along(columns));
}

// Elements from data. Text only ever becomes text: nothing here reads a string as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, of] of Object.entries(value)) node.style.setProperty(name, of);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) node.append(child.nodeType ? child : String(child));
  }
  return node;
}

/** An HTML element: el("p", {class: "x", onclick: f}, "text", another). */
const el = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element. */
const svg = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits = 1) => (isNumber(value) ? (Object.is(+value.toFixed(digits), -0) ? 0 : value).toFixed(digits) : "—");
const spread = (value, std) => (isNumber(std) ? `${fixed(value)} ± ${fixed(std)}` : fixed(value));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const pText = (p) => (!isNumber(p) ? "—" : p < 0.001 ? "< 0.001" : p.toFixed(3));

/** The rows that Python packed as columns and lists of values. */
const unpacked = (table) => table.data.map((values) => Object.fromEntries(table.columns.map((name, i) => [name, values[i]])));

/** Colour, marker and dashes of every name, from their places as Python chose them: the same as in the figures for papers. */
const looks = (places) => new Map(Object.entries(places).map(([name, [colour, marker, dash]]) => [name, { colour: `var(--c${colour})`, marker, dash }]));

const nameOf = (defense, selection) => (selection === "oracle" ? `${defense} (oracle)` : defense);

let tipOf = null; // whose text is shown
let followTip = null; // puts a text back beside its node when the page has scrolled, as it does after the focus moves
let pointer = ""; // where it is: what scrolls below a pointer at rest is not pointed at

const place = (event) => `${event.screenX} ${event.screenY}`;
document.addEventListener("pointermove", (event) => (pointer = place(event)), true);
document.addEventListener("scroll", () => followTip && followTip(), true);
const isPointed = (event) => event.pointerType !== "touch" && place(event) !== pointer;

/** Show a text beside the pointer, or beside a node that has the focus; ``describes``: it is read out as the node's description. */
function showTip(node, text, event, describes) {
  const host = document.getElementById("drawer").open ? document.getElementById("drawer") : document.body;
  const at = document.getElementById("tip");
  host.append(at); // above a dialog only what is in it can be seen
  at.textContent = text;
  at.hidden = false;
  tipOf = node;
  if (describes) node.setAttribute("aria-describedby", "tip");
  const put = (x, below, above) => {
    at.style.setProperty("left", `${Math.max(4, Math.min(x, innerWidth - at.offsetWidth - 8))}px`);
    at.style.setProperty("top", `${below + at.offsetHeight > innerHeight ? Math.max(4, above - at.offsetHeight) : below}px`);
  };
  const beside = (rect) => put(rect.left, rect.bottom + 6, rect.top - 6);
  followTip = event.type.startsWith("pointer") ? null : () => beside(node.getBoundingClientRect());
  if (followTip) followTip();
  else put(event.clientX, event.clientY + 14, event.clientY - 12);
}

function hideTip(node) {
  if (tipOf === node) document.getElementById("tip").hidden = true;
  node.removeAttribute("aria-describedby");
}

/** A text that shows on hover and on focus, of the node or of what is in it, and is then read out as its description. */
function tip(node, text) {
  const show = (event) => showTip(event.target, typeof text === "function" ? text() : text, event, true);
  node.addEventListener("pointerenter", (event) => isPointed(event) && show(event));
  node.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && show(event));
  for (const kind of ["pointerleave", "focusout", "click"]) node.addEventListener(kind, (event) => hideTip(event.target));
  return node;
}

const section = (id, title, ...children) =>
  el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);

const fold = (title, ...inside) => el("details", {}, el("summary", {}, title), ...inside);

/** A table's name for who hears it: its section's heading says it to who sees it. */
const caption = (text) => el("caption", { class: "unseen" }, text);

/** Any JSON as a list of what it holds. */
function facts(value, depth = 0) {
  if (value === null || value === undefined) return "—";
  if (typeof value !== "object") return isNumber(value) ? String(+value.toPrecision(6)) : String(value);
  if (Array.isArray(value)) {
    if (!value.length) return "none";
    if (value.every((item) => typeof item !== "object" || item === null)) return value.map((item) => facts(item)).join(", ");
    const inner = value.slice(0, 12).map((item) => el("li", {}, facts(item, depth + 1)));
    return el("ol", {}, ...inner, value.length > 12 && el("li", {}, `and ${value.length - 12} more`));
  }
  const entries = Object.entries(value);
  if (!entries.length) return "none";
  if (depth > 1) return entries.map(([key, item]) => [`${key} `, facts(item, depth + 1), "; "]).flat().slice(0, -1);
  return el("dl", { class: "facts" }, ...entries.map(([key, item]) => [el("dt", {}, key), el("dd", {}, facts(item, depth + 1))]));
}

// Charts as SVG, drawn to the width there is and drawn again when it changes.

const closed = (corners, r) => svg("path", { d: `M${corners.map(([x, y]) => `${(x * r).toFixed(2)} ${(y * r).toFixed(2)}`).join("L")}Z` });
const regular = (n) => Array.from({ length: n }, (_, i) => [1.15 * Math.sin((2 * Math.PI * i) / n), -1.15 * Math.cos((2 * Math.PI * i) / n)]);
const PLUS = [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]];

/** In the order of matplotlib's "o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p". */
const MARKS = [
  (r) => svg("circle", { r }),
  (r) => svg("rect", { x: -r * 0.9, y: -r * 0.9, width: r * 1.8, height: r * 1.8 }),
  (r) => closed([[0, -1.15], [1.1, 0.85], [-1.1, 0.85]], r),
  (r) => closed([[0, -1.3], [1.1, 0], [0, 1.3], [-1.1, 0]], r),
  (r) => closed([[0, 1.15], [1.1, -0.85], [-1.1, -0.85]], r),
  (r) => closed(PLUS, r),
  (r) => closed(PLUS.map(([x, y]) => [(x - y) / Math.SQRT2, (x + y) / Math.SQRT2]), r),
  (r) => closed([[-1.15, 0], [0.85, -1.1], [0.85, 1.1]], r),
  (r) => closed([[1.15, 0], [-0.85, -1.1], [-0.85, 1.1]], r),
  (r) => closed(regular(6), r),
  (r) => closed(regular(5), r),
];

/** A marker at (x, y); hollow ones are oracle choices. */
function mark(x, y, look, { r = 4.5, hollow = false } = {}) {
  const shape = MARKS[look.marker](r);
  shape.style.setProperty("--c", look.colour);
  return fill(shape, { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, class: hollow ? "mark hollow" : "mark" }, []);
}

let resumed = null; // where in a chart the focus was, {label, at}, while the page is drawn anew

/** Where in a chart the focus is: what `resumed` takes. */
function focusInChart() {
  const chart = document.activeElement.closest(".chart svg");
  return chart && { label: chart.getAttribute("aria-label"), at: [...chart.querySelectorAll("[tabindex]")].indexOf(document.activeElement) };
}

/**
 * A figure whose drawing follows its width; label is what a screen reader says. draw(width, point) gives an SVG element; what it
 * passes to point(node, text, {name, open}) can be reached there, as in reach(), in this order. again() draws it once more.
 */
function chart(label, draw, ...notes) {
  const holder = el("div", { class: "chart" });
  let last = 0;
  const redraw = () => {
    const width = Math.floor(holder.clientWidth);
    if (!width || width === last) return;
    last = width;
    const points = [], before = holder.contains(document.activeElement) ? focusInChart() : document.activeElement === document.body && resumed;
    const drawn = draw(width, (node, text, more) => (points.push({ node, text, ...more }), node));
    fill(drawn, { role: points.length ? "group" : "img", "aria-label": label }, []);
    for (const text of drawn.querySelectorAll("text:not(.label)")) text.setAttribute("aria-hidden", "true"); // ticks and names, which the points say
    const inner = el("div", {}, drawn), stopAt = points.length && reach(inner, points, +drawn.dataset.columns || 1);
    holder.replaceChildren(inner);
    if (!stopAt) return;
    const back = before && before.label === label ? before.at : -1;
    stopAt(Math.max(0, back));
    if (back >= 0) {
      resumed = null;
      drawn.querySelector("[tabindex='0']").focus({ preventScroll: true });
    }
  };
  new ResizeObserver(redraw).observe(holder);
  const node = el("figure", {}, notes.length ? el("figcaption", {}, ...notes) : null, holder);
  return Object.assign(node, { again: () => { last = 0; redraw(); } });
}

function ticks(low, high, count = 5) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(12));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const n of [1, 2, 5]) if (n * 10 ** power >= low * 0.999 && n * 10 ** power <= high * 1.001) found.push(n * 10 ** power);
  }
  return found.length > 7 ? found.filter((at) => Math.abs(Math.log10(at) % 1) < 1e-9) : found;
}

/** Axes with a grid: {root, x, y, plot}, x and y turn values into places. */
function axes(width, height, { x, y, xLabel, yLabel, log = false, left = 46, right = 12, xTicks, yTicks, xName }) {
  const top = 10, bottom = 40, inner = width - left - right, tall = height - top - bottom;
  const to = (value) => (log ? Math.log10(value) : value);
  const px = (value) => left + ((to(value) - to(x[0])) / (to(x[1]) - to(x[0]) || 1)) * inner;
  const py = (value) => top + (1 - (value - y[0]) / (y[1] - y[0] || 1)) * tall;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height });
  for (const at of xTicks || (log ? logTicks(...x) : ticks(...x, width < 400 ? 4 : 6))) {
    root.append(svg("line", { x1: px(at), x2: px(at), y1: top, y2: top + tall, class: "grid" }));
    root.append(svg("text", { x: px(at), y: top + tall + 15, "text-anchor": "middle" }, xName ? xName(at) : +at.toPrecision(6)));
  }
  for (const at of yTicks || ticks(...y)) {
    root.append(svg("line", { x1: left, x2: left + inner, y1: py(at), y2: py(at), class: "grid" }));
    root.append(svg("text", { x: left - 6, y: py(at) + 4, "text-anchor": "end" }, +at.toPrecision(6)));
  }
  root.append(svg("line", { x1: left, x2: left + inner, y1: top + tall, y2: top + tall, class: "axis" }));
  root.append(svg("text", { x: left + inner / 2, y: height - 6, "text-anchor": "middle", class: "label" }, xLabel));
  if (yLabel) root.append(svg("text", { transform: `translate(12 ${top + tall / 2}) rotate(-90)`, "text-anchor": "middle", class: "label" }, yLabel));
  const plot = svg("g", {});
  root.append(plot);
  return { root, plot, x: px, y: py, left, right: left + inner, top, bottom: top + tall };
}

const range = (values, pad = 0.06) => {
  const known = values.filter(isNumber);
  if (!known.length) return [0, 1];
  let low = known[0], high = known[0];
  for (const value of known) (low = Math.min(low, value)), (high = Math.max(high, value));
  const more = (high - low) * pad || 1;
  return [low - more, high + more];
};

/** Names and markers beside a chart; a click or key hides and shows what belongs to a name. */
function legend(entries, toggle) {
  return el("ul", { class: "legend" }, ...entries.map(({ name, look, hollow }) => {
    const sign = svg("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" }, mark(0, 0, look, { hollow }));
    if (!toggle) return el("li", {}, sign, name);
    const button = el("button", { type: "button", "aria-pressed": "true", onclick: () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      toggle(name, on);
    } }, sign, name);
    return el("li", {}, button);
  }));
}

/** Labels beside points, moved apart up and down where they would lie on each other. */
function beside(plot, points, rightEdge) {
  const taken = [];
  for (const { x, y, name } of [...points].sort((a, b) => b.y - a.y)) {
    const wide = 6.3 * name.length + 8, left = x + wide > rightEdge ? x - wide - 4 : x + 8;
    let at = y + 4;
    for (const other of [...taken].sort((a, b) => b.at - a.at)) {
      if (other.left < left + wide && left < other.left + other.wide && Math.abs(other.at - at) < 13) at = other.at - 13;
    }
    taken.push({ left, wide, at });
    plot.append(svg("text", { x: left, y: at, class: "strong" }, name));
  }
}

/** A square matrix of counts as colours: each row by its own sum. */
function confusion(label, matrix, classes) {
  const small = classes.length > 20;
  return chart(label, (width, point) => {
    const side = Math.min(width, 340), room = small ? 8 : Math.min(84, 12 + 6.2 * Math.max(...classes.map((name) => name.length)));
    const cell = (side - room - 4) / classes.length, flat = 6.2 * Math.max(...classes.map((name) => name.length)) < cell;
    const below = small ? 4 : flat ? 15 : Math.min(room, 72), tall = side - room + below + 18;
    const root = svg("svg", { viewBox: `0 0 ${side} ${tall}`, width: side, height: tall, "data-columns": classes.length });
    if (!small) classes.forEach((name, j) => {
      const x = room + (j + 0.5) * cell, y = side - room + 4;
      root.append(svg("text", flat ? { x, y: y + 7, "text-anchor": "middle" } : { transform: `translate(${x + 4} ${y}) rotate(-90)`, "text-anchor": "end" }, cut(name, 11)));
    });
    matrix.forEach((row, i) => {
      const sum = row.reduce((a, b) => a + b, 0);
      if (!small) root.append(svg("text", { x: room - 5, y: (i + 0.5) * cell + 4, "text-anchor": "end" }, cut(classes[i], 11)));
      row.forEach((count, j) => {
        const share = sum ? count / sum : 0;
        const box = svg("rect", { x: room + j * cell, y: i * cell, width: cell - 0.6, height: cell - 0.6, class: i === j ? "right" : "wrong" });
        box.style.setProperty("--v", `${(Math.sqrt(share) * 100).toFixed(0)}%`);
        root.append(point(box, `${classes[i]} predicted as ${classes[j]}: ${count} of ${sum}`));
        if (cell > 22 && count) {
          root.append(svg("text", { x: room + (j + 0.5) * cell, y: (i + 0.5) * cell + 3.5, "text-anchor": "middle", class: share > 0.35 ? "over" : "" }, count));
        }
      });
    });
    root.append(svg("text", { x: room + (side - room) / 2, y: tall - 5, "text-anchor": "middle", class: "label" }, "predicted; rows: true class"));
    return root;
  }, label);
}

const dashed = (one) => `line dash${one.dash || 0}`;
const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** Places on a path at even steps along it, the first ``from`` of a step in. */
function evenly(places, steps, from) {
  const long = (i) => Math.hypot(places[i][0] - places[i - 1][0], places[i][1] - places[i - 1][1]);
  let whole = 0, gone = 0;
  for (let i = 1; i < places.length; i++) whole += long(i);
  const found = [];
  for (let i = 1; i < places.length; i++) {
    for (let at = ((found.length + from) / steps) * whole; at <= gone + long(i) && found.length < steps; at = ((found.length + from) / steps) * whole) {
      const share = (at - gone) / (long(i) || 1);
      found.push([places[i - 1][0] + share * (places[i][0] - places[i - 1][0]), places[i - 1][1] + share * (places[i][1] - places[i - 1][1])]);
    }
    gone += long(i);
  }
  return found;
}

/**
 * Lines through points: series [{name, points: [[x, y]], colour, dash, look, chosen}], and a ring where x was chosen. Points are
 * marked and can be reached; or, with ``bare``, a few places of each line by its look, and each line can be reached.
 */
function lines(label, series, options, ...notes) {
  return chart(label, (width, point) => {
    const all = series.flatMap((one) => one.points);
    const frame = axes(width, options.height || 240, {
      x: options.x || range(all.map((p) => p[0]), 0.03), y: options.y || range(all.map((p) => p[1])), ...(typeof options.axes === "function" ? options.axes(width) : options.axes),
    });
    series.forEach((one, i) => {
      const places = one.points.map(([x, y]) => [frame.x(x), frame.y(y)]);
      const line = svg("path", { d: `M${places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`, class: dashed(one) });
      line.style.setProperty("--c", one.colour);
      frame.plot.append(options.bare ? point(line, one.name) : line);
      if (!options.bare) for (const [x, y] of one.points) {
        const dot = mark(frame.x(x), frame.y(y), one.look || { marker: 0, colour: one.colour }, { r: one.look ? 3.4 : 2.6 });
        const said = `${one.name}: ${options.said ? options.said(x) : +x.toPrecision(5)}, ${+y.toPrecision(4)}`;
        frame.plot.append(point(dot, x === one.chosen ? `${said}, chosen` : said));
      } else if (one.look) for (const [x, y] of evenly(places, 5, 0.2 + 0.1 * (i % 6))) frame.plot.append(mark(x, y, one.look, { r: 3.4 }));
      const at = one.points.find(([x]) => x === one.chosen);
      if (at) frame.plot.append(svg("circle", { cx: frame.x(at[0]), cy: frame.y(at[1]), r: 7, class: "ring" }));
    });
    return frame.root;
  }, ...notes);
}

const lineLegend = (series) => el("ul", { class: "legend" }, ...series.map((one) => {
  const line = svg("line", { x1: 0, x2: 30, y1: 8, y2: 8, class: dashed(one) });
  line.style.setProperty("--c", one.colour);
  return el("li", {}, svg("svg", { width: 30, height: 16, "aria-hidden": "true" }, line, one.look && mark(15, 8, one.look, { r: 3.4 })), one.name);
}));

// The picture that explains magnitude-based pruning: every neuron's magnitude against its saliency.

const FARTHEST = 8; // z-scores beyond are drawn at the edge

/** Before and after a defense; details hold layers, pruned and the points of both. */
function neuronCharts(details) {
  if (!details["neurons before"]) return null;
  const gone = new Set(details.pruned), names = [];
  for (const [name, size] of details.layers) for (let i = 0; i < size; i++) names.push(`${name}, channel ${i}`);
  const known = ["neurons before", "neurons after"].flatMap((key) => (details[key] || []).flat()).filter(isNumber).map(Math.abs);
  const edge = Math.min(FARTHEST, Math.max(3, Math.ceil(known.reduce((a, b) => Math.max(a, b), 0))));
  const clip = (value) => Math.max(-edge, Math.min(edge, value));
  const one = (title, [saliency, magnitude]) => chart(
    `${title}: magnitude against saliency of ${plural(names.length, "neuron")}, ${gone.size} of them pruned`,
    (width, point) => {
      const frame = axes(width, Math.min(width, 340), { x: [-edge, edge], y: [-edge, edge], xLabel: "saliency, z within its layer", yLabel: "magnitude, z within its layer", left: 40 });
      for (const pruned of [true, false]) { // the pruned ones are reached first, and lie above the others
        saliency.forEach((x, i) => {
          if (!isNumber(x) || !isNumber(magnitude[i]) || gone.has(i) !== pruned) return;
          const look = pruned ? { marker: 3, colour: "var(--c1)" } : { marker: 0, colour: "var(--c0)" };
          const dot = mark(frame.x(clip(x)), frame.y(clip(magnitude[i])), look, { r: pruned ? 3.4 : 2.2 });
          dot.classList.add(pruned ? "pruned" : "kept");
          frame.plot.prepend(point(dot, `${names[i]}${pruned ? ", pruned" : ""}: saliency ${fixed(x, 2)}, magnitude ${fixed(magnitude[i], 2)}`));
        });
      }
      frame.plot.prepend(svg("line", { x1: frame.x(-edge), y1: frame.y(-edge), x2: frame.x(edge), y2: frame.y(edge), class: "diagonal" }));
      return frame.root;
    },
    title,
  );
  return [
    el("div", { class: "pair" }, one("Before", details["neurons before"]), details["neurons after"] && one("After: the neurons that are left", details["neurons after"])),
    legend([{ name: "kept", look: { marker: 0, colour: "var(--c0)" } }, { name: "pruned", look: { marker: 3, colour: "var(--c1)" } }]),
    el("p", { class: "quiet" }, "Upper left of the diagonal: weights larger than the clean loss has use for, the mark of a backdoor neuron that MNP looks for."),
  ];
}

/** Pruned neurons of each layer as bars; layers: {name: count}, sizes: {name: number of neurons}. */
function layerBars(layers, sizes) {
  const entries = Object.entries(layers).filter(([, count]) => isNumber(count));
  if (!entries.length) return null;
  const most = Math.max(...entries.map(([name, count]) => sizes[name] || count));
  return el("table", { class: "bars" }, caption("pruned neurons by layer"), el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "layer"), el("th", { scope: "col", class: "number" }, "pruned"), el("th", { scope: "col" }, Object.keys(sizes).length ? "share of the layer" : ""))),
    el("tbody", {}, ...entries.map(([name, count]) => {
      const size = sizes[name];
      const bar = el("div", { class: "bar", style: { "--of": `${(100 * (size || count)) / most}%`, "--v": `${(100 * count) / (size || count)}%` } });
      return el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, size ? `${count} of ${size}` : String(count)), el("td", {}, bar));
    })));
}

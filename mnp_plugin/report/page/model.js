// The page of one model: what a repair or a detector found.

function modelHead(data) {
  return [
    el("div", { class: "top" }, el("h1", {}, data.title, el("small", {}, data.subtitle || "")), el("div", { class: "buttons" }, themeButton())),
    data.verdict && el("p", { class: `verdict ${data.mood || ""}` }, data.verdict),
  ];
}

function modelMain(data) {
  const parts = [];
  const notes = (data.warnings || []).map((text) => el("p", { class: "warning" }, text));
  if (data.measured && data.measured.length) {
    const values = data.measured.some((row) => isNumber(row.after)) ? ["before", "after"] : ["before"]; // a verdict changes nothing
    const heads = [...(values.length > 1 ? values : ["share"]), "images"];
    parts.push(section("measured", "Measured", ...notes, el("table", { class: "plain" }, caption("measured"),
      el("thead", {}, el("tr", {}, el("td"), ...heads.map((name) => el("th", { scope: "col", class: "number" }, name)))),
      el("tbody", {}, ...data.measured.map((row) => el("tr", {}, el("th", { scope: "row" }, row.name, row.note && el("small", {}, ` ${row.note}`)),
        ...values.map((key) => el("td", { class: "number" }, isNumber(row[key]) ? `${fixed(row[key])} %` : "—")), el("td", { class: "number" }, row.images)))))));
  } else if (notes.length) parts.push(section("measured", "Notes", ...notes));
  if (data.evidence && data.evidence.length) parts.push(section("evidence", "Evidence by class", evidence(data), el("p", { class: "quiet" }, "In the detector's own unit; the largest is its score, or what that is made from.")));
  if (data.picture) {
    parts.push(section("perturbation", "The perturbation that was found", el("img", { class: "grid-picture", src: data.picture, alt: "clean images, the same with the perturbation, and the difference times ten, one row each" }),
      el("p", { class: "quiet" }, "Rows: clean images, the same with the perturbation, the difference times ten. ", data.seen || "")));
  }
  const cloud = data.details ? neuronCharts(data.details) : null;
  if (cloud) parts.push(section("neurons", "Magnitude against saliency", ...cloud));
  const bars = data.layers && layerBars(data.layers, Object.fromEntries((data.details && data.details.layers) || []));
  if (bars) parts.push(section("layers", "Pruned neurons by layer", bars));
  const along = pathParts(data.report || {}, null, []);
  if (along.length) parts.push(section("path", "How it stopped", ...along));
  const charts = data.details && data.details.clean && data.details.clean.length
    ? [["Clean images, before", "clean_before"], ["Clean images, after", "clean"]].map(([title, key]) => confusion(title, data.details[key], data.details.classes)) : [];
  const count = charts.length ? data.details.clean.flat().reduce((a, b) => a + b, 0) : 0;
  if (charts.length) parts.push(section("confusion", `Confusion on the clean images, all ${count}`, el("div", { class: "pair" }, ...charts)));
  parts.push(section("facts", "All it reports", fold("Report", facts(withoutPaths(data.report || {}))), fold("Settings", facts(data.settings || {}))));
  return parts;
}

function evidence(data) {
  const most = Math.max(...data.evidence.map(([, value]) => Math.abs(value)), 1e-9);
  const rows = [...data.evidence].sort((a, b) => b[1] - a[1]);
  return el("table", { class: "bars" }, caption("evidence by class"), el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "class"), el("th", { scope: "col", class: "number" }, "evidence"), el("td"))), el("tbody", {}, ...rows.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name, name === data.suspected && el("small", {}, " suspected")),
    el("td", { class: "number" }, fixed(value, 3)), el("td", {}, el("div", { class: "bar", style: { "--of": "100%", "--v": `${(100 * Math.max(0, value)) / most}%` } }))))));
}

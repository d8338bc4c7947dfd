// One cell, looked at closely, in a dialog: the browser keeps the focus in it and closes it by Escape.

let drawerState = null; // {app, rows, index, run}

function openDrawer(app, rows, index, run = 0) {
  drawerState = { app, rows, index, run };
  const dialog = document.getElementById("drawer"), had = dialog.contains(document.activeElement) && document.activeElement.getAttribute("aria-label");
  drawDrawer();
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector(had ? `[aria-label="${CSS.escape(had)}"]` : ".close") || dialog.querySelector(".close")).focus();
  dialog.scrollTop = 0;
}

function drawDrawer() {
  const { app, rows, index, run } = drawerState;
  const row = rows[index], dialog = document.getElementById("drawer");
  const records = row.records.map((i) => app.data.records[i]);
  const record = records[Math.min(run, records.length - 1)];
  const go = (by) => openDrawer(app, rows, (index + by + rows.length) % rows.length);
  const pick = records.length > 1 && el("label", {}, "run ", el("select", { "aria-label": "run", onchange: (event) => openDrawer(app, rows, index, +event.target.value) },
    ...records.map((one, i) => el("option", { value: i, selected: i === run }, runName(one)))));
  dialog.replaceChildren(
    el("div", { class: "drawer-head" },
      el("h2", { id: "drawer-title" }, row.attack, el("span", { class: "quiet" }, " × "), nameOf(row.defense, row.selection)),
      el("div", { class: "buttons" },
        pick,
        el("button", { type: "button", onclick: () => go(-1), "aria-label": "previous cell" }, "←"),
        el("button", { type: "button", onclick: () => go(1), "aria-label": "next cell" }, "→"),
        el("button", { type: "button", class: "close", onclick: () => dialog.close(), "aria-label": "close" }, "✕"))),
    ...(record ? drawerBody(app, row, record) : [el("p", {}, "No record.")]),
  );
  if (record) history.replaceState(null, "", `#${encodeURIComponent(record.file)}`);
}

const runName = (record) => `seed ${record.seed}${record.draw ? `, draw ${record.draw}` : ""}${record.status === "ok" ? "" : ", failed"}`;

function drawerBody(app, row, record) {
  const pool = app.data.pool, details = record.details, report = record.report || {};
  const after = row.selection === "oracle" ? record.oracle : record.after;
  const parts = [];
  if (record.status !== "ok") parts.push(el("p", { class: "warning" }, `Failed: ${record.reason}`));
  else if (row.flag) parts.push(el("p", { class: "warning" }, row.flag));
  const shown = [["before the defense", record.before]];
  if (row.selection !== "none") shown.push([row.selection === "oracle" ? "chosen by test ASR (oracle)" : "after, blind choice", after]);
  if (row.selection !== "oracle" && record.oracle) shown.push(["had test ASR chosen (oracle)", record.oracle]);
  parts.push(el("table", { class: "plain" }, caption("percent, before and after"), el("thead", {}, el("tr", {}, el("td"), ...["ACC", "ASR", "RA"].map((name) => el("th", { scope: "col", class: "number" }, name)))),
    el("tbody", {}, ...shown.map(([name, scores]) => el("tr", {}, el("th", { scope: "row" }, name), ...[0, 1, 2].map((i) => el("td", { class: "number" }, scores ? fixed(scores[i]) : "—")))))));
  parts.push(el("p", { class: "quiet" }, [
    runName(record), isNumber(record.seconds) && `${fixed(record.seconds)} s`, isNumber(record.peak_mb) && `${fixed(record.peak_mb, 0)} MiB`,
    isNumber(record.trained) && `victim trained in ${fixed(record.trained, 0)} s`,
  ].filter(Boolean).join(" · ")));
  parts.push(el("p", { class: "quiet" }, conditions(app, row).split("\n").slice(1).filter((line) => line !== row.flag).join(" · ")));
  const missing = [];
  if (record["left out"]) {
    parts.push(el("p", { class: "warning" }, `Left out to keep this page small. The rest stands in records/${record.file}`));
  } else {
    parts.push(...pictureParts(app, row, details, missing), ...recoveredParts(app, record), ...pathParts(report, details, missing), ...pruneParts(report, details, missing), ...confusionParts(details, missing));
    if (missing.length) parts.push(el("p", { class: "quiet" }, `Not stored beside this record: ${missing.join(", ")}.`));
    if (Object.keys(report).length) parts.push(fold("What the defense reports", facts(withoutPaths(report))));
  }
  parts.push(fold("Settings", facts(Object.fromEntries(Object.entries(record.spec).map(([key, i]) => [key, pool[i]])))));
  parts.push(fold("Where it was made", facts({ record: `records/${record.file}`, versions: pool[record.versions], hardware: pool[record.hardware] })));
  return parts;
}

const part = (title, ...inside) => el("section", {}, el("h3", {}, title), ...inside);

function pictureParts(app, row, details, missing) {
  const uri = details && app.data.pictures[details.picture];
  if (!uri) {
    if (!row.clean) missing.push("images of the trigger"); // a net that was never attacked has none
    return [];
  }
  return [part("The trigger", triggerTable(uri, details))];
}

/** The picture, and what the net says of each image. */
function triggerTable(uri, details) {
  const name = (i) => details.classes[i] ?? "—", of = details.shown;
  const rows = [["true class", "true"], ["attacker wants", "wanted"], ["before", "before"], ["after", "after"]];
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "images of the trigger" }, el("table", { class: "trigger" }, caption("images of the trigger, and what the net says of each"),
    el("tbody", {},
      el("tr", {}, el("th", { scope: "row" }, "clean, triggered, difference × 10"), el("td", { colspan: Math.max(1, of.length) },
        el("img", { src: uri, alt: `${of.length} test images: clean, with the trigger, and their difference times ten` }))),
      ...rows.map(([title, key]) => el("tr", {}, el("th", { scope: "row" }, title), ...of.map((image) =>
        el("td", { class: key === "before" || key === "after" ? (image[key] === image.true ? "good" : image[key] === image.wanted ? "bad" : "odd") : null }, name(image[key])))))))); 
}

/** What the defense, and detectors of its victim, found the victim to follow; nothing where none of them searched. */
function recoveredParts(app, record) {
  const details = record.details, own = details && details.perturbation, name = (i) => (details && details.classes[i]) ?? `class ${i}`;
  const percent = (share) => `${fixed(100 * share)} %`;
  const found = (record.recovered || []).map((one) => [one.picture, `Detector ${one.detector}: score ${fixed(one.score, 2)}${isNumber(one.suspected) ? `, suspected target: ${name(one.suspected)}` : ""}.`]);
  if (own && own.picture) found.unshift([own.picture, `By the defense: sends ${percent(own.before)} of ${plural(own.images, "clean image")} of other classes to ${name(own.class)} in the victim, ${percent(own.after)} after the defense.`]);
  const figures = found.filter(([picture]) => app.data.pictures[picture]).map(([picture, text]) => el("figure", {},
    el("img", { class: "grid-picture", src: app.data.pictures[picture], alt: "clean images, the same with the perturbation that was found, and the difference times ten, one row each" }), el("figcaption", {}, text)));
  return figures.length ? [part("The recovered perturbation", el("div", { class: "pair" }, ...figures), el("p", { class: "quiet" }, "Rows: clean images, the same with the perturbation, the difference times ten. What was found need not look like the trigger, nor lead where it leads."))] : [];
}

function confusionParts(details, missing) {
  if (!details || !details.clean.length) return missing.push("confusion matrices"), [];
  const charts = [["Clean images, before", "clean_before"], ["Clean images, after", "clean"], ["Triggered images, before", "triggered_before"], ["Triggered images, after", "triggered"]]
    .filter(([, key]) => details[key].length)
    .map(([title, key]) => confusion(title, details[key], details.classes));
  return [part("Confusion", el("div", { class: "pair" }, ...charts))];
}

/** Lists of [x, y] that a report calls "path of X, Y", wherever in it they stand. */
function paths(report, found = []) {
  for (const [key, value] of Object.entries(report || {})) {
    const named = /^path of (.+), (.+)$/.exec(key);
    if (named && Array.isArray(value)) found.push({ x: named[1], y: named[2], points: value.filter((p) => Array.isArray(p) && p.every(isNumber)), chosen: report[named[1]] });
    else if (value && typeof value === "object") paths(value, found);
  }
  return found;
}

const withoutPaths = (value) => !value || typeof value !== "object" ? value : Array.isArray(value) ? value.map(withoutPaths)
  : Object.fromEntries(Object.entries(value).filter(([key]) => !key.startsWith("path of ") && key !== "layers").map(([key, item]) => [key, withoutPaths(item)]));

function pathParts(report, details, missing) {
  const parts = [], along = details && details.path.length ? details.path : null;
  if (along) {
    const x = ["pruned", "threshold"].find((key) => along.every((point) => isNumber(point[key]))) || Object.keys(along[0]).find((key) => key !== "acc" && key !== "asr");
    const known = along.filter((point) => isNumber(point[x])), grows = known.every((point, i) => !i || point[x] > known[i - 1][x]);
    const at = known.map((point, i) => (grows ? point[x] : i)); // a way that stays or goes back is drawn step by step
    const last = known.map((point) => point[x]).lastIndexOf(report[x]), chosen = last < 0 ? null : at[last];
    const series = [["ACC", "acc", "var(--c0)", 0], ["ASR", "asr", "var(--c1)", 1]].map(([name, key, colour, dash]) =>
      ({ name, colour, dash, chosen, points: known.map((point, i) => [at[i], 100 * point[key]]).filter(([, y]) => isNumber(y)) })).filter((one) => one.points.length);
    const named = (i) => facts(known[Math.round(i)]?.[x]);
    const stepwise = (width) => ({ xTicks: at.filter((i) => i % Math.ceil((28 * at.length) / (width - 70)) === 0), xName: named, xLabel: `${x}, step by step`, yLabel: "%" });
    parts.push(part("Along the settings it chose among", lineLegend(series), lines(`ACC and ASR by ${x}`, series, { y: [0, 100], axes: grows ? { xLabel: x, yLabel: "%" } : stepwise, said: grows ? null : (i) => `${x} ${named(i)}` }),
      el("p", { class: "quiet" }, `${chosen === null ? "" : "Ring: what it chose. "}Measured on ${details["path images"]} test images; the defense saw none of this.`)));
  }
  const own = paths(report).filter((one) => one.points.length > 1);
  if (own.length) {
    const series = own.map((one, i) => ({ name: own.length > 1 ? `round ${i + 1}` : one.y, colour: `var(--c${i % 7})`, dash: i % 4, points: one.points, chosen: one.chosen }));
    parts.push(part(`What it went by: ${own[0].y}`, own.length > 1 && lineLegend(series), lines(`${own[0].y} by ${own[0].x}`, series, { axes: { xLabel: own[0].x, yLabel: own[0].y } }),
      series.some((one) => one.points.some(([x]) => x === one.chosen)) && el("p", { class: "quiet" }, "Ring: where it stopped.")));
  }
  if (!parts.length && !details) missing.push("a pruning path"); // with details and without a path, it chose among no settings
  return parts;
}

function pruneParts(report, details, missing) {
  const sizes = Object.fromEntries((details && details.layers) || []);
  const layers = report.layers && typeof report.layers === "object" && !Array.isArray(report.layers) ? report.layers : {};
  const bars = layerBars(layers, sizes), cloud = details ? neuronCharts(details) : null;
  if (!cloud) missing.push("magnitude and saliency of neurons");
  return [cloud && part("Magnitude against saliency", ...cloud), bars && part("Pruned neurons by layer", bars)].filter(Boolean);
}

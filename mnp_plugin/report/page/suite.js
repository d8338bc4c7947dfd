// The page of a suite.

const METRICS = {
  asr: { name: "ASR", bad: true, help: "triggered test images sent to the attacker's label" },
  acc: { name: "ACC", help: "accuracy on the clean test set" },
  excess_asr: { name: "excess ASR", bad: true, help: "ASR less that of a clean net on the same images, in points" },
  ra: { name: "RA", help: "triggered test images given their true label" },
  der: { name: "DER", help: "defense effectiveness rating; 50 means nothing gained" },
};

/** Further columns of the summary. */
const HELP = {
  "worst ASR": "the attack that it removes least",
  rank: "mean rank by DER over the attacks that all ranked defenses were measured on; oracle choices and defenses that were given more than clean images have none",
  "ΔACC clean": "points of accuracy on the model that was never attacked",
};

/** For who is new to the field, and for fingers, which cannot hover over a heading. */
const WORDS = Object.fromEntries([
  ...Object.values(METRICS).map(({ name, help }) => [name, help]),
  ...Object.entries(HELP),
  ["victim", "a net as its attack, if any, trained it"],
  ["clean", "a net that was never attacked"],
  ["badnets 0.05", "an attack and its poison ratio: the share of training images with the trigger, in attacks that change no label (lc, sig, …) of the target class"],
  ["none", "no defense"],
  ["blind", "a defense that chose by its clean images alone, as every one does where nothing else is said"],
  ["oracle", "the same, had it known the test ASR: no fair result"],
  ["took, attack-failed, ⚠", "an attack took if it succeeded before any defense; where it failed on some or all victims, the cell enters no mean"],
]);

function suitePage(data) {
  for (const { details } of data.records)
    if (details) for (const [name, i] of Object.entries(details.shared)) details[name] = data.pool[i];
  const app = {
    data,
    rows: unpacked(data.rows),
    group: 0,
    filter: { text: "", oracle: true, flagged: true, metric: "asr", view: "matrix" },
  };
  app.look = looks(data.looks.defenses);
  app.detectorLook = looks(data.looks.detectors);
  app.intervals = new Map();
  data.groups.forEach((group, g) => {
    for (const one of unpacked(group.intervals)) app.intervals.set([g, one.attack, one.defense, one.selection, one.score].join("\n"), one);
  });
  return app;
}

const inGroup = (app) => app.rows.filter((row) => row.group === app.group);
const groupName = (group) => `${group.dataset}, ${group.net}, ${group.images} clean images`;

function suiteHead(app, redraw) {
  const { progress } = app.data;
  const share = progress.planned ? progress.done / progress.planned : 1;
  const badges = [
    el("span", { class: "badge" }, `${progress.done} of ${plural(progress.planned, "cell")}`),
    progress.failed ? el("span", { class: "badge warn" }, `${progress.failed} failed`) : null,
    app.data.damaged.length ? el("span", { class: "badge warn" }, `${app.data.damaged.length} damaged`) : null,
    document.body.dataset.live ? el("span", { class: "badge live" }, "live") : null,
  ];
  const choose = app.data.groups.length > 1 && el("label", {}, "Show ", el("select", { id: "group", onchange: (event) => { app.group = +event.target.value; redraw(); } },
    ...app.data.groups.map((group, i) => el("option", { value: i, selected: i === app.group }, groupName(group)))));
  const links = [["summary", "Summary"], ["cells", "Attacks × defenses"], ["victims", "Victims"], ["after", "After the defense"], ["charts", "Charts"], ["chance", "Statistics"], ["detection", "Detection"], ["samples", "Single images"], ["flags", "Failed and flagged"], ["provenance", "Provenance"]]
    .filter(([id]) => document.getElementById(id));
  return [
    el("div", { class: "top" }, el("h1", {}, app.data.title, el("small", {}, app.data.groups[app.group] ? groupName(app.data.groups[app.group]) : "")), el("div", { class: "buttons" }, choose, themeButton())),
    el("p", { class: "badges", role: "status" }, ...badges),
    share < 1 && el("progress", { max: progress.planned, value: progress.done, "aria-label": "cells with a record" }),
    el("nav", { "aria-label": "Parts of this page" }, ...links.map(([id, name]) => el("a", { href: `#${id}` }, name))),
  ];
}

function suiteMain(app) {
  const group = app.data.groups[app.group];
  if (!group) return [section("summary", "No records yet", ...app.data.notices.map((text) => el("p", {}, text)))];
  const charts = chartParts(app, group), detection = detectionPart(app);
  return [
    summaryPart(app, group),
    cellsPart(app),
    victimsPart(app),
    afterPart(app, group),
    charts.length > 0 && section("charts", "Charts", el("div", { class: "cards" }, ...charts)),
    chancePart(group),
    detection,
    samplesPart(app),
    flagsPart(app),
    provenancePart(app),
  ].filter(Boolean);
}

// ------------------------------------------------------------------------------------------------------------------ summary

const signed = (value, std) => (isNumber(value) ? `${value > 0 ? "+" : ""}${spread(value, std)}` : "—");
const withInterval = (row, score) => el("span", {}, spread(row[score], row.std[score]), row.interval[score] && el("small", {}, ` [${fixed(row.interval[score][0])}, ${fixed(row.interval[score][1])}]`));

function summaryPart(app, group) {
  if (!group.overall.length) return section("summary", "Summary", el("p", {}, "No attack took and was defended, so there is nothing to rank."));
  const has = (key) => group.overall.some((row) => isNumber(row[key]));
  const columns = [
    { title: "defense", value: (row) => nameOf(row.defense, row.selection), head: true, show: (row) => [swatch(app.look.get(row.defense), row.selection === "oracle"), nameOf(row.defense, row.selection), row.knowledge && el("small", {}, ` given the ${row.knowledge}`)] },
    { title: "attacks", value: (row) => row.attacks, show: (row) => row.attacks, number: true },
    { title: "ACC", value: (row) => row.acc, show: (row) => withInterval(row, "acc"), number: true, help: METRICS.acc.help },
    { title: "ASR", value: (row) => row.asr, show: (row) => withInterval(row, "asr"), number: true, low: true, help: METRICS.asr.help },
    { title: "worst ASR", value: (row) => row.worst.asr[0], show: (row) => el("span", {}, fixed(row.worst.asr[0]), row.defense !== "none" && el("small", {}, ` ${row.worst.asr[1]}`)), number: true, low: true, help: HELP["worst ASR"] },
    has("excess_asr") && { title: "excess", value: (row) => row.excess_asr, show: (row) => spread(row.excess_asr, row.std.excess_asr), number: true, low: true, help: METRICS.excess_asr.help },
    { title: "RA", value: (row) => row.ra, show: (row) => spread(row.ra, row.std.ra), number: true, help: METRICS.ra.help },
    { title: "DER", value: (row) => row.der, show: (row) => withInterval(row, "der"), number: true, help: METRICS.der.help },
    { title: "rank", value: (row) => row.rank, number: true, low: true, help: HELP.rank },
    has("clean_delta_acc") && { title: "ΔACC clean", value: (row) => row.clean_delta_acc, show: (row) => signed(row.clean_delta_acc, row.std.clean_delta_acc), number: true, help: HELP["ΔACC clean"] },
    { title: "seconds", value: (row) => row.seconds, number: true, low: true },
  ].filter(Boolean);
  const table = sortable(columns, { rows: group.overall, label: "defenses, means over attacks" });
  const best = group.overall.find((row) => row.compared);
  return section("summary", "Summary",
    !best && group.overall.every((row) => row.selection === "none") && el("p", { class: "lead" }, "No defense in this suite: the table is of its victims as they were trained."),
    best && el("p", { class: "lead" }, "Highest mean DER of the blind choices by clean images alone: ", el("strong", {}, best.defense), ` with ${fixed(best.der)}, ACC ${fixed(best.acc)} and ASR ${fixed(best.asr)} over ${plural(best.attacks, "attack")}; worst ASR ${fixed(best.worst.asr[0])} (${best.worst.asr[1]}).`),
    tooFew(group.cautions),
    ...app.data.notices.map((notice) => el("p", { class: "caution" }, notice)),
    table.node,
    el("p", { class: "quiet" }, "Percent, means over attacks that took. ", group.varies && `${group.varies} `,
      group.overall.some((row) => Object.keys(row.interval).length) && "In brackets: 95 % interval over attacks, which says how a mean would vary with other attacks like these and nothing of other seeds. ",
      group.overall.some((row) => row.selection === "oracle") && "Oracle rows chose by test ASR and are no fair result. ",
      app.data.provenance.methods.length && `Versions of methods, where not the first: ${app.data.provenance.methods.join(", ")}.`),
    fold("What the words mean", facts(WORDS)));
}

const tooFew = (cautions) => cautions.length ? el("div", { class: "caution" }, el("strong", {}, "What the numbers are too few for"), el("ul", {}, ...cautions.map((text) => el("li", {}, text)))) : null;

const swatch = (look, hollow) => svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true", class: "swatch" }, mark(0, 0, look, { hollow }));

// -------------------------------------------------------------------------------------------------------------------- cells

function cellsPart(app) {
  const filter = app.filter, holder = el("div"), count = el("p", { class: "quiet", role: "status", id: "count" });
  const kinds = ["matrix", "list"], scores = Object.entries(METRICS).filter(([key]) => inGroup(app).some((row) => isNumber(row[key])));
  if (scores.length && !scores.some(([key]) => key === filter.metric)) filter.metric = scores[0][0]; // clean nets alone have no ASR
  const draw = () => {
    const needle = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = inGroup(app).filter((row) => (filter.oracle || row.selection !== "oracle") && (filter.flagged || !row.flag)
      && needle.every((word) => `${row.attack} ${nameOf(row.defense, row.selection)} ${row.flag}`.toLowerCase().includes(word)));
    app.visible = rows;
    holder.replaceChildren(filter.view === "matrix" ? matrix(app, rows) : list(app, rows));
    count.textContent = `${rows.length} of ${plural(inGroup(app).length, "result")}`; // an oracle's is of the same cell as the blind one
  };
  const metric = el("select", { id: "metric", onchange: (event) => { filter.metric = event.target.value; draw(); } },
    ...scores.map(([key, { name }]) => el("option", { value: key, selected: key === filter.metric }, name)));
  const view = kinds.map((kind) => el("button", { type: "button", "aria-pressed": String(filter.view === kind), onclick: (event) => {
    filter.view = kind;
    for (const button of event.target.parentNode.children) button.setAttribute("aria-pressed", String(button === event.target));
    draw();
  } }, kind));
  const box = (key, text) => el("label", {}, el("input", { type: "checkbox", checked: filter[key], onchange: (event) => { filter[key] = event.target.checked; draw(); } }), ` ${text}`);
  draw();
  return section("cells", "Attacks × defenses",
    el("div", { class: "controls" },
      el("div", { class: "switch", role: "group", "aria-label": "view" }, ...view),
      el("label", {}, "Filter ", el("input", { type: "search", id: "filter", value: filter.text, placeholder: "badnets mnp", oninput: (event) => { filter.text = event.target.value; draw(); } })),
      el("label", {}, "Score ", metric),
      inGroup(app).some((row) => row.selection === "oracle") && box("oracle", "oracle"),
      inGroup(app).some((row) => row.flag) && box("flagged", "flagged")),
    count, holder, within(app));
}

/** What the ± of single cells is. */
const within = (app) => app.data.groups[app.group].within && el("p", { class: "quiet" }, app.data.groups[app.group].within);

/** Conditions of a cell in words, for hovering. */
function conditions(app, row) {
  const runs = row.records.map((i) => app.data.records[i]), seeds = [...new Set(runs.map((run) => run.seed))];
  const found = app.intervals.get([row.group, row.attack, row.defense, row.selection, app.filter.metric].join("\n"));
  return [
    `${row.attack} × ${nameOf(row.defense, row.selection)}`,
    `ACC ${spread(row.acc, row.acc_std)}, ASR ${spread(row.asr, row.asr_std)}, RA ${spread(row.ra, row.ra_std)}, DER ${spread(row.der, row.der_std)}`,
    isNumber(row.excess_asr) && `excess ASR ${spread(row.excess_asr, row.excess_asr_std)}, a clean net's ASR ${fixed(row.asr_floor)}`,
    `before: ACC ${fixed(row.acc_before)}, ASR ${fixed(row.asr_before)}`,
    found && `${METRICS[app.filter.metric].name}: 95 % interval [${fixed(found.low)}, ${fixed(found.high)}], n = ${found.n}, varies: ${found.varies}`,
    `${plural(row.seeds, "seed")}${seeds.length === row.seeds ? ` (${seeds.join(", ")})` : ` of ${seeds.length}`}, ${plural(row.draws, "draw")}, clean images: ${row.source || "not said"}`,
    `${fixed(row.seconds)} s, ${fixed(row.peak_mb, 0)} MiB`,
    row.flag,
  ].filter(Boolean).join("\n");
}

function cellButton(app, row, rows) {
  const metric = METRICS[app.filter.metric], key = app.filter.metric, value = row[key];
  const failed = !isNumber(row.acc);
  const text = failed ? (row.flag ? "failed" : "—") : isNumber(value) ? fixed(value) : "—";
  const std = row[`${key}_std`];
  const button = el("button", {
    type: "button", class: `cell ${metric.bad ? "bad" : "good"}`,
    style: isNumber(value) ? { "--v": `${Math.max(0, Math.min(100, value)).toFixed(0)}%` } : {},
    onclick: () => openDrawer(app, rows, rows.indexOf(row)),
    "aria-label": `${row.attack} × ${nameOf(row.defense, row.selection)}: ${metric.name} ${failed ? text : spread(value, std)}${row.flag ? `, ${row.flag}` : ""}`,
  }, el("span", { class: "value" }, text, row.flag && !failed ? " ⚠" : ""), !failed && el("span", { class: "under" }, isNumber(std) ? `± ${fixed(std)}` : key === "acc" ? "" : `ACC ${fixed(row.acc)}`));
  return tip(button, () => conditions(app, row));
}

function matrix(app, rows) {
  if (!rows.length) return el("p", {}, "No cell matches.");
  const order = (row) => (row.selection === "none" ? 0 : row.selection === "blind" ? 1 : 2);
  const columns = [...new Map(rows.map((row) => [nameOf(row.defense, row.selection), row])).values()]
    .sort((a, b) => order(a) - order(b) || compare(a.defense, b.defense));
  const lines = new Map();
  for (const row of rows) {
    if (!lines.has(row.attack)) lines.set(row.attack, new Map());
    lines.get(row.attack).set(nameOf(row.defense, row.selection), row);
  }
  const key = app.filter.metric;
  return sortable([
    { title: "attack", value: ([attack]) => attack, head: true },
    ...columns.map((column) => {
      const name = nameOf(column.defense, column.selection);
      const of = ([, found]) => found.get(name);
      return { title: name, number: true, value: (line) => (of(line) ? of(line)[key] : null), show: (line) => (of(line) ? cellButton(app, of(line), rows) : el("span", { class: "none" }, "—")) };
    }),
  ], { rows: [...lines], label: `${METRICS[key].name} of attacks by defenses` , short: lines.size > STEP, row: () => {} }).node;
}

function list(app, rows) {
  const number = (key, more) => ({ title: METRICS[key] ? METRICS[key].name : key, value: (row) => row[key], number: true, help: METRICS[key] && METRICS[key].help, ...more });
  return sortable([
    { title: "attack", value: (row) => row.attack, head: true, show: (row) => el("button", { type: "button", class: "link", "aria-label": `${row.attack} × ${nameOf(row.defense, row.selection)}`, onclick: () => openDrawer(app, app.visible, app.visible.indexOf(row)) }, row.attack) },
    { title: "defense", value: (row) => nameOf(row.defense, row.selection), show: (row) => [swatch(app.look.get(row.defense), row.selection === "oracle"), nameOf(row.defense, row.selection)] },
    number("acc", { show: (row) => spread(row.acc, row.acc_std) }),
    number("asr", { show: (row) => spread(row.asr, row.asr_std), low: true }),
    rows.some((row) => isNumber(row.excess_asr)) && number("excess_asr", { show: (row) => spread(row.excess_asr, row.excess_asr_std), low: true }),
    number("ra", { show: (row) => spread(row.ra, row.ra_std) }),
    number("der", { show: (row) => spread(row.der, row.der_std) }),
    number("seconds", { low: true }),
    { title: "seeds", value: (row) => row.seeds, show: (row) => row.seeds, number: true },
    { title: "flag", value: (row) => row.flag, show: (row) => cut(row.flag, 60) },
  ].filter(Boolean), { rows, label: "all cells", short: true, row: (line, row) => tip(line, () => conditions(app, row)) }).node;
}

// ------------------------------------------------------------------------------------------------------------------ victims

/** The victims as trained, and how little their triggers show. */
function victimsPart(app) {
  const rows = inGroup(app).filter((row) => row.selection === "none" && !row.clean && isNumber(row.acc));
  if (!rows.length) return null;
  const number = (key, title, help, digits = 1) => rows.some((row) => isNumber(row[key])) && { title, help, number: true, value: (row) => row[key], show: (row) => (isNumber(row[`${key}_std`]) ? spread(row[key], row[`${key}_std`]) : fixed(row[key], digits)) };
  return section("victims", "Victims before any defense", sortable([
    { title: "attack", value: (row) => row.attack, head: true, show: (row) => el("button", { type: "button", class: "link", onclick: () => openDrawer(app, rows, rows.indexOf(row)) }, row.attack) },
    { title: "seeds", value: (row) => row.seeds, show: (row) => row.seeds, number: true },
    number("acc", "ACC", METRICS.acc.help), number("asr", "ASR", METRICS.asr.help), number("ra", "RA", METRICS.ra.help),
    number("asr_floor", "clean ASR", "ASR of a clean net on the same images"), number("asr_8bit", "ASR at 8 bit", "on triggered images rounded to 8 bit"),
    number("psnr", "PSNR dB", "clean against triggered images"), number("ssim", "SSIM", "clean against triggered images", 3), number("linf", "L∞ grey levels", "largest change of a pixel"),
  ].filter(Boolean), { rows, label: "victims before any defense" }).node, within(app));
}

/** What trials left of the repaired nets. */
function afterPart(app, group) {
  if (!group.after.rows) return null;
  const score = (key, title, help) => ({ title, help, value: (row) => row[key], show: (row) => spread(row[key], row[`${key}_std`]), number: true, low: true });
  return section("after", "After the defense", sortable([
    { title: "defense", value: (row) => row.defense, head: true, show: (row) => [swatch(app.look.get(row.defense)), row.defense] },
    { title: "attacks", value: (row) => row.attacks, show: (row) => row.attacks, number: true },
    score("asr", "ASR", "of the repaired net as it stands"),
    ...group.after.columns.map(([key, help]) => score(key, key.replace("asr_", ""), help)),
  ], { rows: unpacked(group.after.rows), label: "ASR after the defense, means over attacks" }).node,
  el("p", { class: "quiet" }, "ASR in percent, means over attacks that took. ", group.after.varies && `${group.after.varies} `, "A backdoor that comes back at once was asleep, not removed."));
}

// ------------------------------------------------------------------------------------------------------------------- charts

function chartParts(app, group) {
  return [attacksChart(app), accAsr(app), pareto(app, group), ranksChart(group), oracleChart(app), ...sweepCards(app), publishedChart(app)].filter(Boolean)
    .map((parts) => el("article", { class: "card" }, ...parts));
}

const counting = (app) => inGroup(app).filter((row) => !row.clean && !row.flag && isNumber(row.asr));

/** What attacks do to nets, in a suite without a defense; with one, other charts have more to say. */
function attacksChart(app) {
  const rows = inGroup(app).filter((row) => !row.clean && isNumber(row.asr));
  if (!rows.length || rows.some((row) => row.selection !== "none")) return null;
  const longest = Math.max(...rows.map((row) => row.attack.length)), both = [["ASR", "asr", [-2, 102]], ["ACC", "acc", range(rows.flatMap((row) => [row.acc - (row.acc_std || 0), row.acc + (row.acc_std || 0)]))]];
  return [el("h3", {}, "Attacks"), el("div", { class: "pair" }, ...both.map(([title, key, x]) => chart(`${title} of every attack`, (width, point) => {
    const room = Math.min(width * 0.42, 10 + 6.2 * longest);
    const frame = axes(width, 50 + 19 * rows.length, { x, y: [0, 1], yTicks: [], xLabel: `${title}, %`, left: room });
    rows.forEach((row, i) => {
      const y = 18 + 19 * i, std = row[`${key}_std`], at = (value) => frame.x(Math.max(x[0], Math.min(x[1], value)));
      frame.plot.append(svg("text", { x: room - 8, y: y + 4, "text-anchor": "end" }, cut(row.attack, Math.floor(room / 6))));
      if (isNumber(std)) frame.plot.append(svg("line", { x1: at(row[key] - std), x2: at(row[key] + std), y1: y, y2: y, class: "lead-line" }));
      const name = `${row.attack}: ${title} ${spread(row[key], std)}${row.flag ? `, ${row.flag}` : ""}`, look = { marker: 0, colour: row.flag ? "var(--c1)" : "var(--c0)" };
      frame.plot.append(point(mark(at(row[key]), y, look, { hollow: Boolean(row.flag) }), () => conditions(app, row), { name, open: () => openDrawer(app, rows, i) }));
    });
    return frame.root;
  }))), el("p", { class: "quiet" }, rows.some((row) => isNumber(row.asr_std)) && "Lines: standard deviation over seeds. ", rows.some((row) => row.flag) && "Hollow: failed on some or all victims. ", "A click on a point opens the victim.")];
}

function accAsr(app) {
  const rows = counting(app);
  if (!rows.some((row) => row.selection !== "none")) return null;
  const hidden = new Set();
  const picture = chart("ACC against ASR after the defense, a point per attack and defense", (width, point) => {
    const frame = axes(width, Math.max(260, Math.min(360, width * 0.7)), { x: [-2, 102], y: range(rows.map((row) => row.acc)), xLabel: "ASR after the defense, %", yLabel: "ACC, %" });
    for (const row of rows.filter((one) => !hidden.has(nameOf(one.defense, one.selection)))) {
      const dot = mark(frame.x(row.asr), frame.y(row.acc), app.look.get(row.defense), { hollow: row.selection === "oracle" });
      const name = `${row.attack} × ${nameOf(row.defense, row.selection)}: ACC ${fixed(row.acc)}, ASR ${fixed(row.asr)}`;
      frame.plot.append(point(dot, () => conditions(app, row), { name, open: () => openDrawer(app, rows, rows.indexOf(row)) }));
    }
    return frame.root;
  });
  const names = [...new Map(rows.map((row) => [nameOf(row.defense, row.selection), row]))].sort((a, b) => compare(a[0], b[0]));
  const key = legend(names.map(([name, row]) => ({ name, look: app.look.get(row.defense), hollow: row.selection === "oracle" })), (name, on) => {
    on ? hidden.delete(name) : hidden.add(name);
    picture.again();
  });
  return [el("h3", {}, "ACC against ASR"), key, picture, el("p", { class: "quiet" }, "Upper left is best. A click on a point opens the cell, on a name hides it.")];
}

function pareto(app, group) {
  const rows = group.overall.filter((row) => row.selection === "blind" && isNumber(row.seconds));
  if (rows.length < 2) return null;
  const at = (row) => Math.max(row.seconds, 0.05), quick = [...rows].sort((a, b) => at(a) - at(b) || b.der - a.der), best = [];
  for (const row of quick) if (!best.length || row.der > best[best.length - 1].der) best.push(row);
  return [el("h3", {}, "DER against seconds"), chart("mean DER against mean seconds of each defense", (width, point) => {
    const times = rows.map(at);
    const frame = axes(width, 280, { x: [Math.min(...times) / 1.6, Math.max(...times) * 1.6], y: range(rows.map((row) => row.der), 0.12), log: true, xLabel: "seconds, mean", yLabel: "DER, mean, %" });
    let path = "";
    best.forEach((row, i) => (path += i ? `H${frame.x(at(row))}V${frame.y(row.der)}` : `M${frame.x(at(row))} ${frame.y(row.der)}`));
    frame.plot.append(svg("path", { d: `${path}H${frame.right}`, class: "front" }));
    for (const row of rows) {
      frame.plot.append(point(mark(frame.x(at(row)), frame.y(row.der), app.look.get(row.defense), { r: 5.5 }), `${row.defense}: DER ${fixed(row.der)}, ${fixed(row.seconds)} s`));
    }
    beside(frame.plot, rows.map((row) => ({ x: frame.x(at(row)), y: frame.y(row.der), name: row.defense })), frame.right);
    return frame.root;
  }), el("p", { class: "quiet" }, "Dashed: the defenses that no quicker one reaches.")];
}

function ranksChart(group) {
  const found = group.ranking;
  if (!found) return null;
  const k = found.ranks.length, half = Math.ceil(k / 2);
  return [el("h3", {}, "Ranks"), chart(`mean ranks: ${found.ranks.map(([name, rank]) => `${name} ${fixed(rank, 2)}`).join(", ")}`, (width) => {
    const longest = Math.max(...found.ranks.map(([name]) => name.length)), room = Math.min(width * 0.3, 46 + longest * 6.4);
    const x = (rank) => room + ((rank - 1) / (k - 1)) * (width - 2 * room);
    const first = 74 + 11 * found.groups.length, height = first + 20 * half + 8, axis = 52;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height });
    root.append(svg("line", { x1: x(1), x2: x(1 + Math.min(found.difference, k - 1)), y1: 10, y2: 10, class: "difference" }));
    root.append(svg("text", { x: x(1), y: 25, class: "label" }, `critical difference ${fixed(found.difference, 2)}`));
    root.append(svg("line", { x1: x(1), x2: x(k), y1: axis, y2: axis, class: "axis" }));
    for (let rank = 1; rank <= k; rank++) {
      if (k > 12 && rank % 2 === 0 && width < 600) continue;
      root.append(svg("line", { x1: x(rank), x2: x(rank), y1: axis - 5, y2: axis, class: "axis" }));
      root.append(svg("text", { x: x(rank), y: axis - 8, "text-anchor": "middle" }, rank));
    }
    found.ranks.forEach(([name, rank], i) => {
      const left = i < half, y = first + 20 * (left ? i : k - 1 - i), end = left ? room - 6 : width - room + 6;
      root.append(svg("path", { d: `M${x(rank)} ${axis}V${y}H${end}`, class: "lead-line" }));
      root.append(svg("text", { x: left ? end - 4 : end + 4, y: y + 4, "text-anchor": left ? "end" : "start", class: "strong" }, left ? `${name} ${fixed(rank, 2)}` : `${fixed(rank, 2)} ${name}`));
    });
    found.groups.forEach(([a, b], i) => {
      const y = axis + 12 + 11 * i;
      root.append(svg("line", { x1: x(found.ranks[a][1]) - 3, x2: x(found.ranks[b][1]) + 3, y1: y, y2: y, class: "alike" }));
    });
    return root;
  }), el("p", { class: "quiet" }, `Mean ranks by DER over ${plural(found.attacks, "attack")}, 1 the best. Bars join defenses that Nemenyi's test does not tell apart at 5 %. Friedman: p ${found.p < 0.001 ? "< 0.001" : `= ${fixed(found.p, 3)}`}.`)];
}

function oracleChart(app) {
  const rows = counting(app), chosen = rows.filter((row) => row.selection === "oracle");
  if (!chosen.length) return null;
  const pairs = chosen.map((row) => [rows.find((other) => other.selection === "blind" && other.attack === row.attack && other.defense === row.defense), row]).filter(([blind]) => blind);
  return [el("h3", {}, "Blind beside oracle"),
    legend([{ name: "blind", look: { marker: 0, colour: "var(--c0)" } }, { name: "oracle", look: { marker: 3, colour: "var(--c1)" }, hollow: true }]),
    chart("ASR of the blind choice and of the oracle's, by attack", (width, point) => {
      const names = pairs.map(([, row]) => `${row.attack} × ${row.defense}`), room = Math.min(width * 0.42, 10 + 6.2 * Math.max(...names.map((name) => name.length)));
      const height = 50 + 19 * pairs.length;
      const frame = axes(width, height, { x: [-2, 102], y: [0, 1], yTicks: [], xLabel: "ASR, %", left: room });
      pairs.forEach(([blind, row], i) => {
        const y = 18 + 19 * i;
        frame.plot.append(svg("text", { x: room - 8, y: y + 4, "text-anchor": "end" }, cut(names[i], Math.floor(room / 6))));
        frame.plot.append(svg("line", { x1: frame.x(blind.asr), x2: frame.x(row.asr), y1: y, y2: y, class: "lead-line" }));
        const said = (one) => point(mark(frame.x(one.asr), y, one === row ? { marker: 3, colour: "var(--c1)" } : { marker: 0, colour: "var(--c0)" }, { hollow: one === row }),
          () => conditions(app, one), { name: `${names[i]}, ${one.selection}: ASR ${fixed(one.asr)}` });
        frame.plot.append(said(blind), said(row));
      });
      return frame.root;
    }), el("p", { class: "quiet" }, "The oracle chose by test ASR, as published tables of ANP do; no defender can.")];
}

function publishedChart(app) {
  const rows = unpacked(app.data.published), flagged = rows.some((row) => row.flag);
  if (!rows.length) return null;
  const scatter = ([title, key]) => chart(`${title} published against ${title} here, a point per attack and defense`, (width, point) => {
    const span = key === "asr" ? [-2, 102] : range(rows.flatMap((row) => [row[key], row[`${key}_published`]]));
    const frame = axes(width, Math.min(width, 300), { x: span, y: span, xLabel: `${title} published, %`, yLabel: `${title} here, %` });
    frame.plot.append(svg("line", { x1: frame.x(span[0]), y1: frame.y(span[0]), x2: frame.x(span[1]), y2: frame.y(span[1]), class: "diagonal" }));
    for (const row of rows.filter((one) => isNumber(one[key]) && isNumber(one[`${key}_published`]))) {
      const dot = mark(frame.x(row[`${key}_published`]), frame.y(row[key]), app.look.get(row.defense), { hollow: row.selection === "oracle" });
      const text = `${row.attack} × ${nameOf(row.defense, row.selection)}: ${title} published ${fixed(row[`${key}_published`])}, here ${spread(row[key], row[`${key}_std`])}`;
      frame.plot.append(point(dot, row.flag ? `${text}, ${row.flag}` : text));
    }
    return frame.root;
  });
  const names = [...new Map(rows.map((row) => [nameOf(row.defense, row.selection), row]))].sort((a, b) => compare(a[0], b[0]));
  const table = sortable([
    { title: "attack", value: (row) => row.attack, head: true },
    { title: "defense", value: (row) => nameOf(row.defense, row.selection) },
    ...["acc", "asr", "ra"].flatMap((score) => [
      { title: `${score.toUpperCase()} published`, value: (row) => row[`${score}_published`], number: true },
      { title: `${score.toUpperCase()} here`, value: (row) => row[score], show: (row) => spread(row[score], row[`${score}_std`]), number: true },
    ]),
    flagged && { title: "flag here", value: (row) => row.flag },
  ].filter(Boolean), { rows, label: "published figures beside ours" });
  return [el("h3", {}, "Published beside here"),
    legend(names.map(([name, row]) => ({ name, look: app.look.get(row.defense), hollow: row.selection === "oracle" }))),
    el("div", { class: "pair" }, ...[["ASR", "asr"], ["ACC", "acc"]].map(scatter)),
    el("p", { class: "quiet" }, "On the dashed line both agree. ", app.data["published differ"], rows.some((row) => isNumber(row.acc_std)) && " ±: standard deviation over seeds and draws.", " Nothing published enters our means or ranks."),
    fold(`All ${plural(rows.length, "cell")}`, table.node)];
}

// --------------------------------------------------------------------------------------------------------------- statistics

function chancePart(group) {
  const pairs = group.comparisons;
  if (!pairs.length) return null;
  return section("chance", `Statistics: ${pairs[0].one} against the others`,
    sortable([
      { title: "against", value: (row) => row.other, head: true },
      { title: "attacks", value: (row) => row.pairs, show: (row) => row.pairs, number: true },
      { title: "better", value: (row) => row.better, show: (row) => row.better, number: true, help: "on how many attacks its DER is higher" },
      { title: "worse", value: (row) => row.worse, show: (row) => row.worse, number: true },
      { title: "median ΔDER", value: (row) => row.median, show: (row) => signed(row.median), number: true },
      { title: "effect", value: (row) => row.effect, show: (row) => fixed(row.effect, 2), number: true, help: "rank-biserial correlation: 1 if better on every attack, -1 if worse" },
      { title: "p", value: (row) => row.p_value, show: (row) => pText(row.p_value), number: true, low: true, help: "Wilcoxon's signed-rank test over attacks, two-sided" },
      { title: "p, Holm", value: (row) => row.p_holm, show: (row) => pText(row.p_holm), number: true, low: true, help: "corrected for the number of comparisons" },
    ], { rows: pairs, label: "paired comparisons" }).node,
    el("p", { class: "quiet" }, "Attacks are the pairs, and are taken as independent. A p-value over attacks says nothing of other seeds."));
}

// ---------------------------------------------------------------------------------------------------------------- detection

function detectionPart(app) {
  const found = app.data.detection;
  if (!found.rows) return null;
  const rows = unpacked(found.rows).filter((row) => row.group === app.group), points = found.points.filter((one) => one.group === app.group);
  const whole = rows.filter((row) => row.attack === "all"), look = app.detectorLook;
  if (!whole.length && !found.failed.length) return null;
  const attacks = [...new Set(rows.map((row) => row.attack))].filter((attack) => attack !== "all");
  const by = new Map(rows.map((row) => [`${row.detector}\n${row.attack}`, row]));
  const percent = (key, title, help) => ({ title, value: (row) => row[key], number: true, help });
  const area = (row) => el("span", {}, fixed(row.auroc, 2), isNumber(row.auroc_low) && el("small", {}, ` [${fixed(row.auroc_low, 2)}, ${fixed(row.auroc_high, 2)}]`));
  const flags = new Set(whole.map((row) => row.flag)); // a flag that all have stands once below the table
  const calibrated = whole.some((row) => isNumber(row.calibrated_tpr));
  const table = sortable([
    { title: "detector", value: (row) => row.detector, head: true, show: (row) => [swatch(look.get(row.detector)), row.detector] },
    { title: "clean", value: (row) => row.clean_nets, show: (row) => row.clean_nets, number: true, help: "nets that were never attacked" },
    { title: "attacked", value: (row) => row.attacked_nets, show: (row) => row.attacked_nets, number: true },
    { title: "AUROC", value: (row) => row.auroc, show: area, number: true, help: "with the 95 % interval of a bootstrap over nets" },
    percent("tpr_at_5_fpr", "TPR at 5 % FPR"), percent("target_hit", "target hit", "the suspected class is the attacker's"),
    calibrated && percent("calibrated_tpr", "calibrated TPR"), calibrated && percent("calibrated_fpr", "FPR"),
    percent("seconds", "seconds"),
    flags.size > 1 && { title: "flag", value: (row) => row.flag, show: (row) => cut(row.flag, 40) },
  ].filter(Boolean), { rows: whole, sort: [3, true], label: "detectors" });
  const perAttack = attacks.length > 1 && sortable([
    { title: "detector", value: (name) => name, head: true },
    ...attacks.map((attack) => ({ title: `${attack} (${Math.max(...whole.map(({ detector }) => (by.get(`${detector}\n${attack}`) || {}).attacked_nets || 0))})`, number: true, value: (name) => (by.get(`${name}\n${attack}`) || {}).auroc, show: (name) => {
      const row = by.get(`${name}\n${attack}`) || {};
      return el("span", { class: "cell good", style: isNumber(row.auroc) ? { "--v": `${(100 * row.auroc).toFixed(0)}%` } : {} }, area(row));
    } })),
  ], { rows: whole.map((row) => row.detector), label: "AUROC by attack" });
  return section("detection", "Detection", tooFew(found.cautions), table.node, flags.size === 1 && whole[0].flag && el("p", { class: "quiet" }, `All detectors: ${whole[0].flag}.`),
    points.length > 0 && el("div", { class: "cards" }, el("article", { class: "card" }, ...rocChart(points, look)), el("article", { class: "card" }, ...stripChart(points, look))),
    perAttack && [el("h3", {}, "AUROC by attack (nets)"), perAttack.node],
    failedList("Failed verdicts", "net", found.failed));
}

/** Detectors of single images: one part for triggered inputs, one for poisoned training images. */
function samplesPart(app) {
  const found = app.data.samples;
  if (!found.rows) return null;
  const rows = found.rows.filter((row) => row.group === app.group), curves = found.curves.filter((one) => one.group === app.group);
  const look = app.detectorLook;
  const titles = { inputs: "Triggered inputs among clean ones", "training set": "Poisoned images in the training set" };
  const parts = Object.entries(titles).map(([questions, title]) => samplesOf(title, rows.filter((row) => row.questions === questions), curves.filter((one) => one.questions === questions), look));
  if (!parts.some(Boolean) && !found.failed.length) return null;
  return section("samples", "Detection of single images", ...parts.filter(Boolean).flat(),
    parts.some(Boolean) && el("p", { class: "quiet" }, "Means over victims whose attack took, ± standard deviation over them. TPR and FPR: what the detector flags by its own rule."),
    failedList("Failed screenings", "victim", found.failed));
}

function samplesOf(title, rows, curves, look) {
  if (!rows.length) return null;
  const healthy = rows.some((row) => isNumber(row.fpr_healthy));
  const score = (key, digits) => (row) => el("span", {}, fixed(row[key], digits), isNumber(row[`${key}_std`]) && el("small", {}, ` ± ${fixed(row[`${key}_std`], digits)}`));
  const scores = [
    { title: "victims", value: (row) => row.victims, show: (row) => row.victims, number: true },
    { title: "AUROC", value: (row) => row.auroc, show: score("auroc", 2), number: true, help: "chance that an image with the trigger scores above one without" },
    { title: "TPR at 5 % FPR", value: (row) => row.tpr_at_5_fpr, show: score("tpr_at_5_fpr"), number: true },
    { title: "TPR", value: (row) => row.tpr, show: score("tpr"), number: true, help: "images with the trigger that it flags" },
    { title: "FPR", value: (row) => row.fpr, show: score("fpr"), number: true, low: true, help: "images without the trigger that it flags" },
  ];
  const detector = { title: "detector", value: (row) => row.detector, show: (row) => [swatch(look.get(row.detector)), row.detector] };
  const whole = sortable([{ ...detector, head: true }, ...scores,
    healthy && { title: "FPR, clean sets", value: (row) => row.fpr_healthy, show: (row) => [score("fpr_healthy")(row), isNumber(row.fpr_healthy) && el("small", {}, ` (${row.healthy})`)], number: true, low: true, help: "flagged images of training sets without a poisoned one, and how many sets" },
    { title: "seconds", value: (row) => row.seconds, number: true, low: true },
  ].filter(Boolean), { rows: rows.filter((row) => row.attack === "all"), sort: [2, true], label: `${title}: detectors` });
  const single = rows.filter((row) => row.attack !== "all");
  const each = single.length > 0 && sortable([{ title: "attack", value: (row) => row.attack, head: true }, detector, ...scores], { rows: single, sort: [0, false], label: `${title}: detectors by attack` });
  return [el("h3", {}, title), whole.node,
    curves.length > 0 && el("div", { class: "cards" }, el("article", { class: "card" },
      ...rocChart(curves, look, `${title}: mean ROC curve of every detector`, "images without the trigger flagged", "images with the trigger flagged"))),
    each && fold("By attack", each.node)];
}

const failedList = (title, what, failed) => failed.length > 0 && [el("h3", {}, title), el("ul", {}, ...failed.map(([detector, reason, count]) => el("li", {}, `${detector}, ${plural(count, what)}: ${reason}`)))];

function rocChart(points, look, label = "ROC curve of every detector", xLabel = "clean nets called backdoored", yLabel = "attacked nets found") {
  const series = points.map((one) => ({ name: one.detector, points: one.roc, look: look.get(one.detector), ...look.get(one.detector) }));
  const holder = lines(label, [{ name: "chance", points: [[0, 0], [1, 1]], colour: "var(--quiet)", dash: 3 }, ...series], {
    x: [0, 1], y: [0, 1], height: 320, bare: true, axes: { xLabel, yLabel } });
  return [el("h3", {}, "ROC"), lineLegend(series), holder];
}

function stripChart(points) {
  return [el("h3", {}, "Scores of clean and attacked nets"),
    legend([{ name: "clean", look: { marker: 0, colour: "var(--c0)" } }, { name: "attacked", look: { marker: 2, colour: "var(--c1)" } }]),
    chart("scores of clean and attacked nets, a strip per detector", (width, point) => {
      const room = Math.min(width * 0.36, 12 + 6.4 * Math.max(...points.map((one) => one.detector.length))), height = 50 + 30 * points.length;
      const frame = axes(width, height, { x: [-0.02, 1.02], y: [0, 1], yTicks: [], xTicks: [0, 0.5, 1], xLabel: "score, scaled to each detector", left: room });
      points.forEach((one, i) => {
        const values = one.scores.map(([score]) => score), low = Math.min(...values), high = Math.max(...values), y = 24 + 30 * i;
        frame.plot.append(svg("text", { x: room - 8, y: y + 4, "text-anchor": "end" }, cut(one.detector, Math.floor(room / 6.2))));
        for (const [score, attacked, name] of one.scores) {
          const dot = mark(frame.x((score - low) / (high - low || 1)), y + (attacked ? 6 : -6), attacked ? { marker: 2, colour: "var(--c1)" } : { marker: 0, colour: "var(--c0)" }, { r: 3.6 });
          frame.plot.append(point(dot, `${one.detector}, ${name}: score ${score}`));
        }
      });
      return frame.root;
    }), el("p", { class: "quiet" }, "The larger a score, the more suspect the net.")];
}

// --------------------------------------------------------------------------------------------------------------- provenance

function flagsPart(app) {
  const rows = inGroup(app).filter((row) => row.flag);
  const by = new Map();
  for (const row of rows) {
    const key = `${row.attack}\n${row.flag}`;
    by.set(key, [...(by.get(key) || []), row]);
  }
  const items = [...by.values()].map((found) => el("li", {}, el("strong", {}, found[0].attack), " × ", ...found.flatMap((row, i) => [i ? ", " : "", el("button", { type: "button", class: "link", onclick: () => openDrawer(app, rows, rows.indexOf(row)) }, nameOf(row.defense, row.selection))]), `: ${found[0].flag}`));
  const damaged = app.data.damaged.map((text) => el("li", {}, text));
  if (!items.length && !damaged.length) return null;
  return section("flags", "Failed and flagged", items.length > 0 && el("ul", {}, ...items), damaged.length > 0 && [el("h3", {}, "Damaged files, which do not count"), el("ul", {}, ...damaged)]);
}

function provenancePart(app) {
  const { provenance, title } = app.data;
  const line = ([value, count]) => el("li", {}, `${plural(count, "record")}: `, Object.entries(value).map(([key, item]) => `${key} ${item}`).join(", ") || "not said");
  const first = app.data.records.find((record) => app.data.pool[record.spec.recipe]);
  const settings = first && Object.fromEntries(Object.entries(first.spec).filter(([key]) => ["dataset", "net", "recipe", "clean_budget"].includes(key)).map(([key, i]) => [key, app.data.pool[i]]));
  return section("provenance", "Provenance",
    el("h3", {}, "Versions"), el("ul", {}, ...provenance.versions.map(line)),
    el("h3", {}, "Machines"), el("ul", {}, ...provenance.hardware.map(line)),
    provenance.seconds >= 3 && el("p", {}, `Defenses took ${fixed(provenance.seconds / 60)} minutes in all.`),
    provenance.images.length > 0 && el("p", {}, `Images: ${provenance.images.join(", ")} (fingerprint).`),
    app.data["left out"].length > 0 && el("p", {}, `${plural(app.data["left out"].length, "record")} of other settings or images left out.`),
    settings && fold("Settings that all cells share or begin from", facts(settings)),
    el("h3", {}, "Again"), el("pre", {}, `mnp-bench report ${title}    # tables, figures and this page from the records\nmnp-bench run ${title}       # the cells that have none`),
    el("p", { class: "quiet" }, "A suite of your own is run by its file, as it was before; records that lie elsewhere than in results/ are found by --results."));
}

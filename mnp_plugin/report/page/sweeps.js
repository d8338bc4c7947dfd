// Curves along swept settings.

/** A card for each sweep of this group, and for each that goes across groups. */
function sweepCards(app) {
  return app.data.sweeps.filter((sweep) => sweep.group === null || sweep.group === app.group).map((sweep) => sweepCard(app, sweep));
}

function sweepCard(app, { setting, of, group, curves }) {
  const oneDefense = new Set(curves.map((curve) => curve.defense)).size === 1;
  const series = curves.map((curve, i) => ({
    name: nameOf(oneDefense ? curve.attack || curve.defense : curve.defense, curve.selection),
    look: (!oneDefense && app.look.get(curve.defense)) || { colour: `var(--c${i % 7})`, marker: i % 11 },
    dash: curve.selection === "oracle" ? 3 : oneDefense ? i % 3 : app.look.get(curve.defense)?.dash,
    points: curve.points,
  }));
  const values = curves.flatMap((curve) => curve.points.map(([x]) => x)), low = Math.min(...values), high = Math.max(...values);
  const log = low > 0 && high / low >= 8; // else the small ones lie on each other
  const x = log ? [low / 1.2, high * 1.2] : range(values, 0.03);
  const along = (score, at, y) => {
    const known = series.map((one) => ({ ...one, colour: one.look.colour, points: one.points.filter((p) => isNumber(p[at])).map((p) => [p[0], p[at]]) })).filter((one) => one.points.length > 1);
    return known.length > 0 && lines(`${score} of ${of} by ${setting}`, known, { x, y, axes: { xLabel: setting, yLabel: `${score}, %`, log } });
  };
  return [el("h3", {}, `${of} by ${setting}`), lineLegend(series.map((one) => ({ ...one, colour: one.look.colour }))),
    el("div", { class: "pair" }, along("ASR", 1, [-2, 102]), along("ACC", 2)),
    el("p", { class: "quiet" }, group === null ? "Means over the attacks that took at every value." : "All else is equal along a line.")];
}

// Reads the data, draws the page, and, where it is served, looks for newer data now and then.

function themeButton() {
  const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = el("button", { type: "button", id: "theme", onclick: () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    show();
  } });
  const show = () => {
    button.textContent = dark() ? "☀" : "☾";
    button.setAttribute("aria-label", `switch to ${dark() ? "light" : "dark"}`);
  };
  show();
  return button;
}

/** What an element is known by after the page was drawn anew. */
const signature = (node) => [node.tagName, node.id, node.getAttribute("aria-label"), node.firstChild?.textContent].join("\n");

function start(data, before) {
  const head = document.getElementById("head"), main = document.getElementById("main");
  document.getElementById("foot").replaceChildren(
    el("p", { class: "quiet" }, "Made by mnp_plugin. This page holds all it shows and asks no other server for anything."),
    el("p", { class: "quiet" }, "Keys: Tab goes from one table or chart to the next; inside, arrow keys go from point to point", data.kind === "suite" ? ", and Enter opens a cell." : "."));
  if (data.kind !== "suite") {
    head.replaceChildren(...modelHead(data).filter(Boolean));
    main.replaceChildren(...modelMain(data));
    return null;
  }
  const app = suitePage(data);
  if (before) Object.assign(app, { group: Math.max(0, Math.min(before.group, data.groups.length - 1)), filter: before.filter });
  const redraw = () => {
    const open = new Set([...main.querySelectorAll("details[open] > summary")].map((one) => one.textContent));
    const focused = main.contains(document.activeElement) && signature(document.activeElement);
    resumed = focusInChart();
    main.replaceChildren(...suiteMain(app));
    for (const one of main.querySelectorAll("details > summary")) if (open.has(one.textContent)) one.parentNode.open = true;
    if (focused) [...main.querySelectorAll("button, select, input, summary, [tabindex]")].find((one) => signature(one) === focused)?.focus({ preventScroll: true });
    head.replaceChildren(...suiteHead(app, redraw).filter(Boolean));
  };
  redraw();
  return app;
}

function openNamed(app) {
  const file = decodeURIComponent(location.hash.slice(1)), i = app ? app.data.records.findIndex((record) => record.file === file) : -1;
  if (i < 0) return;
  const rows = app.rows, index = rows.findIndex((row) => row.records.includes(i));
  if (index >= 0) openDrawer(app, rows, index, rows[index].records.indexOf(i));
}

function watch(app, text) {
  setTimeout(async () => {
    try {
      const found = await (await fetch("data.json", { cache: "no-store" })).text();
      if (found !== text && !document.getElementById("drawer").open && document.activeElement.id !== "filter") {
        const at = scrollY;
        app = start(JSON.parse(found), app);
        text = found;
        scrollTo(0, at);
      }
    } catch { /* the server has ended; what is shown stays */ }
    watch(app, text);
  }, +document.body.dataset.live); // milliseconds between two looks
}

{
  const dialog = document.getElementById("drawer");
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  dialog.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.target.closest("select, input, .scroll")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && drawerState) openDrawer(drawerState.app, drawerState.rows, (drawerState.index + by + drawerState.rows.length) % drawerState.rows.length);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") document.getElementById("tip").hidden = true; });
  const text = document.getElementById("data").textContent;
  const app = start(JSON.parse(text), null);
  openNamed(app);
  if (document.body.dataset.live) watch(app, text);
}

"use strict";
// State and wiring. Charts are redrawn when the state or the width changes.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const dtypes = [...new Set(data.points.map((p) => p.dtype))];
const state = { quality: "selected", cost: data.first_cost, dtype: data.main_dtype, hidden: new Set(),
                id: null, device: data.main_device };

function showTip(content, x, y) {
  const tip = $("tip");
  tip.replaceChildren(...content.map((c) => (c.nodeType ? c : document.createTextNode(c))));
  tip.hidden = false;
  const wide = tip.offsetWidth, tall = tip.offsetHeight, room = document.documentElement.clientWidth;
  const left = x + 16 + wide > room ? Math.max(6, x - wide - 16) : x + 16;
  const top = y + 14 + tall > window.innerHeight ? y - tall - 12 : y + 14;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${Math.max(0, top + window.scrollY)}px`;
}
function hideTip() { $("tip").hidden = true; }

function select(id, device, fromChart) {
  const point = data.points.find((p) => p.id === id && p.device === device)
    || data.points.find((p) => p.id === id);
  if (!point) return;
  state.id = point.id;
  state.device = point.device;
  if (state.dtype !== "all" && state.dtype !== point.dtype) $("dtype").value = state.dtype = point.dtype;
  const figure = document.activeElement.closest("figure.front");
  drawDetail();
  drawFronts();
  drawBench();
  if (figure) for (const other of document.querySelectorAll("figure.front"))
    if (other.dataset.device === figure.dataset.device) other.querySelector("svg").focus({ preventScroll: true });
  for (const row of document.querySelectorAll("#configurations tbody tr"))
    row.classList.toggle("current", row.dataset.id === state.id && row.dataset.device === state.device);
  if (!fromChart) $("front").scrollIntoView();
  history.replaceState(null, "", `#${addressOf(point)}`);
}

// Each configuration has an address: report.html#configuration=ID@DEVICE.
const addressOf = (p) => `configuration=${p.id}@${encodeURIComponent(p.device)}`;
function pointOfAddress() {
  const asked = location.hash.slice(1);
  return data.points.find((p) => addressOf(p) === asked) || data.points.find((p) => `configuration=${p.id}` === asked);
}

function drawDetail() {
  const point = data.points.find((p) => p.id === state.id && p.device === state.device);
  const holder = $("detail");
  holder.replaceChildren(point ? configurationPanel(point, holder.clientWidth, true)
    : html("div", { class: "panel small" }, "Select a configuration to see its layers."));
}

function drawFronts() {
  const main = data.devices.find((d) => d.name === data.main_device);
  if (main) drawFront($("main-front"), main, false);
  const others = data.devices.filter((d) => d !== main), holder = $("other-fronts");
  if (holder.children.length !== others.length) holder.replaceChildren(...others.map(() => html("div")));
  others.forEach((d, i) => drawFront(holder.children[i], d, true));
}

function drawBench() {
  const holder = $("scatter");
  if (!holder) return;
  if (holder.children.length !== data.bench.length) holder.replaceChildren(...data.bench.map(() => html("div")));
  data.bench.forEach((g, i) => drawScatter(holder.children[i], g));
}

function drawChosen() {
  const holder = $("chosen-cards");
  const named = data.points.filter((p) => (p.named.length || p.certificate) && p.device === data.main_device);
  if (!named.length) {
    holder.replaceChildren(html("p", { class: "small" }, "No configuration is named on this device."));
    return;
  }
  if (holder.children.length !== named.length) holder.replaceChildren(...named.map(() => html("div")));
  named.sort((a, b) => dtypes.indexOf(a.dtype) - dtypes.indexOf(b.dtype) || (a.named[0] ?? Infinity) - (b.named[0] ?? Infinity));
  named.forEach((p, i) => holder.children[i].replaceChildren(configurationPanel(p, holder.children[i].clientWidth)));
}

function drawLegend() {
  const present = FAMILIES.filter((f) => data.points.some((p) => p.family === f));
  const sample = (kind, text) => html("span", {}, kind, text);
  const icon = (...parts) => svg("svg", { width: 18, height: 18, viewBox: "-9 -9 18 18", "aria-hidden": "true" }, ...parts);
  $("legend").replaceChildren(
    ...present.map((f) => html("button", { type: "button", "aria-pressed": String(!state.hidden.has(f)),
      title: "show or hide", onclick: () => {
        if (!state.hidden.delete(f)) state.hidden.add(f);
        drawLegend();
        drawFronts();
      } }, symbolIcon(f, false), f)),
    sample(icon(symbol("exit", 0, 0, true)), "dominated"),
    sample(icon(svg("circle", { class: "ring", r: 7 })), "named for a loss level"));
}

function drawAll() {
  drawLegend();
  drawFronts();
  drawDetail();
  drawChosen();
  drawExplained();
  drawBench();
  drawHypervolume($("hypervolume"));
  drawBeside();
  drawExplore();
}

function sortTable(button) {
  const head = button.closest("th"), body = document.querySelector("#configurations tbody");
  const column = [...head.parentNode.children].indexOf(head);
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.children[column].dataset.v;
  const rows = [...body.children].sort((a, b) => {
    const p = value(a), q = value(b);
    if (p === "" || q === "") return (p === "") - (q === "");
    const order = isNaN(p) || isNaN(q) ? p.localeCompare(q) : p - q;
    return down ? -order : order;
  });
  body.append(...rows);
}

function filterTable() {
  const device = $("table-device").value, hide = $("table-dominated").checked;
  for (const row of document.querySelectorAll("#configurations tbody tr"))
    row.hidden = (device && row.dataset.device !== device) || (hide && row.classList.contains("dominated"));
}

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  $("theme").textContent = `Theme: ${name}`;
  drawExplore();
}

function wire() {
  const themes = ["auto", "light", "dark"], asked = new URLSearchParams(location.search).get("theme");
  let theme = Math.max(0, themes.indexOf(asked));
  setTheme(themes[theme]);
  $("theme").addEventListener("click", () => setTheme(themes[theme = (theme + 1) % 3]));
  const cost = $("cost");
  cost.append(...data.costs.map(([name, label]) => html("option", { value: name }, label)));
  cost.value = state.cost;
  cost.addEventListener("change", () => { state.cost = cost.value; drawFronts(); drawExplore(); });
  const dtype = $("dtype");
  dtype.append(...[...dtypes, "all"].map((d) => html("option", { value: d }, d)));
  dtype.value = state.dtype;
  dtype.closest("label").hidden = dtypes.length < 2;
  dtype.addEventListener("change", () => { state.dtype = dtype.value; drawFronts(); drawExplore(); });
  const buttons = [...document.querySelectorAll("[data-quality]")];
  const press = () => buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.quality === state.quality)));
  for (const b of buttons) {
    b.disabled = b.dataset.quality === "confirmed" && !data.points.some((p) => p.confirmed);
    b.addEventListener("click", () => { state.quality = b.dataset.quality; press(); drawFronts(); drawExplore(); });
  }
  press();
  document.addEventListener("click", (e) => {
    const pick = e.target.closest(".pick"), sort = e.target.closest(".sort");
    if (pick) select(pick.dataset.id, pick.dataset.device, false);
    if (sort) sortTable(sort);
  });
  $("table-device").addEventListener("change", filterTable);
  $("table-dominated").addEventListener("change", filterTable);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    drawAll();
  });
}

const asked = pointOfAddress();
const first = asked || data.points.find((p) => p.device === data.main_device && p.dtype === state.dtype && p.named.includes(0.01))
  || data.points.find((p) => p.device === data.main_device) || data.points[0];
if (first) { state.id = first.id; state.device = first.device; }
wire();
wireBeside();
wireExplore();
if (asked) state.dtype = $("dtype").value = asked.dtype;
drawAll();
if (asked) $("front").scrollIntoView({ behavior: "instant" });
window.addEventListener("hashchange", () => { const p = pointOfAddress(); if (p) select(p.id, p.device, false); });

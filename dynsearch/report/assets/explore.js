"use strict";
// The zoomable front: Plotly, unpacked from this page when it is asked for. Its texts read a few
// tags as markup, so that what comes from a run goes through `plain`.

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const MARKERS = { full: "cross", truncated: "square", exit: "circle", skim: "triangle-up", experts: "diamond",
  "exit+skim": "triangle-down", "exit+experts": "pentagon", "skim+experts": "hexagon", "exit+skim+experts": "star" };
let unpacking = null;

function loadPlotly() {
  unpacking ??= (async () => {
    const bytes = Uint8Array.from(atob($("plotly").textContent), (c) => c.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(html("script", {}, text));
  })();
  return unpacking;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function exploreFigure(device) {
  const cost = state.cost, shown = data.points.filter((p) => p.device === device.name && quality(p)
    && p.costs[cost] !== null && (state.dtype === "all" || p.dtype === state.dtype));
  const label = Object.fromEntries(data.costs)[cost] || cost;
  const xs = shown.map((p) => p.costs[cost]);
  const [size, unit] = unitFor(cost, xs.length ? Math.sqrt(Math.min(...xs) * Math.max(...xs)) : 1);
  const traces = FAMILIES.map((family) => {
    const mine = shown.filter((p) => p.family === family), own = colour(familyColour(family).slice(4, -1));
    return {
      type: "scatter", mode: "markers", name: family, x: mine.map((p) => p.costs[cost] / size),
      y: mine.map((p) => quality(p).error * 100), customdata: mine.map((p) => p.id),
      text: mine.map(exploreText), hovertemplate: "%{text}<extra></extra>",
      marker: { symbol: mine.map((p) => MARKERS[family] + (p.dominated ? "-open" : "")), color: own, size: 10,
                line: { color: mine.map((p) => p.named.length ? colour("--ink") : own), width: mine.map((p) => p.named.length ? 2 : 1) } },
      error_x: cost === "latency_mean_s" ? { type: "data", symmetric: false, color: own, thickness: 0.6, width: 0,
        array: mine.map((p) => (p.high - p.costs[cost]) / size), arrayminus: mine.map((p) => (p.costs[cost] - p.low) / size) } : undefined,
    };
  }).filter((t) => t.x.length);
  const shapes = [], notes = [], budget = device.budgets[cost], full = data.full_error[state.quality];
  if (budget) {
    shapes.push({ type: "line", x0: budget / size, x1: budget / size, yref: "paper", y0: 0, y1: 1, line: { color: colour("--bad"), dash: "dash", width: 1.5 } });
    notes.push({ x: Math.log10(budget / size), yref: "paper", y: 1, yanchor: "top", xanchor: "right", showarrow: false,
                 text: plain(`budget ${quantity(cost, budget)}`), font: { color: colour("--bad") } });
  }
  if (full !== null) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: full * 100, y1: full * 100, line: { color: colour("--faint"), dash: "dot", width: 1 } });
  const axis = { gridcolor: colour("--grid"), zeroline: false, linecolor: colour("--faint") };
  return { data: traces, layout: {
    title: { text: plain(device.name), font: { size: 15 }, x: 0, xref: "paper", xanchor: "left" }, shapes, annotations: notes, height: 460, hovermode: "closest",
    paper_bgcolor: colour("--page"), plot_bgcolor: colour("--page"), font: { color: colour("--soft"), size: 12 },
    margin: { l: 55, r: 12, t: 40, b: 50 }, legend: { orientation: "h", y: -0.18 },
    hoverlabel: { bgcolor: colour("--surface"), font: { color: colour("--ink") }, bordercolor: colour("--line"), align: "left" },
    xaxis: { ...axis, type: "log", title: { text: plain(`${label}, ${unit || "units"} (log scale)`) } },
    yaxis: { ...axis, title: { text: `error, % of rows, ${state.quality}` } } } };
}

function exploreText(p) {
  const lines = [[p.id, `${p.family}, ${p.dtype}`], ["error selected", percent(p.selected.error)],
    ["loss confirmed, points", lossText(p)], ["latency predicted", `${quantity("_s", p.costs.latency_mean_s)} [${quantity("_s", p.low)}, ${quantity("_s", p.high)}]`],
    ["latency measured", p.measured && quantity("_s", p.measured.latency)], ["peak memory", quantity("_bytes", p.costs.peak_bytes)],
    ["speed-up", times(p.speed.predicted)]];
  return lines.filter(([, v]) => v).map(([k, v]) => `${plain(k)}: ${plain(v)}`).join("<br>");
}

const exploredDevice = () => data.devices.find((d) => d.name === $("explore-device").value);

async function drawExplore() {
  const holder = $("explore-chart");
  if (!holder || holder.hidden) return;
  const figure = exploreFigure(exploredDevice());
  await Plotly.react(holder, figure.data, figure.layout, { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d"] });
  if (holder.dataset.wired) return;
  holder.dataset.wired = "1";
  holder.on("plotly_click", (e) => select(e.points[0].customdata, exploredDevice().name, true));
}

async function openExplore() {
  const holder = $("explore-chart");
  try { await loadPlotly(); } catch {
    $("explore-note").textContent = "This browser is too old for the zoomable chart; the charts above hold the same points.";
    return;
  }
  holder.hidden = false;
  $("explore-open").hidden = true;
  for (const node of document.querySelectorAll(".explore-more")) node.hidden = false;
  await drawExplore();
}

// Papers are white, whatever the screen is.
async function saveFigure(format) {
  const root = document.documentElement.dataset, theme = root.theme;
  root.theme = "light";
  const figure = exploreFigure(exploredDevice());
  if (theme === undefined) delete root.theme; else root.theme = theme;
  figure.layout.width = 900;
  figure.layout.height = 560;
  await Plotly.downloadImage(figure, { format, width: 900, height: 560, scale: format === "png" ? 3 : 1, filename: "front" });
}

function wireExplore() {
  if (!$("plotly")) return;
  $("explore-device").append(...data.devices.map((d) => html("option", { value: d.name }, d.name)));
  $("explore-device").value = data.main_device;
  $("explore-device").addEventListener("change", drawExplore);
  $("explore-open").addEventListener("click", openExplore);
  for (const format of ["svg", "png"]) $(`save-${format}`).addEventListener("click", () => saveFigure(format));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawExplore);
}

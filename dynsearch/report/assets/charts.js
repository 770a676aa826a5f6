"use strict";
// Front, predicted-against-measured scatter, hypervolume: drawn at the width that is there.

const LEVELS = [0.005, 0.01, 0.02];

function frame(width, height, margin, label) {
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
                      "aria-label": label, tabindex: "0" });
}

// Axes with gridlines; `format` turns a tick into text.
function axes(root, box, x, y, xTicks, yTicks, xFormat, yFormat, xLabel, yLabel) {
  for (const t of yTicks) {
    root.append(svg("line", { class: "grid-line", x1: box.left, x2: box.right, y1: y(t), y2: y(t) }),
                svg("text", { x: box.left - 8, y: y(t) + 4, "text-anchor": "end" }, yFormat(t)));
  }
  for (const t of xTicks) {
    root.append(svg("line", { class: "grid-line", x1: x(t), x2: x(t), y1: box.top, y2: box.bottom }),
                svg("text", { x: x(t), y: box.bottom + 18, "text-anchor": "middle" }, xFormat(t)));
  }
  root.append(
    svg("path", { class: "axis", d: `M${box.left} ${box.bottom}H${box.right}` }),
    svg("text", { x: (box.left + box.right) / 2, y: box.bottom + 37, "text-anchor": "middle" }, xLabel),
    svg("text", { x: box.left - 40, y: box.top - 12 }, yLabel));
}

// Pointer and keyboard access to a list of {x, y, item} spots; `at` is where arrow keys begin.
function makeReadable(root, spots, describe, choose, at = -1) {
  const show = (i) => {
    at = i;
    const place = root.getBoundingClientRect();
    showTip(describe(spots[i].item), place.left + spots[i].x, place.top + spots[i].y);
  };
  const nearest = (event) => {
    const place = root.getBoundingClientRect();
    let best = -1, far = 26 ** 2;
    spots.forEach((s, i) => {
      const d = (event.clientX - place.left - s.x) ** 2 + (event.clientY - place.top - s.y) ** 2;
      if (d < far) { far = d; best = i; }
    });
    return best;
  };
  root.addEventListener("pointermove", (e) => {
    const i = nearest(e);
    root.style.cursor = i >= 0 && choose ? "pointer" : "";
    if (i >= 0) show(i); else hideTip();
  });
  root.addEventListener("pointerleave", hideTip);
  root.addEventListener("blur", hideTip);
  root.addEventListener("click", (e) => {
    const i = nearest(e);
    if (i >= 0 && choose) choose(spots[i].item);
  });
  root.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
    if (step && spots.length) {
      e.preventDefault();
      show((at + step + spots.length) % spots.length);
    } else if (e.key === "Enter" && at >= 0 && choose) choose(spots[at].item);
    else if (e.key === "Escape") hideTip();
  });
}

function quality(point) {
  return state.quality === "confirmed" ? point.confirmed : point.selected;
}

function drawFront(holder, device, small) {
  const cost = state.cost, all = data.points.filter((p) => p.device === device.name);
  const points = all.filter((p) => p.family !== "full" && quality(p) && p.costs[cost] !== null
    && !state.hidden.has(p.family) && (state.dtype === "all" || p.dtype === state.dtype));
  const figure = html("figure", { class: "front", "data-device": device.name });
  const title = html("h3", {}, device.name);
  holder.replaceChildren(figure);
  figure.append(title);
  if (!points.length) {
    figure.append(html("p", { class: "small" }, state.quality === "confirmed"
      ? "No point of this device is confirmed yet." : "No configuration on this device."));
    return;
  }
  const width = Math.max(280, holder.clientWidth);
  const height = small ? 270 : Math.min(600, Math.max(320, width * 0.78));
  const box = { left: 48, right: width - 12, top: 32, bottom: height - 46 };
  const root = frame(width, height, box,
    `Front on ${device.name}: error against cost, ${points.length} points. Arrow keys read points.`);
  const full = device.full.filter((f) => state.dtype === "all" || f.dtype === state.dtype)
    .map((f) => ({ dtype: f.dtype, value: f.costs[cost] })).filter((f) => f.value);
  const fullError = data.full_error[state.quality];
  const budget = device.budgets[cost];
  const xs = [...points.map((p) => p.costs[cost]), ...full.map((f) => f.value)];
  let low = Math.min(...xs), high = Math.max(...xs);
  const budgetShown = budget && budget < high * 3 && budget > low / 3;
  if (budgetShown) { low = Math.min(low, budget); high = Math.max(high, budget); }
  const pad = Math.max(1.06, (high / low) ** 0.05);
  const x = logScale(low / pad, high * pad, box.left, box.right);
  const ys = points.map((p) => quality(p).error);
  if (fullError !== null) ys.push(fullError);
  const bottom = Math.min(...ys), top = Math.max(...ys), margin = Math.max(0.004, (top - bottom) * 0.07);
  const y = linearScale(Math.max(0, bottom - margin), top + margin, box.bottom, box.top);
  const [size, unit] = unitFor(cost, Math.sqrt(low * high));
  const label = Object.fromEntries(data.costs)[cost] || cost;
  axes(root, box, x, y, logTicks(...x.domain, small || width < 480 ? 5 : 8),
       linearTicks(...y.domain, small ? 4 : 6), (t) => String(Number((t / size).toPrecision(3))),
       (t) => String(Number((t * 100).toPrecision(3))),
       `${label}, ${unit || "units"} (log scale)`, `error, % of rows, ${state.quality}`);
  levelLines(root, box, y, fullError);
  if (budgetShown) budgetLine(root, box, x(budget), `budget ${quantity(cost, budget)}`);
  root.append(svg("path", { class: "stairs", d: stairs(points, x, y, box, cost) }));
  for (const f of full) {
    if (fullError === null) continue;
    root.append(symbol("full", x(f.value), y(fullError), false, 0.9));
    if (small) continue;
    const edge = x(f.value) > box.right - 50;
    root.append(svg("text", { x: edge ? box.right : x(f.value), y: y(fullError) + 19, class: "halo strong",
      "text-anchor": edge ? "end" : "middle" }, full.length > 1 ? `full ${f.dtype}` : "full network"));
  }
  const chosen = points.find((p) => p.id === state.id && p.device === state.device);
  const order = (p) => (p === chosen ? 3 : p.named.length ? 2 : p.dominated ? 0 : 1);
  const spots = [];
  for (const p of [...points].sort((a, b) => order(a) - order(b))) {
    const px = x(p.costs[cost]), py = y(quality(p).error);
    if (p === chosen) whiskers(root, box, p, x, y, cost, fullError);
    const mark = symbol(p.family, px, py, p.dominated, small ? 0.8 : 1);
    mark.setAttribute("data-id", p.id);
    root.append(mark);
    if (p.named.length) root.append(svg("circle", { class: "ring", cx: px, cy: py, r: small ? 8 : 10 }));
    if (p === chosen) root.append(svg("circle", { class: "chosen", cx: px, cy: py, r: small ? 10 : 13 }));
    spots.push({ x: px, y: py, item: p });
  }
  spots.sort((a, b) => a.x - b.x);
  makeReadable(root, spots, pointTip, (p) => select(p.id, p.device, true),
               spots.findIndex((s) => s.item === chosen));
  figure.append(root, frontCaption(all, points, budget, budgetShown, cost, small));
}

function frontCaption(all, points, budget, shown, cost, small) {
  const dominated = points.filter((p) => p.dominated).length;
  const parts = [`${points.length} configurations`];
  if (dominated) parts.push(`${dominated} dominated after confirmation`);
  const missing = all.filter((p) => p.family !== "full" && !quality(p)).length;
  if (missing) parts.push(`${missing} not confirmed, not shown`);
  if (budget && !shown) parts.push(`budget ${quantity(cost, budget)}, off the chart`);
  if (!small) parts.push("dashed: the full network's error, dotted: 0.5, 1 and 2 points above it");
  return html("figcaption", {}, parts.join(" \u00b7 "));
}

function levelLines(root, box, y, fullError) {
  if (fullError === null) return;
  root.append(svg("line", { class: "full-line", x1: box.left, x2: box.right, y1: y(fullError), y2: y(fullError) }));
  for (const level of LEVELS) {
    const at = y(fullError + level);
    if (at < box.top) continue;
    root.append(svg("line", { class: "level", x1: box.left, x2: box.right, y1: at, y2: at }),
                svg("text", { class: "faint halo", x: box.right, y: at - 3, "text-anchor": "end" },
                    `+${level * 100}`));
  }
}

function budgetLine(root, box, at, text) {
  const right = at > (box.left + box.right) / 2;
  root.append(
    svg("rect", { class: "over", x: at, y: box.top, width: Math.max(0, box.right - at), height: box.bottom - box.top }),
    svg("line", { class: "budget", x1: at, x2: at, y1: box.top, y2: box.bottom }),
    svg("text", { class: "budget-text halo", x: at + (right ? -5 : 5), y: box.top + 11,
                  "text-anchor": right ? "end" : "start" }, text));
}

function stairs(points, x, y, box, cost) {
  const sorted = [...points].sort((a, b) => a.costs[cost] - b.costs[cost]);
  let best = Infinity, path = "";
  for (const p of sorted) {
    const error = quality(p).error;
    if (error >= best) continue;
    path += best === Infinity ? `M${x(p.costs[cost])} ${box.top}` : `H${x(p.costs[cost])}`;
    path += `V${y(error)}`;
    best = error;
  }
  return `${path}H${box.right}`;
}

// Intervals of the chosen point, cut off where the chart ends.
function whiskers(root, box, p, x, y, cost, fullError) {
  const px = x(p.costs[cost]), py = y(quality(p).error);
  const across = (v) => Math.min(Math.max(x(v), box.left), box.right);
  const up = (v) => Math.min(Math.max(y(v), box.top), box.bottom);
  const line = (d) => root.append(svg("path", { class: "whisker", d }));
  if (state.quality === "confirmed" && fullError !== null)
    line(`M${px} ${up(fullError + p.confirmed.low)}V${up(fullError + p.confirmed.high)}`);
  else line(`M${px} ${py}V${up(p.bound)}m-4 0h8`);
  if (cost !== "latency_mean_s") return;
  line(`M${across(p.low)} ${py}H${across(p.high)}`);
  const seen = p.measured && x(p.measured.latency);
  if (seen && seen >= box.left && seen <= box.right) line(`M${seen} ${py}m-4-4l8 8m0-8l-8 8`);
}

function drawScatter(holder, group) {
  const width = Math.max(280, holder.clientWidth), height = Math.min(width, 380);
  const box = { left: 48, right: width - 12, top: 32, bottom: height - 46 };
  const values = group.rows.flatMap((r) => [r.predicted, r.measured]);
  const low = Math.min(...values) / 1.15, high = Math.max(...values) * 1.15;
  const x = logScale(low, high, box.left, box.right), y = logScale(low, high, box.bottom, box.top);
  const [size, unit] = unitFor("_s", Math.sqrt(low * high));
  const ticks = logTicks(low, high, 6), text = (t) => String(Number((t / size).toPrecision(3)));
  const name = `${group.runtime} \u00b7 ${group.dtype} \u00b7 batch ${group.batch}`;
  const root = frame(width, height, box, `Predicted against measured latency, ${name}`);
  axes(root, box, x, y, ticks, ticks, text, text, `measured mean latency, ${unit} (log scale)`, `predicted, ${unit}`);
  const clip = (v) => Math.min(Math.max(v, low), high);
  const edge = (f) => [[clip(low / Math.min(1, f)), clip(low * Math.max(1, f))],
                       [clip(high / Math.max(1, f)), clip(high * Math.min(1, f))]];
  const [a, b] = edge(1.15), [c, d] = edge(1 / 1.15);
  const corner = (p) => `${x(p[0])} ${y(p[1])}`;
  root.append(
    svg("path", { class: "band", d: `M${corner([low, low])}L${corner(a)}L${corner(b)}L${corner([high, high])}L${corner(d)}L${corner(c)}z` }),
    svg("path", { class: "identity", d: `M${corner([low, low])}L${corner([high, high])}` }));
  const spots = [];
  for (const r of group.rows) {
    const px = x(r.measured), py = y(r.predicted);
    root.append(svg("path", { class: "error-bar", d: `M${px} ${y(clip(r.low))}V${y(clip(r.high))}` }));
    spots.push({ x: px, y: py, item: r });
  }
  for (const s of spots) {
    const mark = symbol(s.item.family, s.x, s.y, !s.item.counted, 0.85);
    mark.setAttribute("data-id", s.item.id);
    root.append(mark);
    if (s.item.id === state.id) root.append(svg("circle", { class: "chosen", cx: s.x, cy: s.y, r: 11 }));
  }
  spots.sort((p, q) => p.x - q.x);
  makeReadable(root, spots, benchTip, (r) => select(r.id, data.main_device, false));
  const counted = group.rows.filter((r) => r.counted).length;
  const caption = html("figcaption", {},
    html("b", group.mape > 0.15 ? { class: "off" } : {}, `MAPE ${percent(group.mape)}`),
    group.mape_same_rows === null || group.mape_same_rows === undefined ? null
      : ` (${percent(group.mape_same_rows)} with the timed rows' own activity)`,
    ` \u00b7 Spearman ${digits(group.spearman)} \u00b7 coverage ${percent(group.coverage, 0)}`,
    ` \u00b7 ${counted} configurations`,
    counted < group.rows.length ? `, ${group.rows.length - counted} references hollow and not counted` : "");
  holder.replaceChildren(html("figure", { class: "scatter" }, html("h3", {}, name), root, caption));
}

function drawHypervolume(holder) {
  const steps = data.hypervolume;
  if (!holder || !steps.length) return;
  const width = Math.max(280, holder.clientWidth), height = 260;
  const box = { left: 48, right: width - 12, top: 32, bottom: height - 46 };
  const names = Object.keys(steps[steps.length - 1].devices);
  const values = steps.flatMap((s) => [s.mean, ...Object.values(s.devices)]);
  const low = Math.max(0, Math.min(...values) - 0.03), high = Math.min(1, Math.max(...values) + 0.03);
  const last = Math.max(...steps.map((s) => s.passes), 1);
  const x = linearScale(Math.min(0, last), last, box.left, box.right);
  const y = linearScale(low, high, box.bottom, box.top);
  const root = frame(width, height, box, "Hypervolume against forward passes");
  axes(root, box, x, y, linearTicks(0, last, 6), linearTicks(low, high, 4), String,
       (t) => String(Number(t.toPrecision(3))), "forward passes", "share of the reference box");
  const line = (value) => steps.map((s, i) => `${i ? "L" : "M"}${x(s.passes)} ${y(value(s))}`).join("");
  names.forEach((name, i) => root.append(svg("path", { d: line((s) => s.devices[name] ?? s.mean),
    fill: "none", stroke: `var(--d${i % 6})`, "stroke-width": 1.4 })));
  if (names.length !== 1) root.append(svg("path", { d: line((s) => s.mean), fill: "none", stroke: "var(--ink)", "stroke-width": 2.4 }));
  makeReadable(root, steps.map((s) => ({ x: x(s.passes), y: y(s.mean), item: s })), (s) => [
    html("b", {}, `${s.passes} passes, ${digits(s.seconds)} s`),
    figures([["mean", digits(s.mean)], ...Object.entries(s.devices).map(([n, v]) => [n, digits(v)])])]);
  const key = (colour, text) => html("span", {},
    svg("svg", { width: 18, height: 8, "aria-hidden": "true" },
        svg("path", { d: "M0 4H18", stroke: colour, "stroke-width": 2.4 })), text);
  const end = steps[steps.length - 1];
  holder.replaceChildren(html("figure", {}, root, html("div", { class: "legend" },
    names.map((n, i) => key(`var(--d${i % 6})`, `${n} ${digits(end.devices[n])}`)),
    names.length === 1 ? null : key("var(--ink)", `mean ${digits(end.mean)}`))));
}

"use strict";
// One configuration: layer strip, predicted beside measured, figures.

const figures = (pairs) => html("dl", { class: "figures" },
  pairs.filter(([, v]) => v !== null && v !== undefined && v !== "")
       .map(([k, v]) => html("div", {}, html("dt", {}, k), html("dd", {}, v))));

const lossText = (p) => p.confirmed
  ? `${signed(p.confirmed.loss, 2)} [${signed(p.confirmed.low, 2)}, ${signed(p.confirmed.high, 2)}]` : null;

function pointTip(p) {
  return [
    html("b", {}, p.id), ` ${p.family}, ${p.dtype}${p.dominated ? ", dominated" : ""}`,
    figures([
      ["error selected", percent(p.selected.error)],
      ["error confirmed", p.confirmed && percent(p.confirmed.error)],
      ["loss confirmed, points", lossText(p)],
      ["latency predicted", quantity("_s", p.costs.latency_mean_s)],
      ["latency measured", p.measured && quantity("_s", p.measured.latency)],
      ["speed-up", `${times(p.speed.predicted)} predicted` + (p.speed.measured ? `, ${times(p.speed.measured)} measured` : "")],
      ["named for a loss of", p.named.map((l) => +(l * 100).toFixed(3)).join(", ") + (p.named.length ? " points" : "")],
    ])];
}

function benchTip(r) {
  return [html("b", {}, r.id), ` ${r.family}${r.counted ? "" : ", reference"}`, figures([
    ["predicted", quantity("_s", r.predicted)],
    ["90 % interval", `${quantity("_s", r.low)} to ${quantity("_s", r.high)}`],
    ["measured", quantity("_s", r.measured)],
    ["difference", signed(r.predicted / r.measured - 1) + " %"]])];
}

function layerStrip(layers, width) {
  const gutter = 58, per = Math.max(4, Math.floor((width - gutter) / 30));
  const rows = Math.ceil(layers.length / per), perRow = Math.ceil(layers.length / rows);
  const cell = Math.min(64, (width - gutter) / perRow);
  const experts = layers.some((l) => l.exists && l.experts);
  const bar = 46, expertsY = 20 + bar + 15, exitY = expertsY + (experts ? 12 : -6);
  const height = exitY + 42;
  const root = svg("svg", { width, height: height * rows, role: "img",
    viewBox: `0 0 ${width} ${height * rows}`, "aria-label": stripText(layers) });
  for (let r = 0; r < rows; r++) {
    const at = r * height, label = (y, text) =>
      root.append(svg("text", { x: 0, y: at + y, class: "faint" }, text));
    label(12, "layer");
    label(20 + bar / 2 + 4, "tokens");
    if (experts) label(expertsY, "experts");
    label(exitY + 20, "exit at");
    label(exitY + 35, "leave");
    layers.slice(r * perRow, (r + 1) * perRow).forEach((l, i) =>
      stripCell(root, l, gutter + i * cell, at, cell, bar, expertsY, exitY, experts));
  }
  return root;
}

function stripCell(root, l, left, top, cell, bar, expertsY, exitY, experts) {
  const middle = left + cell / 2, wide = Math.max(12, cell - 8), start = middle - wide / 2;
  const text = (y, value, kind) => root.append(
    svg("text", { x: middle, y: top + y, "text-anchor": "middle", class: kind || "" }, value));
  text(12, l.layer, l.exists ? "strong" : "faint");
  const track = { x: start, y: top + 20, width: wide, height: bar, rx: 3 };
  if (!l.exists) {
    root.append(svg("rect", { ...track, class: "absent" }));
    return;
  }
  root.append(svg("rect", { ...track, class: "track" }));
  const tall = Math.max(2, bar * l.keep);
  root.append(svg("rect", { class: "tokens", x: start, width: wide, rx: 3, y: top + 20 + bar - tall,
    height: tall, "fill-opacity": l.reach === null ? 0.75 : (0.12 + 0.83 * l.reach).toFixed(3) }));
  if (l.keep < 0.9995) text(20 + bar - Math.min(tall + 4, bar - 12), `${Math.round(l.keep * 100)}%`, "strong halo");
  if (experts) text(expertsY, l.experts ? `${l.experts[0]}/${l.experts[1]}` : "\u00b7", l.experts ? "strong" : "faint");
  if (!l.exit) return;
  root.append(svg("path", { class: "exit-mark", d: `M${middle - 4} ${top + exitY}h8l-4 6z` }));
  text(exitY + 20, l.last ? "always" : l.threshold === null ? "agree" : thresholdText(l.threshold), "strong");
  if (l.rate !== null) text(exitY + 35, `${Math.round(l.rate * 100)}%`);
}

const thresholdText = (t) => Math.abs(t) >= 10 ? t.toFixed(0) : t.toFixed(2).replace("-", MINUS);

function stripText(layers) {
  return layers.filter((l) => l.exists).map((l) => {
    const parts = [`layer ${l.layer}: ${Math.round(l.keep * 100)} % of tokens`];
    if (l.experts) parts.push(`${l.experts[0]} of ${l.experts[1]} experts`);
    if (l.exit) parts.push(l.rate === null ? "exit" : `exit, ${Math.round(l.rate * 100)} % leave`);
    return parts.join(", ");
  }).join("; ");
}

function latencyBar(p, width) {
  const device = data.devices.find((d) => d.name === p.device);
  const full = device && (device.full.find((f) => f.dtype === p.dtype) || {}).costs;
  const top = Math.max(p.high, p.measured ? p.measured.latency : 0, full ? full.latency_mean_s : 0);
  const x = linearScale(0, top, 4, width - 4), mid = 30, own = p.costs.latency_mean_s;
  const root = svg("svg", { width, height: 50, viewBox: `0 0 ${width} 50`, role: "img",
    "aria-label": "Predicted latency with interval, measured latency, full network" });
  root.append(
    svg("line", { class: "grid-line", x1: 4, x2: width - 4, y1: mid, y2: mid }),
    svg("rect", { class: "interval", x: x(p.low), width: Math.max(2, x(p.high) - x(p.low)), y: mid - 7, height: 14, rx: 3 }),
    svg("circle", { class: "dot", cx: x(own), cy: mid, r: 4.5 }));
  if (p.measured) root.append(svg("path", { class: "whisker", d: `M${x(p.measured.latency)} ${mid}m-5-5l10 10m0-10l-10 10` }));
  if (full) root.append(
    svg("line", { class: "axis", x1: x(full.latency_mean_s), x2: x(full.latency_mean_s), y1: mid - 8, y2: mid + 8 }),
    svg("text", { x: Math.min(width - 2, x(full.latency_mean_s)), y: mid - 13, "text-anchor": "end" },
        "full network, predicted"));
  root.append(svg("text", { x: 4, y: mid + 19, class: "faint" }, "0"));
  return root;
}

function fullText(p) {
  const device = data.devices.find((d) => d.name === p.device);
  const full = device && device.full.find((f) => f.dtype === p.dtype);
  if (!full) return null;
  const text = `${quantity("_s", full.costs.latency_mean_s)} predicted`;
  return p.measured && full.measured ? `${text}, ${quantity("_s", full.measured)} measured` : text;
}

function configurationPanel(p, width, waterfall = false) {
  const inner = Math.max(240, width - 34);
  const panel = html("div", { class: "panel", "data-panel": p.id });
  panel.append(
    html("header", {}, html("b", {}, p.id), html("span", { class: "chip" }, symbolIcon(p.family, p.dominated), p.family),
      html("span", { class: "chip" }, p.dtype), html("span", { class: "chip" }, p.device),
      p.named.map((l) => html("span", { class: "chip level" }, l ? `loss \u2264 ${+(l * 100).toFixed(3)}` : "no loss")),
      p.dominated ? html("span", { class: "chip" }, "dominated") : null),
    layerStrip(p.layers, inner),
    html("h4", {}, "Mean latency: \u25cf predicted, interval 90 %" + (p.measured ? ", \u2715 measured" : "")),
    latencyBar(p, inner),
    figures([
      ["latency predicted", `${quantity("_s", p.costs.latency_mean_s)} [${quantity("_s", p.low)}, ${quantity("_s", p.high)}]`],
      ["latency measured", p.measured ? quantity("_s", p.measured.latency) : "not measured"],
      ["speed-up", `${times(p.speed.predicted)} predicted` + (p.speed.measured ? `, ${times(p.speed.measured)} measured` : "")],
      ["full network", fullText(p)],
      ["error selected", `${percent(p.selected.error)} (n = ${p.selected.n.toLocaleString("en")})`],
      ["error confirmed", p.confirmed ? `${percent(p.confirmed.error)} (n = ${p.confirmed.n.toLocaleString("en")})` : "not confirmed"],
      ["loss selected, points", `${signed(p.selected.loss, 2)} \u00b1 ${(p.selected.se * 100).toFixed(2)}`],
      ["loss confirmed, 95 %", lossText(p)],
      ["worst case", quantity("_s", p.costs.latency_worst_s)],
      ["peak memory", quantity("_bytes", p.costs.peak_bytes)],
      ["energy per input", p.costs.energy_j === null ? null : quantity("_j", p.costs.energy_j)],
      ["operations per input", quantity("flops_executed", p.costs.flops_executed)],
      ["exit rule", p.exit_rule],
      ["batch exits", p.batching],
      ["times from", data.origins[p.device]],
      ["file", `configurations/${p.id}.toml`]]),
    certificateText(p) || "",
    ...partsOf(p, inner, waterfall));
  return panel;
}

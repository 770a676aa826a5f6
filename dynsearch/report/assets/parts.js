"use strict";
// Of an explained configuration: spread of its latency, time and energy by operator, memory by part.

const share = (value, most) => html("span", { class: "share", "aria-hidden": "true" },
  html("span", { style: `width:${(100 * Math.max(0, Math.min(1, value / most))).toFixed(1)}%` }));

// Share of inputs that are answered by a time: the quantiles on their side.
function latencySpread(p, quantiles, width) {
  const height = 132, box = { left: 40, right: width - 10, top: 22, bottom: height - 44 };
  const high = quantiles[quantiles.length - 1] * 1.04, steps = quantiles.length - 1;
  const x = linearScale(0, high, box.left, box.right), y = linearScale(0, 1, box.bottom, box.top);
  const [size, unit] = unitFor("_s", high);
  const root = frame(width, height, box, `Latency of ${p.id}: half of the inputs within ${quantity("_s", quantiles[steps / 2])}, all within ${quantity("_s", quantiles[steps])}`);
  axes(root, box, x, y, linearTicks(0, high, width < 420 ? 4 : 6), [0, 0.5, 1], (t) => String(Number((t / size).toPrecision(3))),
       (t) => `${t * 100}%`, `${unit}, predicted`, "inputs answered by");
  root.append(svg("path", { class: "spread", d: quantiles.map((q, i) => `${i ? "L" : "M"}${x(q).toFixed(1)} ${y(i / steps).toFixed(1)}`).join("") }));
  for (const [name, at] of [["mean", p.costs.latency_mean_s], ["p95", p.costs.latency_p95_s]])
    if (at && at <= high) root.append(svg("line", { class: "full-line", x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }),
      svg("text", { class: "halo faint", x: x(at), y: box.top - 4, "text-anchor": "middle" }, name));
  makeReadable(root, quantiles.map((q, i) => ({ x: x(q), y: y(i / steps), item: [q, i / steps] })),
    ([q, s]) => [html("b", {}, quantity("_s", q)), ` ${percent(s)} of inputs are answered by then`], null);
  return root;
}

const KIND_NAMES = { matmul: "matrix products", grouped_matmul: "matrix products of experts", attention_prefill: "attention, fused", attention_importance: "attention that ranks tokens",
  elementwise: "element by element", reduce: "reductions", gather: "gathers, copies", host_sync: "waits for a decision", call: "start of a forward pass" };

function partsTable(found) {
  const most = Math.max(...found.operators.map((o) => o.seconds)), known = found.operators.some((o) => o.energy_j !== null);
  const head = ["operators", "time", "", ...(known ? ["energy"] : [])];
  return html("table", { class: "parts" }, html("thead", {}, html("tr", {}, head.map((t) => html("th", { scope: "col", class: t === "time" || t === "energy" ? "num" : null }, t)))),
    html("tbody", {}, found.operators.map((o) => html("tr", {}, html("td", {}, KIND_NAMES[o.kind] || o.kind.replaceAll("_", " ")),
      html("td", { class: "num" }, quantity("_s", o.seconds)), html("td", {}, share(o.seconds, most)),
      known ? html("td", { class: "num" }, quantity("_j", o.energy_j)) : null))));
}

function memoryTable(found) {
  const parts = Object.entries(found.memory).sort((a, b) => b[1] - a[1]), most = Math.max(...parts.map(([, v]) => v));
  return html("table", { class: "parts" }, html("thead", {}, html("tr", {}, ["memory", "peak", ""].map((t) => html("th", { scope: "col", class: t === "peak" ? "num" : null }, t)))),
    html("tbody", {}, parts.map(([name, v]) => html("tr", {}, html("td", {}, name), html("td", { class: "num" }, quantity("_bytes", v)),
      html("td", {}, share(v, most))))));
}

function certificateText(p) {
  if (p.uncertified) return html("div", { class: "certificate none" }, html("h4", {}, "No certificate"), html("p", { class: "small" }, p.uncertified));
  if (!p.certificate) return null;
  return html("div", { class: "certificate" }, html("h4", {}, "Certificate"), html("p", {}, p.certificate.statement),
    html("p", { class: "small" }, p.certificate.note));
}

// The waterfall is drawn where it does not stand elsewhere on the page.
function partsOf(p, width, waterfall) {
  const found = data.explained.find((e) => e.id === p.id && e.device === p.device && e.operators);
  if (!found) return p.family === "full" ? [] : [html("p", { class: "small" }, "Where its time goes: ", html("code", {}, `dynsearch explain RUN ${p.id}`))];
  const fall = html("div");
  if (waterfall) drawWaterfall(fall, found, width);
  return [...(waterfall ? [html("h4", {}, "From the FLOPs to the time"), fall] : []), html("h4", {}, "Latency of the search rows"), latencySpread(p, found.latency_quantiles, width),
    html("details", { class: "parts-more", open: true }, html("summary", {}, "Time, energy and memory by part"), partsTable(found), memoryTable(found))];
}

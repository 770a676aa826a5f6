"use strict";
// From the time that the FLOPs promise to the predicted time: one bar a step, top to bottom.

const NOTHING = 0.003; // of the longest bar: steps below it are told in the caption

function drawWaterfall(holder, found, room = holder.clientWidth) {
  const width = Math.max(280, room), narrow = width < 400;
  const rows = waterfallRows(found), row = narrow ? 38 : 24;
  const gutter = narrow ? 4 : Math.min(260, width * 0.46), top = 6;
  const box = { left: gutter, right: width - 62, top, bottom: top + rows.length * row };
  const high = Math.max(...rows.map((r) => Math.max(r.from, r.to)));
  const low = Math.min(0, ...rows.map((r) => Math.min(r.from, r.to)));
  const x = linearScale(low, high, box.left, box.right);
  const height = box.bottom + 44;
  const root = frame(width, height, box, `Waterfall of ${found.id}: ${rows.map(waterfallText).join("; ")}`);
  const [size, unit] = unitFor("_s", high);
  for (const t of linearTicks(low, high, narrow ? 3 : 5))
    root.append(svg("line", { class: "grid-line", x1: x(t), x2: x(t), y1: box.top, y2: box.bottom }),
                svg("text", { x: x(t), y: box.bottom + 17, "text-anchor": "middle" },
                    String(Number((t / size).toPrecision(3)))));
  root.append(svg("text", { x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" },
                  `${unit} per input, predicted`));
  const spots = [];
  rows.forEach((r, i) => {
    const y = box.top + i * row, bar = y + (narrow ? 18 : 4), tall = 16;
    const left = Math.min(x(r.from), x(r.to)), right = Math.max(x(r.from), x(r.to));
    root.append(
      svg("text", { x: narrow ? 4 : box.left - 8, y: narrow ? y + 12 : bar + 12, class: r.kind === "step" ? "halo" : "halo strong",
                    "text-anchor": narrow ? "start" : "end" }, r.label),
      svg("rect", { class: `fall ${r.kind} ${r.to < r.from ? "less" : "more"}`, x: left, y: bar,
                    width: Math.max(1.5, right - left), height: tall, rx: 2, "data-step": r.name }),
      svg("text", { x: right + 5, y: bar + 12, class: "halo strong" }, waterfallValue(r, size)));
    if (i + 1 < rows.length)
      root.append(svg("line", { class: "joint", x1: x(r.to), x2: x(r.to), y1: bar + tall, y2: bar + row }));
    spots.push({ x: (left + right) / 2, y: bar + tall / 2, item: r });
  });
  makeReadable(root, spots, waterfallTip, null);
  const small = found.steps.filter((s) => s.seconds && !rows.some((r) => r.name === s.name));
  const sum = small.reduce((a, s) => a + s.seconds, 0);
  const ideal = found.flops_share > 0 ? times(1 / found.flops_share) : DASH;
  holder.replaceChildren(html("figure", { class: "waterfall" },
    html("h3", {}, html("b", {}, found.id), ` ${found.family}, ${found.dtype}`), root,
    html("figcaption", {}, html("b", {}, `${percent(1 - found.flops_share, 0)} of the FLOPs saved`),
      ` would make it ${ideal} as fast as the full network's ${quantity("_s", found.full_s)}; ` +
      `predicted is ${times(found.speed_up)}`,
      small.length ? ` \u00b7 ${small.length} small step${small.length === 1 ? "" : "s"}, together ${signedTime(sum, size)} ${unit}, not drawn` : "")));
}

// Bars in order: the ideal, the steps that show, the prediction. The full network's would dwarf them.
function waterfallRows(found) {
  const most = Math.max(found.start_s, found.total_s);
  const rows = [{ name: "start", label: "if it followed the FLOPs", kind: "sum", from: 0, to: found.start_s }];
  let at = found.start_s;
  for (const s of found.steps) {
    if (Math.abs(s.seconds) >= NOTHING * most)
      rows.push({ ...s, label: SHORT[s.name] || s.label, long: s.label, kind: "step", from: at, to: at + s.seconds });
    at += s.seconds;
  }
  rows.push({ name: "total", label: "predicted", kind: "sum", from: 0, to: found.total_s });
  return rows;
}

const SHORT = {
  weights: "weights read for few rows", floor: "operators start", call: "start of a forward pass",
  fill: "few rows fill badly", activations: "activations moved", batching: "batches shrink or wait",
  padding: "padding", checks: "exit checks", drop: "token drop", router: "routers",
  dispatch: "expert dispatch", compaction: "compaction", rest: "rest: unequal FLOPs",
};
const signedTime = (seconds, size) => (seconds > 0 ? "+" : "") + digits(seconds / size, 2);
const waterfallValue = (r, size) =>
  r.kind === "sum" ? digits(r.to / size) : signedTime(r.to - r.from, size);
const waterfallText = (r) =>
  `${r.long || r.label} ${quantity("_s", Math.abs(r.to - r.from))}${r.to < r.from ? " less" : ""}`;

function waterfallTip(r) {
  return [html("b", {}, r.long || r.label), figures(r.kind === "sum"
    ? [["per input", quantity("_s", r.to)]]
    : [["beyond its FLOPs share", waterfallText({ ...r, long: " ", label: " " }).trim()],
       ["it pays", quantity("_s", r.own_s)], ["full network pays", quantity("_s", r.full_s)]])];
}

function drawExplained() {
  for (const holder of document.querySelectorAll("[data-waterfall]")) {
    const found = data.explained.find((e) => e.id === holder.dataset.waterfall);
    if (found) drawWaterfall(holder, found);
  }
}

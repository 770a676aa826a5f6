"use strict";
// Two configurations beside each other: what differs, and by how much.

const placeOf = (p) => String(data.points.indexOf(p));

function wireBeside() {
  const picks = [$("beside-a"), $("beside-b")];
  if (!picks[0] || !data.points.length) return;
  for (const pick of picks) {
    pick.append(...data.points.map((p) => html("option", { value: placeOf(p) }, `${p.id} \u00b7 ${p.family} \u00b7 ${p.dtype} \u00b7 ${p.device}`)));
    pick.addEventListener("change", drawBeside);
  }
  const chosen = data.points.find((p) => p.id === state.id && p.device === state.device) || data.points[0];
  const other = data.points.find((p) => p.device === chosen.device && p.dtype === chosen.dtype && p.family === "full") || data.points[0];
  picks[0].value = placeOf(chosen);
  picks[1].value = placeOf(other);
  $("beside-take").addEventListener("click", () => {
    const now = data.points.find((p) => p.id === state.id && p.device === state.device);
    if (now) { picks[0].value = placeOf(now); drawBeside(); }
  });
}

function drawBeside() {
  const holder = $("beside");
  if (!holder || !data.points.length) return;
  const [a, b] = [$("beside-a"), $("beside-b")].map((pick) => data.points[Number(pick.value)]);
  const number = (label, read, text, ratio = true) => {
    const [x, y] = [read(a), read(b)];
    if (x === null && y === null) return null;
    const known = x !== null && y !== null;
    const apart = !known ? DASH : ratio ? (y > 0 ? times(x / y) : DASH) : signed(x - y);
    return [label, text(x), text(y), apart];
  };
  const word = (label, read) => [label, read(a) ?? DASH, read(b) ?? DASH, read(a) === read(b) ? "" : "differs"];
  const exits = (p) => p.layers.filter((l) => l.exists && l.exit).map((l) => l.last ? l.layer : `${l.layer} (${l.threshold === null ? "agree" : thresholdText(l.threshold)})`).join(", ");
  const kept = (p) => p.layers.filter((l) => l.exists).map((l) => `${Math.round(l.keep * 100)}%`).join(" ");
  const experts = (p) => p.layers.filter((l) => l.exists && l.experts).map((l) => `${l.layer}: ${l.experts[0]}/${l.experts[1]}`).join(", ") || "none";
  const rows = [
    word("family", (p) => p.family), word("number format", (p) => p.dtype), word("device", (p) => p.device),
    word("exits (thresholds)", exits), word("exit rule", (p) => p.exit_rule), word("tokens kept", kept), word("experts", experts),
    number("error selected", (p) => p.selected.error, percent, false),
    number("error confirmed", (p) => p.confirmed ? p.confirmed.error : null, percent, false),
    ...data.costs.map(([name, label]) => number(`${label.toLowerCase()}, predicted`, (p) => p.costs[name], (v) => quantity(name, v))),
    number("mean latency, measured", (p) => p.measured ? p.measured.latency : null, (v) => quantity("_s", v)),
  ].filter(Boolean);
  const cell = (text, i) => html("td", i === 3 && text === "differs" ? { class: "strong" } : {}, text);
  const head = html("tr", {}, ["", a.id, b.id, "A to B: ratio, or points"].map((t) => html("th", { scope: "col" }, t)));
  const strips = [a, b].map((p, i) => html("figure", {}, html("h4", {}, `${"AB"[i]}: ${p.id}`),
    layerStrip(p.layers, Math.max(240, Math.min(540, holder.clientWidth - 8)))));
  holder.replaceChildren(html("div", { class: "grid wide" }, strips),
    html("div", { class: "scroll", tabindex: "0" }, html("table", { id: "beside-table" }, html("thead", {}, head),
      html("tbody", {}, rows.map((row) => html("tr", {}, row.map(cell)))))));
}

// Charts on uPlot: updated in place, one time axis and one cursor per page.
import uPlot from "./uplot.js";
import { h } from "./dom.js";
import { time as timeText } from "./format.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const HEIGHT = 190;
export const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];

// One chart in a card. `series`: [{label, colour, value, scale?, fill?, points?}], `bands` as in uPlot.
export class Chart {
  constructor({ title, hint, series, bands = [], scales = {}, sync, unit }) {
    this.options = { series, bands, scales, sync, unit };
    this.place = h("div", { class: "chart" });
    this.body = h("tbody");
    this.table = h("details", { ontoggle: () => this.listed() },
      h("summary", {}, "Values as a table"),
      h("div", { class: "scroll" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", {}, "time"), series.map((one) => h("th", { class: "num" }, one.label)))),
        this.body)));
    this.card = h("section", { class: "card", "aria-label": title },
      h("h2", {}, title), h("p", { class: "soft small" }, hint), this.place, this.table);
    this.marks = [];
    this.window = null;
    this.data = null;
    this.plot = null;
    this.resizing = new ResizeObserver(() => this.fit());
    this.resizing.observe(this.place);
  }

  // `shown`: what legend and table say where what is drawn is something else (stacks).
  update(data, { marks = [], window, shown = null }) {
    this.marks = marks;
    this.window = window;
    this.shown = shown ?? data;
    this.data = data;
    if (this.plot === null) this.draw();
    else this.plot.setData(data);
    if (this.table.open) this.listed();
  }

  fit() {
    const width = this.place.clientWidth;
    if (this.plot !== null && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  draw() {
    this.plot?.destroy();
    if (this.data === null) return;
    const { series, bands, scales, sync, unit } = this.options;
    const axis = { stroke: css("--soft"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const text = unit ?? ((value) => value);
    const right = series.find((one) => one.scale);
    const options = {
      width: Math.max(200, this.place.clientWidth), height: HEIGHT, padding: [10, 24, 0, 0],
      cursor: { sync: { key: sync }, drag: { x: false, y: false } }, legend: { live: true },
      scales: { x: { time: true, range: () => this.window }, y: { range: (_, low, high) => spread(low, high) }, ...scales },
      axes: [{ ...axis, space: 64, values: (_, values, __, ___, step) => values.map((value) => clock(value, step)) }, { ...axis, size: 58, values: (_, values) => values.map(text) },
        ...(right ? [{ ...axis, scale: right.scale, side: 1, size: 50, grid: { show: false } }] : [])],
      series: [{ label: "time", value: (_, value) => (value === null || value === undefined ? "\u2013" : timeText(value).slice(0, 16)) },
        ...series.map((one, index) => ({
          label: one.label, stroke: css(one.colour), width: one.line ?? 1.8, scale: one.scale ?? "y", fill: one.fill ? css(one.fill) : undefined,
          spanGaps: false, paths: one.points ? () => null : undefined,
          points: one.points ? { show: true, size: 7, fill: css(one.colour) } : { size: 5, fill: css(one.colour) },
          value: (_, value, at, row) => one.value(row === null || row === undefined ? null : this.shown[index + 1][row]),
        }))],
      bands: bands.map((band) => ({ series: band.series, fill: css(band.fill) + (band.alpha ?? "") })),
      hooks: { drawAxes: [(plot) => this.markRounds(plot)] },
    };
    this.plot = new uPlot(options, this.data, this.place);
  }

  // Rounds on the time axis: a line where a snapshot was swapped in, red where the round failed.
  markRounds(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const mark of this.marks) {
      const x = plot.valToPos(mark.time, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = css(mark.error === null ? "--mark" : "--bad");
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  listed() {
    if (!this.table.open || this.data === null) return;
    const rows = [];
    for (let row = this.data[0].length - 1; row >= 0 && rows.length < 120; row -= 1) {
      const values = this.options.series.map((one, index) => this.shown[index + 1][row]);
      if (values.every((value) => value === null || value === undefined)) continue;
      rows.push(h("tr", {}, h("td", {}, timeText(this.data[0][row])),
        values.map((value, index) => h("td", { class: "num" }, this.options.series[index].value(value)))));
    }
    this.body.replaceChildren(...rows);
  }

  destroy() {
    this.resizing.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }
}

function clock(value, step) {
  const text = timeText(value);
  if (step >= 86400) return text.slice(5, 10);
  return text.slice(11, step < 60 ? 19 : 16) === "00:00" ? text.slice(5, 10) : text.slice(11, step < 60 ? 19 : 16);
}

function spread(low, high) {
  if (low === null || high === null || !Number.isFinite(low)) return [0, 1];
  if (low === 0 && high === 0) return [0, 1];
  if (low >= 0 && low < 0.6 * high) return [0, high === 0 ? 1 : high * 1.06];
  const pad = low === high ? Math.max(1e-9, Math.abs(low) * 0.1) : 0.08 * (high - low);
  return [low - pad, high + pad];
}

// Shares of several actions on top of each other: what is drawn, the last one below.
export function stacked(columns) {
  const sums = columns[0].map(() => 0);
  const drawn = columns.map((column) => column.map((value, row) => {
    if (value === null) return null;
    sums[row] += value;
    return Math.min(1, sums[row]);
  }));
  return drawn;
}


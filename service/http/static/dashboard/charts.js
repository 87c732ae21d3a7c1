// Charts on uPlot: updated in place, one time axis and one cursor per page.
import uPlot from "./uplot.js";
import { h, scroll } from "./dom.js";
import { time as timeText } from "./format.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const HEIGHT = 190;
const WHOLE = [...Array(10).keys()].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power)); // of an axis of counts
const MARKS = { guard: "--bad", failed: "--bad", promotion: "--c2", swap: "--mark", change: "--c1" }; // what matters more first
const RANK = Object.keys(MARKS);
const NEAR = 8; // pixels from the cursor
const TOLD = 6; // marks at once
const WORD = 22; // characters
export const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];

// Values between two gaps: a line has no length there, so they are points, however dense the chart.
const alone = (plot, index, shown) => {
  if (shown) return null;
  const column = plot.data[index];
  const is = (row) => column[row] !== null && column[row] !== undefined;
  return [...column.keys()].filter((row) => is(row) && !is(row - 1) && !is(row + 1));
};

// One chart in a card. `series`: [{label, colour, value, scale?, fill?, points?}], `bands` as in uPlot.
export class Chart {
  constructor({ title, hint, series, bands = [], scales = {}, sync, unit, share = false, whole = false }) {
    this.options = { series, bands, scales, sync, unit, share, whole };
    this.empty = h("p", { class: "soft", hidden: true }, "Nothing in this range.");
    this.place = h("div", { class: "chart" });
    this.told = h("ul", { class: "told small" });
    this.body = h("tbody");
    this.table = h("details", { ontoggle: () => this.listed() },
      h("summary", {}, "Values as a table"),
      scroll(`Values of ${title}`, h("table", {},
        h("thead", {}, h("tr", {}, h("th", {}, "time"), series.map((one) => h("th", { class: "num" }, one.label)))),
        this.body)));
    this.card = h("section", { class: "card", "aria-label": title },
      h("h2", {}, title), h("p", { class: "soft small" }, hint), this.empty, this.place, this.told, this.table);
    this.marks = [];
    this.window = null;
    this.data = null;
    this.plot = null;
    this.resizing = new ResizeObserver(() => this.fit());
    this.resizing.observe(this.place);
  }

  // `shown`: what legend and table say where what is drawn is something else (stacks).
  update(data, { marks = [], window, shown = null }) {
    this.marks = marks.slice().sort((a, b) => RANK.indexOf(a.kind) - RANK.indexOf(b.kind) || a.time - b.time);
    this.window = window;
    this.shown = shown ?? data;
    this.data = data;
    const isEmpty = !data.slice(1).some((column) => column.some((value) => value !== null && value !== undefined));
    this.empty.hidden = !isEmpty;
    this.place.hidden = isEmpty; // no axes and no legend of nothing
    this.table.hidden = isEmpty;
    if (this.plot !== null) this.plot.setData(data);
    else if (!isEmpty) this.draw();
    this.rest();
    if (this.table.open) this.listed();
  }

  // Without a cursor the legend has the newest values.
  rest() {
    if (this.plot === null || this.plot.cursor.left >= 0) return;
    const columns = this.data.slice(1);
    const last = this.data[0].findLastIndex((_, row) => columns.some((column) => column[row] !== null && column[row] !== undefined));
    if (last >= 0) this.plot.setLegend({ idx: last });
  }

  fit() {
    const width = this.place.clientWidth;
    if (this.plot !== null && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  draw() {
    this.plot?.destroy();
    this.plot = null;
    if (this.data === null || this.place.hidden) return;
    const { series, bands, scales, sync, unit } = this.options;
    const axis = { stroke: css("--soft"), grid: { stroke: css("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const text = unit ?? ((value) => value);
    const right = series.find((one) => one.scale);
    const options = {
      width: Math.max(200, this.place.clientWidth), height: HEIGHT, padding: [10, right ? 24 : 32, 0, 0], // half of a time of day, at the right end
      cursor: { sync: { key: sync }, drag: { x: false, y: false } }, legend: { live: true },
      scales: { x: { time: true, range: () => this.window }, y: { range: (_, low, high) => spread(low, high, this.options.share) }, ...scales },
      axes: [{ ...axis, space: 64, values: (_, values, __, ___, step) => values.map((value) => clock(value, step)) }, { ...axis, size: 58, values: (_, values) => values.map(text), ...(this.options.whole ? { incrs: WHOLE } : {}) },
        ...(right ? [{ ...axis, scale: right.scale, side: 1, size: 50, grid: { show: false } }] : [])],
      series: [{ label: "time", value: (_, value) => (value === null || value === undefined ? "\u2013" : timeText(value).slice(0, 16)) },
        ...series.map((one, index) => ({
          label: one.label, stroke: css(one.colour), width: one.line ?? 1.8, scale: one.scale ?? "y", fill: one.fill ? css(one.fill) : undefined,
          spanGaps: false, paths: one.points ? () => null : undefined,
          points: one.points ? { show: true, size: 7, fill: css(one.colour) } : { size: 5, fill: css(one.colour), filter: alone },
          value: (_, value, at, row) => one.value(row === null || row === undefined ? null : this.shown[index + 1][row]),
        }))],
      bands: bands.map((band) => ({ series: band.series, fill: css(band.fill) + (band.alpha ?? "") })),
      hooks: { drawAxes: [(plot) => this.drawMarks(plot)], setCursor: [(plot) => { this.tellMarks(plot); if (plot.cursor.left < 0) queueMicrotask(() => this.rest()); }] },
    };
    this.plot = new uPlot(options, this.data, this.place);
    this.rest();
  }

  // What happened, on the time axis: dashed where a snapshot was swapped in, red where a round
  // failed or a guard acted, dotted with a word where something was done. Of words without room
  // for all of them, those are written that matter more.
  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const written = [];
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.font = `${10 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "left"; // the axes leave their own
    ctx.textBaseline = "alphabetic";
    for (const mark of this.marks) {
      const x = plot.valToPos(mark.time, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = css(MARKS[mark.kind]);
      ctx.setLineDash([(mark.text ? 1.5 : 4) * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (!mark.text) continue;
      const text = mark.text.length > WORD ? `${mark.text.slice(0, WORD - 1)}\u2026` : mark.text;
      const wide = ctx.measureText(text).width;
      const at = Math.max(bbox.left, Math.min(x + 3 * devicePixelRatio, bbox.left + bbox.width - wide));
      const gap = 4 * devicePixelRatio;
      if (written.some(([low, high]) => at < high + gap && at + wide > low - gap)) continue;
      written.push([at, at + wide]);
      ctx.fillStyle = css(mark.kind === "guard" ? "--bad" : "--soft");
      ctx.fillText(text, at, bbox.top + 9 * devicePixelRatio);
    }
    ctx.restore();
  }

  // What the marks near the cursor are: of the chart that the pointer is in, not of those that follow it.
  tellMarks(plot) {
    const { left, event } = plot.cursor;
    const near = left < 0 || !event ? [] : this.marks.filter((mark) => Math.abs(plot.valToPos(mark.time, "x") - left) <= NEAR);
    const lines = near.slice(0, TOLD).map((mark) => h("li", {}, `${timeText(mark.time)}: ${mark.detail}`));
    if (near.length > TOLD) lines.push(h("li", {}, `and ${near.length - TOLD} more, in the list of changes`));
    this.told.replaceChildren(...lines);
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

// The ends of an axis of shares, which has no room above 100 %.
export function shareAxis(low, high) {
  const begin = low < 0.6 * high || low === high ? 0 : Math.max(0, low - 0.08 * (high - low));
  return [begin, high === 0 ? 1 : Math.min(1, high * 1.06)];
}

function spread(low, high, share) {
  if (low === null || high === null || !Number.isFinite(low)) return [0, 1];
  if (share && low >= 0 && high <= 1) return shareAxis(low, high);
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


// One decision: what was asked, what the model thought, what was chosen, what was learned.
import { get } from "./api.js";
import { facts, h, scroll } from "./dom.js";
import { count, number, percent, seconds, time } from "./format.js";

const READERS = {
  uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array,
  float32: Float32Array, float64: Float64Array, bool: Uint8Array,
};

export class DecisionView {
  constructor(root, name, id) {
    this.name = name;
    this.id = id;
    this.title = id;
    this.every = 5000;
    this.root = root;
    this.sort = ["mean", -1];
    this.known = "";
    root.replaceChildren(h("section", { class: "card" }, h("h1", {}, id), h("p", { class: "soft" }, "Drawing it again from its snapshot\u2026")));
  }

  async update(signal) {
    const found = await get(`bandits/${encodeURIComponent(this.name)}/decisions/${encodeURIComponent(this.id)}`, signal);
    const text = JSON.stringify(found);
    if (text !== this.known) {
      this.known = text;
      this.show(found);
    }
    this.every = found.chosen.every((one) => one.value !== null) ? 30000 : 5000;
  }

  show(found) {
    const [first] = found.chosen;
    this.table = scroll("List of candidates");
    this.root.replaceChildren(
      h("section", { class: "card" },
        h("div", { class: "row between" }, h("h1", {}, found.chosen.map((one) => one.id).join(", ")), verdict(found)),
        h("p", { class: "soft small" }, `Decision ${found.decision_id}, ${time(found.time)}`),
        facts([["sampled value", number(first.score)], ["propensity", found.propensity === null ? "not known" : percent(found.propensity)],
          ["why", found.explored === null ? "\u2013" : found.explored ? "explored" : "best mean"],
          ["standard deviation", number(found.std)], ["reward", first.value === null ? "none yet" : number(first.value)],
          ...(found.arm ? [["decided by", found.arm]] : []), ...Object.entries(found.shadows ?? {}).map(([name, action]) => [`shadow ${name}`, action]),
          ["snapshot", String(found.snapshot)], ["position", count(found.position)]]),
        found.activated ? null : h("div", { class: "finding" }, "Not activated: its rewards are not learned.")),
      h("div", { class: "grid" },
        h("section", { class: "card", "aria-label": "Context" }, h("h2", {}, "Context"), context(found.context), offered(first)),
        h("section", { class: "card", "aria-label": "What was learned" }, h("h2", {}, "What was learned"), learned(found))),
      h("div", { class: "grid wide" }, added(found), this.candidates(found)));
  }

  candidates(found) {
    const card = h("section", { class: "card", id: "candidates", "aria-label": "Candidates" }, h("h2", {}, "Candidates"));
    if (found.explained === "no") {
      card.append(h("div", { class: "finding" }, h("strong", {}, "This cannot be told any more: "), found.reason));
      return card;
    }
    const more = found.num_candidates - found.candidates.length;
    card.append(h("p", { class: "soft small" },
      h("span", { class: "key mean" }), "posterior mean and standard deviation ", h("span", { class: "key sampled" }), "the value sampled for this decision; the greatest one was served",
      more > 0 ? `. The ${count(found.candidates.length)} with the best means of ${count(found.num_candidates)}.` : "."), this.table);
    this.list(found);
    return card;
  }

  list(found) {
    const [column, way] = this.sort;
    const rows = found.candidates.slice().sort((a, b) => way * (typeof a[column] === "string" ? a[column].localeCompare(b[column]) : a[column] - b[column]));
    const low = Math.min(...rows.map((one) => Math.min(one.mean - one.std, one.sampled)));
    const high = Math.max(...rows.map((one) => Math.max(one.mean + one.std, one.sampled)));
    const at = (value) => `${high > low ? (100 * (value - low)) / (high - low) : 50}%`; // one point: in the middle
    const head = (name, label, numeric) => h("th", { class: numeric ? "num" : "", "aria-sort": name === column ? (way > 0 ? "ascending" : "descending") : "none" },
      h("button", { type: "button", "data-sort": name, onclick: () => {
        this.sort = [name, name === column ? -way : name === "id" ? 1 : -1];
        this.list(found);
        this.table.querySelector(`[data-sort=${name}]`).focus();
      } }, label));
    const picture = (one) => {
      const line = h("i");
      const mean = h("b");
      const sampled = h("u");
      line.style.left = at(one.mean - one.std);
      line.style.width = `${(200 * one.std) / Math.max(1e-12, high - low)}%`;
      mean.style.left = at(one.mean);
      sampled.style.left = at(one.sampled);
      return h("div", { class: "range", "aria-hidden": "true" }, line, mean, sampled);
    };
    this.table.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, head("id", "action", false), head("mean", "mean", true), head("std", "std", true), head("sampled", "sampled", true), head("propensity", "propensity", true), h("td", {}))),
      h("tbody", {}, rows.map((one) => h("tr", { class: one.chosen ? "chosen" : "", "data-action": one.id },
        h("td", { class: "break" }, one.id, one.chosen ? h("span", { class: "badge good" }, "chosen") : null),
        h("td", { class: "num" }, number(one.mean)), h("td", { class: "num" }, number(one.std)), h("td", { class: "num" }, number(one.sampled)),
        h("td", { class: "num" }, percent(one.propensity)), h("td", {}, picture(one)))))));
  }

  destroy() {}
}

function verdict(found) {
  if (found.reproduced === null) return h("span", { class: "badge warn" }, "not reproducible");
  const { action, score, propensity } = found.reproduced;
  if (action === null || score === null) {
    return h("span", { class: "badge warn" }, "not reproducible: retrieved from a list that is not stored");
  }
  const same = action && score && propensity !== false;
  return h("span", { class: `badge ${same ? "good" : "warn"}`, id: "reproduced" },
    same ? "reproduced exactly" : action ? "same action, other numbers" : "drawn differently now");
}

// Named features: an object as its JSON, a field a line.
function named(object) {
  return h("pre", { class: "break", tabindex: "0", role: "group", "aria-label": "The object" }, JSON.stringify(object, null, 2));
}

function offered({ id, features }) {
  return features ? h("details", { open: true }, h("summary", {}, `Features of ${id}`), named(features)) : null;
}

function context({ dtype, shape, data, object }) {
  if (object) return named(object);
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const values = READERS[dtype] === undefined ? null : Array.from(new READERS[dtype](bytes.buffer));
  const told = h("p", { class: "soft small" }, `${dtype}, shape (${shape.join(", ")})`);
  if (values === null) return h("div", {}, told);
  const [channels, rows, columns] = shape.length === 3 ? shape : [1, ...shape];
  if (columns > 1 && rows > 1 && (channels === 1 || channels === 3)) return h("div", {}, told, image(values, channels, rows, columns));
  const bars = h("div", { class: "bars", role: "img", "aria-label": "the context's numbers" });
  const shown = values.slice(0, 128);
  const most = Math.max(1e-12, ...shown.map(Math.abs));
  shown.forEach((value, index) => {
    const bar = h("div", { class: value < 0 ? "neg" : "", title: `${index}: ${number(value, 6)}` });
    bar.style.height = `${Math.max(1, (100 * Math.abs(value)) / most)}%`;
    bars.append(bar);
  });
  return h("div", {}, told, bars,
    h("details", {}, h("summary", {}, "Values"), h("p", { class: "break" }, shown.map((value) => number(value, 6)).join(", "), values.length > 128 ? ", \u2026" : "")));
}

function image(values, channels, rows, columns) {
  const canvas = h("canvas", { class: "image", width: columns, height: rows, role: "img", "aria-label": "the context as an image" });
  const paint = canvas.getContext("2d");
  const pixels = paint.createImageData(columns, rows);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const plane = rows * columns;
  for (let at = 0; at < plane; at += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      const value = values[at + plane * (channels === 3 ? channel : 0)];
      pixels.data[4 * at + channel] = (255 * (value - low)) / Math.max(1e-12, high - low);
    }
    pixels.data[4 * at + 3] = 255;
  }
  paint.putImageData(pixels, 0, 0);
  return canvas;
}

// What each named feature added to what was expected of the chosen action.
function added(found) {
  if (!found.added?.length) return null;
  const most = Math.max(1e-12, ...found.added.map((one) => Math.abs(one.added)));
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const rows = found.added.map((one) => {
    const bar = h("i", { class: one.added < 0 ? "neg" : "" });
    bar.style.width = `${(100 * Math.abs(one.added)) / most}%`;
    return h("tr", {}, h("td", { class: "break" }, `${one.side === "action" ? `${found.chosen[0].id}: ` : ""}${one.path}`), h("td", { class: "break" }, text(one.value)),
      h("td", { class: "num" }, `${one.added > 0 ? "+" : ""}${number(one.added)}`), h("td", { class: "wide" }, h("div", { class: "added", "aria-hidden": "true" }, bar)));
  });
  return h("section", { class: "card", "aria-label": "What counted" }, h("h2", {}, "What counted"),
    h("p", { class: "soft small" }, "How much less would have been expected without each feature. Features that work together count in each of them."),
    scroll("List of features", h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "feature"), h("th", {}, "was"), h("th", { class: "num" }, "added"), h("td", { class: "wide" }))), h("tbody", {}, rows))));
}

function reported({ reward, metrics }) {
  return metrics ? Object.entries(metrics).map(([name, value]) => `${name} ${number(value)}`).join(", ") : number(reward);
}

function learned(found) {
  const rows = found.chosen.flatMap((one) => one.learned.map((row) => h("tr", {},
    h("td", { class: "break" }, one.id), h("td", { class: "num" }, `${row.before === null ? "" : `${number(row.before)} \u2192 `}${number(row.after)}${row.learned === null ? "" : ` (learned as ${number(row.learned)})`}`),
    h("td", { class: "num" }, count(row.position)), h("td", {}, time(row.time)), h("td", { class: "num" }, seconds(row.time - found.time)))));
  const reports = found.chosen.flatMap((one) => one.rewards.map((row) => h("tr", {},
    h("td", { class: "break" }, one.id), h("td", { class: "num" }, reported(row)), h("td", {}, row.status), h("td", {}, time(row.time)))));
  const table = (names, body) => scroll(names.join(", "), h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", {}, name)))), h("tbody", {}, body)));
  return h("div", {},
    rows.length ? table(["action", "value", "position", "time", "after"], rows) : h("p", { class: "soft" }, "Nothing yet: no reward was learned for it."),
    found.window_closes === null ? null : h("p", { class: "soft small" }, found.window_closed === null ? `Its reward window closes ${time(found.window_closes)}.` : `Its reward window closed ${time(found.window_closed)}.`),
    reports.length ? h("details", {}, h("summary", {}, `${count(reports.length)} reported`), table(["action", "reward", "became", "time"], reports)) : null);
}

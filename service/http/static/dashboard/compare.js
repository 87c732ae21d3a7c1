// Two bandits side by side: reward, lift, what each action earned, over time.
import { get } from "./api.js";
import { Chart } from "./charts.js";
import { fill, h, scroll } from "./dom.js";
import { count, number, percent } from "./format.js";

const RANGES = ["15m", "1h", "6h", "1d", "7d", "30d", "all"];
const COLOURS = ["--c0", "--c1"];

export class CompareView {
  constructor(root, first, second, range) {
    this.names = [first ?? null, second ?? null];
    this.range = RANGES.includes(range) ? range : "1d";
    this.title = "Compare bandits";
    this.every = 4000;
    this.known = null;
    this.pickers = ["First bandit", "Second bandit"].map((label, index) => h("select", { "aria-label": label, onchange: (event) => { this.names[index] = event.target.value; this.turn(); } }));
    this.verdict = h("div", { role: "status" });
    this.table = h("section", { class: "card", "aria-label": "Figures" });
    this.actions = h("section", { class: "card", "aria-label": "By action" });
    const ranges = h("div", { class: "ranges", role: "group", "aria-label": "Range" }, RANGES.map((each) => h("button", { type: "button", "data-range": each, "aria-pressed": String(each === this.range), onclick: () => { this.range = each; this.turn(); } }, each)));
    this.grid = h("div", { class: "grid" });
    this.charts = {};
    root.replaceChildren(h("section", { class: "card" }, h("div", { class: "row between" }, h("h1", {}, "Compare"), ranges),
      h("div", { class: "row filters" }, this.pickers[0], h("span", {}, "and"), this.pickers[1]), this.verdict), this.table, this.grid, this.actions);
  }

  turn() {
    const [first, second] = this.names.map((name) => encodeURIComponent(name ?? ""));
    location.hash = `#/compare/${first}/${second}?range=${this.range}`;
  }

  makeCharts() {
    const [one, two] = this.names;
    const labels = one === two ? [one, `${two} (again)`] : [one, two];
    const pair = (value) => labels.map((label, index) => ({ label, colour: COLOURS[index], value }));
    const make = (title, hint, value, more = {}) => new Chart({ title, hint, series: pair(value), sync: "compare", unit: (each) => value(each), ...more });
    this.charts = {
      reward: new Chart({
        title: "Mean reward", hint: "Of the values learned at that time, with the 95 % interval of each mean.", sync: "compare", unit: (value) => number(value),
        series: [
          { label: "high", colour: "--band", value: number, line: 0 }, { label: "low", colour: "--band", value: number, line: 0 },
          { label: "high", colour: "--rest", value: number, line: 0 }, { label: "low", colour: "--rest", value: number, line: 0 },
          ...pair(number)],
        bands: [{ series: [1, 2], fill: "--band" }, { series: [3, 4], fill: "--band2" }],
      }),
      total: make("Reward so far", "The sum of the values learned in this range, per decision with a value.", number),
      traffic: make("Decisions", "Made, per point.", count),
      join: make("Join rate", "Values learned per action chosen.", percent, { share: true }),
    };
    this.grid.replaceChildren(...Object.values(this.charts).map((chart) => chart.card));
  }

  async update(signal) {
    if (this.known === null) {
      const { bandits } = await get("bandits?limit=1000", signal);
      this.known = [...new Set([...bandits.map((each) => each.name), ...this.names.filter(Boolean)])];
      const pick = (wanted, other) => (this.known.includes(wanted) ? wanted : this.known.find((name) => name !== other) ?? null);
      const [first, second] = this.names;
      this.names[0] = pick(first, second);
      this.names[1] = pick(second, this.names[0]);
      this.pickers.forEach((picker, index) => {
        picker.replaceChildren(...this.known.map((name) => h("option", { value: name }, name)));
        if (this.names[index] !== null) picker.value = this.names[index];
      });
    }
    const { names } = this;
    if (names.includes(null)) {
      this.grid.replaceChildren();
      this.table.hidden = this.actions.hidden = true;
      fill(this.verdict, h("p", { class: "soft" }, this.known.length ? "There is one bandit only: create a second one to compare." : "There is no bandit yet."),
        h("a", { href: "#/new" }, "Create a bandit"));
      return;
    }
    if (!this.charts.reward) this.makeCharts();
    const over = names.map((name) => get(`dashboard/bandits/${encodeURIComponent(name)}?range=${this.range}`, signal));
    const earned = names.map((name) => get(`bandits/${encodeURIComponent(name)}/values?limit=200`, signal));
    const found = await Promise.all(over);
    const values = await Promise.all(earned);
    this.showVerdict(found);
    this.showFigures(found);
    this.showCharts(found);
    this.showActions(values);
  }

  // The difference of two means of different decisions: its variance is the sum of theirs.
  showVerdict([one, two]) {
    const [a, b] = [one.reward_total, two.reward_total];
    if (a.low === null || b.low === null) {
      fill(this.verdict, h("p", {}, "Neither is better as far as can be told: both need two values in this range."));
      return;
    }
    const lift = b.mean - a.mean;
    const half = Math.hypot(b.mean - b.low, a.mean - a.low);
    const [first, second] = this.names;
    const said = lift - half > 0 ? `${second} earns more` : lift + half < 0 ? `${first} earns more` : "No difference can be told yet";
    fill(this.verdict,
      h("p", { id: "lift" }, h("strong", {}, `${said}: `), `${second} less ${first} is ${lift > 0 ? "+" : ""}${number(lift)} per decision, ${number(lift - half)} to ${number(lift + half)} (95 %`,
        a.mean ? `; ${lift > 0 ? "+" : ""}${percent(lift / Math.abs(a.mean))})` : ")"),
      h("p", { class: "soft small" }, "This compares the decisions that each had in the range, and holds for one look. Where requests were not divided between them at random, it also shows how their visitors differ: within one bandit, an arm divides them."));
  }

  showFigures(found) {
    const rows = [
      ["policy", (one) => `${one.policy}, ${one.spec.encoder.name}`], ["mean reward", (one) => number(one.reward_total.mean)],
      ["its interval", (one) => (one.reward_total.low === null ? "\u2013" : `${number(one.reward_total.low)} to ${number(one.reward_total.high)}`)],
      ["decisions", (one) => count(one.selects.reduce((a, b) => a + b, 0))], ["values", (one) => count(one.reward_total.num)], ["join rate", (one) => percent(one.join_rate)],
      ["actions offered", (one) => count(one.num_actions)], ["learned, ever", (one) => count(one.num_learned)], ["snapshot", (one) => String(one.snapshot)],
      ["alarms and notices", (one) => one.findings.map((each) => each.name).join(", ") || "none"]];
    this.table.hidden = false;
    fill(this.table, h("h2", {}, "Figures"), h("p", { class: "soft small" }, "Of the range, where they are of a time."),
      scroll("Figures of both", h("table", {}, h("thead", {}, h("tr", {}, h("td", {}), this.names.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows.map(([label, of]) => h("tr", {}, h("th", { scope: "row" }, label), found.map((one) => h("td", { class: "break" }, of(one)))))))));
  }

  showCharts([one, two]) {
    // Both were asked for at almost the same time: a point that one of them lacks has no value.
    const x = [...new Set([...one.time, ...two.time])].sort((a, b) => a - b);
    const on = (found, column) => { const known = new Map(found.time.map((at, row) => [at, column[row]])); return x.map((at) => known.get(at) ?? null); };
    const active = (found) => found.selects.findIndex(Boolean);
    const begins = [one, two].filter((found) => active(found) >= 0).map((found) => found.time[active(found)]);
    const end = Math.max(one.end, two.end);
    const window = [begins.length ? Math.min(...begins, end - 20 * one.step_s) : Math.min(one.start, two.start), end];
    const so = (found) => {
      let [sum, num] = [0, 0];
      return found.reward.mean.map((mean, row) => { if (mean !== null) { num += found.rewards[row]; sum += mean * found.rewards[row]; } return num ? sum / num : null; });
    };
    const put = (chart, ...columns) => chart.update([x, ...columns], { window });
    put(this.charts.reward, on(one, one.reward.high), on(one, one.reward.low), on(two, two.reward.high), on(two, two.reward.low), on(one, one.reward.mean), on(two, two.reward.mean));
    put(this.charts.total, on(one, so(one)), on(two, so(two)));
    put(this.charts.traffic, on(one, one.selects), on(two, two.selects));
    put(this.charts.join, on(one, one.joined), on(two, two.joined));
  }

  // What each action earned, ever, with intervals that hold at any time.
  showActions([one, two]) {
    const [a, b] = [one, two].map((found) => new Map(found.actions.map((action) => [action.id, action.reward])));
    const total = (known) => [...known.values()].reduce((sum, each) => sum + each.num, 0);
    const sums = [total(a), total(b)];
    const ids = [...new Set([...a.keys(), ...b.keys()])].sort((x, y) => ((b.get(y)?.num ?? 0) + (a.get(y)?.num ?? 0)) - ((b.get(x)?.num ?? 0) + (a.get(x)?.num ?? 0)) || x.localeCompare(y)).slice(0, 100);
    const cells = (each, sum) => [each ? number(each.mean) : "\u2013", !each || each.low === null ? "\u2013" : `${number(each.low)} to ${number(each.high)}`, each ? percent(each.num / Math.max(1, sum)) : "\u2013"];
    const head = this.names.flatMap((name) => [name, "interval", "share"]);
    this.actions.hidden = false;
    fill(this.actions, h("h2", {}, "By action"), h("p", { class: "soft small" }, "Mean reward where it was chosen first, its 95 % interval that holds at any time, and its share of the values; of all time."),
      ids.length ? scroll("Rewards by action", h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "action"), head.map((label) => h("th", { class: "num" }, label)))),
        h("tbody", {}, ids.map((id) => h("tr", {}, h("td", { class: "break" }, id), [...cells(a.get(id), sums[0]), ...cells(b.get(id), sums[1])].map((cell) => h("td", { class: "num" }, cell)))))))
        : h("p", { class: "soft" }, "No values yet."));
  }

  recolour() {
    for (const chart of Object.values(this.charts)) chart.draw();
  }

  destroy() {
    for (const chart of Object.values(this.charts)) chart.destroy();
  }
}

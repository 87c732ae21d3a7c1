// One bandit over time, its rounds and newest decisions.
import { administration } from "./administration.js";
import { get } from "./api.js";
import { showChallengers } from "./challengers.js";
import { COLOURS, Chart, stacked } from "./charts.js";
import { facts, fill, findings, h, scroll, wide } from "./dom.js";
import { count, number, percent, seconds, time } from "./format.js";
import { findForm } from "./find.js";
import { showNoted } from "./noted.js";
import { tabs } from "./tabs.js";

const RANGES = ["15m", "1h", "6h", "1d", "7d", "30d", "all"];

// About how many values tell whether a lift is one, as it looks now: widths shrink with the root of their number.
export function neededFor({ mean, low, high, num }) {
  const reach = mean > 0 ? mean - low : high - mean;
  const times = (reach / mean) ** 2;
  if (!(times > 1 && times < 100)) return null; // it is one, or nothing can be said
  const whole = num * times;
  const unit = 10 ** (Math.floor(Math.log10(whole)) - 1);
  return Math.ceil(whole / unit) * unit;
}

export class BanditView {
  constructor(root, name, range) {
    this.name = name;
    this.title = name;
    this.range = RANGES.includes(range) ? range : "1h";
    this.every = this.range.endsWith("m") || this.range.endsWith("h") ? 2000 : 10000;
    this.path = `bandits/${encodeURIComponent(name)}`;
    this.head = h("div");
    this.notes = h("div");
    this.better = h("div", { id: "better" });
    this.actions = null;
    this.tables = h("div", { class: "grid wide" });
    this.rounds = h("section", { class: "card", "aria-label": "Training rounds" });
    this.newest = h("section", { class: "card", "aria-label": "Newest decisions" });
    this.newestList = h("div");
    this.newest.append(h("h2", {}, "Newest decisions"), h("p", { class: "soft small" }, "Open one to see why that action was chosen."), findForm(), this.newestList);
    this.values = h("section", { class: "card", "aria-label": "Arms and actions" });
    this.challengers = h("section", { class: "card", "aria-label": "Challengers" });
    this.audit = h("section", { class: "card", "aria-label": "Changes" });
    this.features = h("section", { class: "card", "aria-label": "Features" });
    this.noted = h("section", { class: "card", "aria-label": "Alarms and notices" });
    this.delay = h("section", { class: "card", "aria-label": "Reward delay" });
    this.charts = this.makeCharts();
    this.grid = h("div", { class: "grid" }, Object.values(this.charts).map((chart) => chart.card), this.delay);
    this.tables.append(this.values, this.challengers, this.features, this.noted, this.newest, this.rounds, this.audit);
    root.replaceChildren(
      h("section", { class: "card" }, this.makeTop(), this.head, this.better, administration(name), this.notes), this.grid, this.tables);
  }

  makeCharts() {
    const sync = `bandit-${this.name}`;
    const one = (title, hint, series, more = {}) => new Chart({ title, hint, series, sync, ...more });
    return {
      reward: one("Mean reward", "Of the values learned, with the 95 % interval of their mean. Dashed: a snapshot swapped in; dotted, with a word: what was done to it. The cursor on one says more.", [
        { label: "high", colour: "--band", value: number, line: 0 }, { label: "low", colour: "--band", value: number, line: 0 },
        { label: "mean", colour: "--c0", value: number },
      ], { bands: [{ series: [1, 2], fill: "--band" }], unit: (value) => number(value) }),
      traffic: one("Traffic", "Decisions made and values learned, per point.", [
        { label: "selects", colour: "--c0", value: count }, { label: "rewards", colour: "--c2", value: count },
      ], { unit: count, whole: true }),
      join: one("Join rate", "Values learned per action chosen at the same time; late rewards shift it, and more than all is drawn as 100 %.", [
        { label: "join rate", colour: "--c2", value: percent }], { unit: percent, share: true }),
      exploration: one("Exploration", "Share of selects whose action had not the best posterior mean; left. Entropy of what is served, in nats; right.", [
        { label: "explored", colour: "--c1", value: percent }, { label: "entropy", colour: "--c7", value: number, scale: "nats" },
      ], { unit: percent, share: true, scales: { nats: { range: (_, low, high) => [0, high > 0 ? 1.06 * high : 1] } } }),
      spread: one("Posterior spread", "Standard deviation of the served action's expected reward: how unsure the model is.", [
        { label: "standard deviation", colour: "--c3", value: number }], { unit: (value) => number(value) }),
      loss: one("Training", "Mean squared error at the start and the end of each round.", [
        { label: "before", colour: "--rest", value: number, points: true }, { label: "after", colour: "--c0", value: number, points: true },
      ], { unit: (value) => number(value) }),
      latency: one("Select latency", "Of all bandits of this server, milliseconds inside the service.", [
        { label: "median", colour: "--c0", value: number }, { label: "99th percentile", colour: "--c4", value: number }], { unit: (value) => number(value) }),
    };
  }

  async update(signal) {
    const [found, values, audit, listed, state, noted] = await Promise.all([
      get(`dashboard/${this.path}?range=${this.range}`, signal),
      get(`${this.path}/values?limit=20`, signal),
      get(`${this.path}/audit?limit=12`, signal),
      get(`dashboard/${this.path}/decisions?limit=25`, signal),
      get(this.path, signal),
      get(`${this.path}/findings`, signal)]);
    this.showHead(found);
    this.showFeatures(state.features);
    showNoted(this.noted, noted.findings, found.start, found.end);
    this.showCharts(found);
    this.showDelay(found.delay, found.loss_shown_after_s);
    this.showValues(values, state.spec);
    this.showBetter(values.arms);
    showChallengers(this.challengers, this.path, state.challengers);
    this.showAudit(audit.entries);
    this.showRounds(found.rounds);
    this.showNewest(listed.decisions);
  }

  // What stays as it is while figures change, so that it keeps the focus.
  makeTop() {
    const choose = (range) => h("button", { type: "button", "data-range": range, "aria-pressed": String(range === this.range),
      onclick: () => { location.hash = `#/bandit/${encodeURIComponent(this.name)}?range=${range}`; } }, range);
    return [h("div", { class: "row between" }, h("h1", {}, this.name), h("div", { class: "ranges", role: "group", "aria-label": "Range" }, RANGES.map(choose))),
      tabs(this.name, "")];
  }

  showHead(found) {
    fill(this.head,
      h("p", { class: "soft small" }, `${found.policy}, ${found.spec.encoder.name}, ${count(found.num_actions)} actions`
        + `${found.behind ? "; the past is still being counted" : ""}`),
      facts([["mean reward", number(found.reward_mean)], ["join rate", percent(found.join_rate)], ["learned", count(found.num_learned)],
        ["snapshot", String(found.snapshot)], ["position", count(found.position)],
        ["round", found.train_due ? "due" : "not due"], ["trainer", found.trainer.phase]]));
    fill(this.notes, ...findings(found.findings),
      found.selects.some(Boolean) ? null : h("div", { class: "finding" }, h("strong", {}, "Nothing was decided in this range. "),
        "Ask for a decision with POST /select, or look further back."));
  }

  showCharts(found) {
    const { charts } = this;
    const x = found.time;
    const first = Math.max(0, found.selects.findIndex(Boolean)); // a young bandit fills the charts, too
    const window = [Math.max(found.start, Math.min(x[first] - found.step_s, found.end - 20 * found.step_s)), found.end];
    const swapped = ({ time: at, version, error }) => ({ time: at, kind: error === null ? "swap" : "failed", text: null,
      detail: error === null ? `snapshot ${version} was swapped in` : `a round failed: ${error}` });
    const marks = [...found.rounds.map(swapped), ...found.events];
    const put = (chart, ...columns) => chart.update([x, ...columns], { marks, window });
    put(charts.reward, found.reward.high, found.reward.low, found.reward.mean);
    put(charts.traffic, found.selects, found.rewards);
    put(charts.join, found.joined.map((one) => (one === null ? null : Math.min(1, one))));
    put(charts.exploration, found.exploration.explored, found.exploration.entropy);
    put(charts.spread, found.spread);
    put(charts.latency, found.latency.p50_ms, found.latency.p99_ms);
    const trained = found.rounds.filter((round) => round.loss_after !== null);
    charts.loss.update([trained.map((round) => round.time), trained.map((round) => round.loss_before), trained.map((round) => round.loss_after)], { marks, window });
    this.showShares(found, { marks, window });
  }

  // The actions on top change over time, and with them the chart's series.
  showShares(found, { marks, window }) {
    const { ids, share, rest, num } = found.actions;
    const shown = num > ids.length ? [...share, rest] : share;
    const labels = num > ids.length ? [...ids, `${count(num - ids.length)} others`] : ids;
    const key = JSON.stringify(labels);
    if (key !== this.sharesOf) {
      this.sharesOf = key;
      const series = labels.map((label, index) => ({ label, colour: COLOURS[index] ?? "--rest", value: percent, fill: index === 0 ? COLOURS[0] : undefined }));
      const bands = labels.slice(1).map((_, index) => ({ series: [index + 2, index + 1], fill: COLOURS[index + 1] ?? "--rest" }));
      const chart = new Chart({ title: "Actions", hint: `Share of each action of ${count(num)} chosen in this range.`, series, bands,
        sync: `bandit-${this.name}`, unit: percent, scales: { y: { range: () => [0, 1] } } });
      if (this.charts.shares) { this.charts.shares.destroy(); this.charts.shares.card.replaceWith(chart.card); }
      else this.grid.children[1].after(chart.card);
      this.charts.shares = chart;
    }
    if (labels.length) this.charts.shares.update([found.time, ...stacked(shown)], { marks, window, shown: [found.time, ...shown] });
  }

  showDelay(delay, shown_after_s) {
    const total = delay.counts.reduce((a, b) => a + b, 0);
    const first = delay.counts.findIndex(Boolean);
    const last = delay.counts.findLastIndex(Boolean);
    const most = Math.max(1, ...delay.counts);
    const bars = h("div", { class: "bars", role: "img", "aria-label": "how many rewards came how late" });
    const lower = (index) => (index === 0 ? 0 : delay.bounds_s[index - 1]);
    for (let index = first; total && index <= last; index += 1) {
      const bar = h("div", { title: `${count(delay.counts[index])} rewards, ${seconds(lower(index))} to ${index < delay.bounds_s.length ? seconds(delay.bounds_s[index]) : "later"}` });
      bar.style.height = `${Math.max(1, (100 * delay.counts[index]) / most)}%`;
      bars.append(bar);
    }
    fill(this.delay, h("h2", {}, "Reward delay"), h("p", { class: "soft small" }, "From the decision to the value it taught."),
      facts([["median", seconds(delay.median_s)], ["nine of ten within", seconds(delay.p90_s)], ["rewards", count(total)], ["a total loss shows after", seconds(shown_after_s)]]));
    if (total) this.delay.append(bars, h("div", { class: "ends soft small" }, h("span", {}, seconds(lower(first))), h("span", {}, seconds(delay.bounds_s[Math.min(last, delay.bounds_s.length - 1)]))));
    if (total) delete this.delay.dataset.filled;
  }

  // Whether it is better than what else decides, in a sentence.
  showBetter(arms) {
    fill(this.better, arms.filter((arm) => arm.share > 0 && arm.lift !== null).map(({ name, lift }) => {
      if (lift.low === null) return h("p", {}, h("strong", {}, `Is it better than ${name}? `), "There are too few values to say.");
      const said = lift.low > 0 ? ["good", "yes"] : lift.high < 0 ? ["bad", "no, it is worse"] : ["", "not known yet"];
      const needed = neededFor(lift);
      return h("p", {}, h("strong", {}, `Is it better than ${name}? `), h("span", { class: `badge ${said[0]}` }, said[1]),
        ` ${lift.mean > 0 ? "+" : ""}${number(lift.mean)} per decision, ${number(lift.low)} to ${number(lift.high)}, of ${count(lift.num)} values.`,
        needed === null ? "" : ` If it stays like this, about ${count(needed)} values will tell.`);
    }));
  }

  // What each arm and action earned, with intervals that hold at any time.
  showValues({ arms, actions, num_actions }, spec) {
    const range = (one) => (one === null || one.low === null ? "\u2013" : `${number(one.low)} to ${number(one.high)}`);
    const of = (one) => [number(one.mean), range(one), count(one.num)];
    const table = (names, rows) => wide(names.slice(0, 2).join(" and "), h("table", {},
      h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { class: index ? "num" : "" }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) => h("td", { class: index ? "num" : "break" }, cell)))))));
    const shadows = new Set(spec.arms.filter((arm) => arm.shadow).map((arm) => arm.name));
    const armed = arms.filter((arm) => !shadows.has(arm.name)).map((arm) => [arm.name, percent(arm.share), ...of(arm.reward),
      arm.lift === null ? "" : number(arm.lift.mean), arm.lift === null ? "" : range(arm.lift)]);
    const alike = arms.filter((arm) => arm.agreement !== null).map(({ name, agreement: { share, reward_share } }) => [
      `${name}${shadows.has(name) ? " (shadow)" : ""}`, percent(share.mean), share.low === null ? "\u2013" : `${percent(share.low)} to ${percent(share.high)}`,
      count(share.num), percent(reward_share)]);
    const acted = actions.map((action) => [action.id, ...of(action.reward)]);
    const more = num_actions > actions.length ? ` Those with the most values, of ${count(num_actions)}.` : "";
    const parts = (kind) => arms.flatMap((arm) => Object.entries(arm[kind]).map(([name, part]) => [name, arm.name, ...of(part.reward),
      part.lift === null ? "" : number(part.lift.mean), part.lift === null ? "" : range(part.lift)])).sort((a, b) => a[0].localeCompare(b[0]));
    const head = (kind) => [kind, "arm", "mean", "interval", "values", "lift of the bandit", "interval"];
    const metrics = parts("metrics");
    const segments = parts("segments");
    fill(this.values, h("h2", {}, "Arms and actions"),
      h("p", { class: "soft small" }, `Rewards per decision. Intervals hold at any time, at 95 %.${more}`),
      armed.length ? table(["arm", "share", "reward", "interval", "values", "lift of the bandit", "interval"], armed) : null,
      alike.length ? table(["agreement", "chooses alike", "interval", "values", "of the reward"], alike) : null,
      alike.length ? h("p", { class: "soft small" }, "How often an arm that follows a rule served what the bandit thinks best, and a shadow would have served what was served; and which share of the reward was earned there.") : null,
      metrics.length ? table(head("metric"), metrics) : null,
      segments.length ? table(head("segment"), segments) : null,
      acted.length ? table(["action", "reward", "interval", "values"], acted) : h("p", { class: "soft" }, "No values yet."));
  }

  // What requests had of each named feature, and how far it has moved.
  showFeatures(features) {
    const sides = features === null ? [] : [["context", features.context], ["action", features.actions]].filter(([, side]) => side !== null);
    this.features.hidden = sides.length === 0;
    const rows = sides.flatMap(([name, side]) => Object.entries(side.fields).map(([path, field]) => {
      const of = (num) => (side.num_counted ? percent(num / side.num_counted) : "\u2013");
      const moved = field.drift !== null && field.drift >= 0.25 && field.type !== "time";
      return [`${name}.${path}`, field.type ?? "not known yet", of(field.missing), of(field.unseen), of(field.wrong), moved ? `${number(field.drift)} moved` : number(field.drift)];
    }));
    const names = ["feature", "type", "missing", "unseen", "wrong", "drift"];
    fill(this.features, h("h2", {}, "Features"),
      h("p", { class: "soft small" }, `Of the requests counted since this encoding is served (${sides.map(([name, side]) => `${name}: ${count(side.num_counted)}`).join(", ")}). Drift: population stability index against the rows it was fitted to; .25 and more has moved.`),
      rows.length ? wide("What requests had of each", h("table", {}, h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { class: index > 1 ? "num" : "" }, name)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) => h("td", { class: index > 1 ? "num" : "break" }, cell)))))))
        : h("p", { class: "soft" }, "No field was seen yet."));
  }

  // Who changed the bandit, and what that changed.
  showAudit(entries) {
    const short = (value) => { const text = JSON.stringify(value) ?? ""; return text.length > 120 ? `${text.slice(0, 117)}\u2026` : text; };
    const shown = (one) => `${one.key}: ${short(one.old)} \u2192 ${short(one.new)}`;
    const rows = entries.map((entry) => h("tr", {}, h("td", {}, time(entry.time)), h("td", {}, entry.by), h("td", {}, entry.what),
      h("td", { class: "break" }, entry.changes.slice(0, 4).map(shown).join("; ") + (entry.changes.length > 4 ? `; and ${count(entry.changes.length - 4)} more` : ""))));
    fill(this.audit, h("h2", {}, "Changes"), h("p", { class: "soft small" }, "By administrators and guards, newest first."),
      rows.length ? scroll("List of changes", h("table", { class: "stack" }, h("thead", {}, h("tr", {}, ["time", "by", "call", "changed"].map((name) => h("th", {}, name)))), h("tbody", {}, rows)))
        : h("p", { class: "soft" }, "None yet."));
  }

  showRounds(rounds) {
    const rows = rounds.slice(-12).reverse().map((round) => h("tr", {},
      h("td", {}, time(round.time)), h("td", { class: "num" }, round.version === null ? "failed" : String(round.version)),
      h("td", { class: "num" }, count(round.position)), h("td", { class: "num" }, seconds(round.seconds)),
      h("td", { class: "num" }, seconds(round.swap_s)),
      round.error === null ? h("td", { class: "num" }, `${number(round.loss_before)} \u2192 ${number(round.loss_after)}`) : h("td", { class: "break" }, round.error)));
    fill(this.rounds, h("h2", {}, "Training rounds"), h("p", { class: "soft small" }, "Newest first; each ends with its snapshot swapped in."),
      rows.length ? scroll("List of rounds", h("table", {}, h("thead", {}, h("tr", {}, ["ended", "snapshot", "position", "took", "swap", "loss"].map((name, index) => h("th", { class: index ? "num" : "" }, name)))), h("tbody", {}, rows)))
        : h("p", { class: "soft" }, "None in this range."));
  }

  showNewest(decisions) {
    const base = `#/bandit/${encodeURIComponent(this.name)}/decision/`;
    const rows = decisions.map((one) => h("tr", {},
      h("td", { class: "id" }, h("a", { href: base + encodeURIComponent(one.decision_id) }, one.decision_id)),
      h("td", { class: "wide" }, time(one.time)), h("td", { class: "break" }, one.num_actions > 1 ? `${one.action} +${one.num_actions - 1}` : one.action),
      h("td", { class: "num wide" }, number(one.propensity)), h("td", { class: "wide" }, one.explored === null ? "\u2013" : one.explored ? "explored" : "best mean"),
      h("td", { class: "num" }, one.reward === null ? "none yet" : number(one.reward))));
    fill(this.newestList,
      rows.length ? scroll("List of decisions", h("table", {}, h("thead", {}, h("tr", {}, ["decision", "time", "action", "propensity", "why", "reward"].map((name) => h("th", { class: `${name === "propensity" || name === "reward" ? "num" : ""}${["time", "propensity", "why"].includes(name) ? " wide" : ""}` }, name)))), h("tbody", {}, rows)))
        : h("p", { class: "soft" }, "None yet: ask with POST /select."));
  }

  recolour() {
    for (const chart of Object.values(this.charts)) chart.draw();
  }

  destroy() {
    for (const chart of Object.values(this.charts)) chart.destroy();
  }
}

// All bandits: traffic, reward, join rate, trainer, alarms.
import { get } from "./api.js";
import { facts, fill, findings, h } from "./dom.js";
import { findForm } from "./find.js";
import { count, number, percent } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

export class Overview {
  constructor(root) {
    this.title = "Overview";
    this.every = 2000;
    this.server = h("section", { class: "card", "aria-label": "Server" });
    this.find = "";
    this.only = null;
    this.sort = "alarms";
    this.filters = this.makeFilters();
    this.list = h("div", { class: "grid", id: "bandits" });
    this.cards = new Map();
    this.pages = [""]; // where each page begins, up to the one that is shown
    this.more = h("nav", { class: "row", "aria-label": "Pages" });
    this.finding = findForm();
    root.replaceChildren(this.server, this.filters, this.list, this.more, this.finding);
  }

  // What is shown of many bandits: it stays as it is while figures change, and keeps the focus.
  makeFilters() {
    const again = () => this.turn([""]);
    let typed = 0;
    const field = h("input", { type: "search", placeholder: "Find by name", "aria-label": "Find a bandit by name", autocomplete: "off",
      oninput: (event) => { clearTimeout(typed); const text = event.target.value; typed = setTimeout(() => { this.find = text.trim(); again(); }, 200); } });
    this.filterButtons = [["all", null], ["alarms", "alarm"]].map(([label, only]) => h("button", { type: "button", "data-only": only ?? "all",
      "aria-pressed": String(only === this.only), onclick: () => { this.only = only; again(); } }, label));
    const sort = h("select", { "aria-label": "Sort by", onchange: (event) => { this.sort = event.target.value; again(); } },
      Object.entries(SORTS).map(([value, [label]]) => h("option", { value }, label)));
    return h("div", { class: "row filters", role: "search", "aria-label": "Bandits" }, field, h("div", { class: "ranges", role: "group", "aria-label": "Filter" }, this.filterButtons), sort);
  }

  asked() {
    const given = Object.entries({ after: this.pages.at(-1), find: this.find, only: this.only }).filter(([, value]) => value);
    return given.length ? `?${new URLSearchParams(given)}` : "";
  }

  turn(pages) {
    this.pages = pages;
    this.update().catch(() => {}); // the next turn says why
  }

  links({ next, found, bandits }) {
    if (this.pages.length === 1 && next === null) return [];
    return [
      h("span", { class: "soft" }, `${count(bandits.length)} of ${count(found)} bandits`),
      h("button", { type: "button", disabled: this.pages.length === 1, onclick: () => this.turn([""]) }, "First"),
      h("button", { type: "button", disabled: this.pages.length === 1, onclick: () => this.turn(this.pages.slice(0, -1)) }, "Back"),
      h("button", { type: "button", disabled: next === null, onclick: () => this.turn([...this.pages, next]) }, "Next")];
  }

  async update(signal) {
    const asked = this.asked();
    const found = await get(`dashboard/overview${asked}`, signal);
    if (asked !== this.asked()) return; // the page was turned meanwhile, or something else is looked for
    const { server } = found;
    const shown = found.bandits.flatMap((one) => one.findings).concat(server.findings).filter((one) => one.severity === "alarm");
    const names = new Set(found.bandits.map((one) => one.name));
    const elsewhere = found.alarmed.filter((name) => !names.has(name)); // on other pages
    const alarms = shown.length + elsewhere.length;
    this.title = `${alarms ? `(${count(alarms)} alarm${alarms > 1 ? "s" : ""}) ` : ""}${count(found.total)} bandit${found.total === 1 ? "" : "s"}`;
    document.title = `${this.title} - Bandexa`;
    this.filters.hidden = found.total < 2;
    this.finding.hidden = found.total === 0;
    for (const button of this.filterButtons) {
      button.setAttribute("aria-pressed", String((this.only ?? "all") === button.dataset.only));
      button.textContent = button.dataset.only === "all" ? `all ${count(found.total)}` : `alarms ${count(found.alarmed.length)}`;
    }
    const badge = !server.ready ? ["bad", "not ready"] : alarms ? ["bad", `${alarms} alarm${alarms > 1 ? "s" : ""}`] : ["good", "no alarm"];
    fill(this.server,
      h("div", { class: "row between" }, h("h1", {}, "Is it learning?"), h("span", { class: `badge ${badge[0]}`, id: "verdict" }, badge[1])),
      facts([["bandits", count(found.total)], ["selects, last hour", count(sum(found.bandits, "selects"))],
        ["rewards, last hour", count(sum(found.bandits, "rewards"))], ["trainer", server.trainer.phase],
        ["rounds since start", count(server.trainer.rounds)]]),
      server.detail ? h("div", { class: "finding alarm" }, server.detail) : null,
      server.behind ? h("p", { class: "soft small" }, "The past is still being counted; figures below grow.") : null,
      ...findings(server.findings),
      ...elsewhere.slice(0, 20).map((name) => h("div", { class: "finding alarm" }, h("strong", {}, "Alarm: "), h("a", { href: `#/bandit/${encodeURIComponent(name)}` }, name))));
    this.more.replaceChildren(...this.links(found));
    if (!found.bandits.length && found.total) {
      this.cards.clear();
      fill(this.list, h("div", { class: "card" }, h("h2", {}, this.only ? "No alarm" : "None found"),
        h("p", { class: "soft" }, this.find ? `No bandit${this.only ? " with an alarm" : ""} has "${this.find}" in its name.` : "Every bandit is free of alarms.")));
      return;
    }
    if (!found.bandits.length) {
      this.cards.clear();
      fill(this.list, h("div", { class: "card" }, h("h2", {}, "No bandit yet"),
        h("p", { class: "soft" }, "A bandit chooses one of several actions for each request, and learns from rewards which suits whom."),
        h("p", {}, h("a", { class: "button main", href: "#/new" }, "Create the first one, step by step")),
        h("p", { class: "soft" }, "Or by a call; it shows up here:"), h("pre", { tabindex: "0", role: "group", "aria-label": "Example of a call" }, EXAMPLE)));
      return;
    }
    for (const [name, card] of this.cards) if (!names.has(name)) { card.remove(); this.cards.delete(name); }
    if (!this.cards.size) { this.list.replaceChildren(); delete this.list.dataset.filled; }
    for (const one of found.bandits) {
      if (!this.cards.has(one.name)) {
        this.cards.set(one.name, h("article", { class: "card bandit", "data-bandit": one.name }));
      }
      fill(this.cards.get(one.name), ...line(one));
    }
    const [, by] = SORTS[this.sort];
    const order = found.bandits.slice().sort((a, b) => by(a, b) || a.name.localeCompare(b.name)).map((one) => this.cards.get(one.name));
    if (order.some((card, index) => this.list.children[index] !== card)) this.list.replaceChildren(...order);
  }

  destroy() {}
}

const rank = (one) => (one.findings.some((finding) => finding.severity === "alarm") ? 0 : one.findings.length ? 1 : 2);
const SORTS = { // of the bandits of a page
  alarms: ["alarms first", (a, b) => rank(a) - rank(b)],
  name: ["by name", () => 0],
  selects: ["most selects", (a, b) => b.last_hour.selects - a.last_hour.selects],
  reward: ["lowest reward", (a, b) => (a.reward_mean ?? Infinity) - (b.reward_mean ?? Infinity) || 0],
  join: ["lowest join rate", (a, b) => (a.join_rate ?? Infinity) - (b.join_rate ?? Infinity) || 0],
};

const JUDGED = { // what a badge says
  healthy: "No finding, by enough recent values to judge what is served.",
  "too few values to judge": "No finding. Whether the best is served shows from 2,000 values on, counted since the server started.",
};

const EXAMPLE = `curl -X PUT ${location.origin}/bandits/shop -H 'content-type: application/json' \\
  -d '{"policy": "linear_ts", "context": {"shape": [4]}, "encoder": {"name": "per_action"}}'`;

const sum = (bandits, name) => bandits.reduce((total, one) => total + one.last_hour[name], 0);

// "Healthy" only where there was enough to judge.
export function badge(one) {
  if (one.findings.some((finding) => finding.severity === "alarm")) return ["bad", "alarm"];
  if (one.findings.length) return ["warn", "notice"];
  if (!one.decisions) return ["", "no traffic yet"];
  return one.judged_values ? ["good", "healthy"] : ["", "too few values to judge"];
}

function line(one) {
  const worst = badge(one);
  // Of a bandit that is minutes old, points of ten seconds say more than points of a minute.
  const young = one.decisions && one.decisions === one.last_hour.selects && one.spark.selects.findIndex(Boolean) >= 45;
  return [
    h("div", { class: "row between" },
      h("h2", {}, h("a", { href: `#/bandit/${encodeURIComponent(one.name)}${young ? "?range=15m" : ""}` }, one.name)),
      h("span", { class: `badge ${worst[0]}`, title: JUDGED[worst[1]] }, worst[1])),
    h("p", { class: "soft small" }, `${one.policy}, ${one.encoder}, ${count(one.num_actions)} actions, snapshot ${one.snapshot}`),
    facts([["mean reward", number(one.reward_mean)], ["join rate", percent(one.join_rate)],
      ["decisions", count(one.decisions)], ["learned", count(one.num_learned)]]),
    one.decisions ? spark(one) : h("p", { class: "soft small" }, "Nothing was decided yet: ask with POST /select."),
    ...findings(one.findings, `#/bandit/${encodeURIComponent(one.name)}`),
  ];
}

// The last hour: columns for selects, a line for the mean reward.
function spark({ spark: { selects, reward } }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${selects.length} 40`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "spark");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "selects and mean reward of the last hour, by minute");
  const most = Math.max(1, ...selects);
  selects.forEach((value, index) => {
    if (!value) return;
    const column = document.createElementNS(SVG, "rect");
    for (const [name, v] of Object.entries({ x: index + 0.1, y: 40 - (38 * value) / most, width: 0.8, height: (38 * value) / most })) column.setAttribute(name, v);
    svg.append(column);
  });
  const known = reward.filter((value) => value !== null);
  const low = Math.min(0, ...known); // from zero, so that its height says something
  const wide = Math.max(1e-12, Math.max(0, ...known) - low);
  let path = "";
  reward.forEach((value, index) => {
    if (value === null) return;
    path += `${path ? "L" : "M"}${index + 0.5} ${(37 - (34 * (value - low)) / wide).toFixed(2)}`;
  });
  if (known.length === 1) path += "l0.4 0";
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return h("div", {}, svg, h("div", { class: "ends soft small" }, h("span", {}, "an hour ago"), h("span", {}, "columns: selects, line: mean reward, from 0"), h("span", {}, "now")));
}

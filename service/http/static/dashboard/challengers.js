// The challengers of a bandit side by side, and what an administrator can do to each.
import { call, may } from "./api.js";
import { ask, tell } from "./dialogs.js";
import { fill, h, wide } from "./dom.js";
import { count, number, percent, time } from "./format.js";

const NAMES = ["challenger", "state", "share", "decisions", "lift", "interval", "remark", "change"];
const HINT = "What each would have earned more than what was served, per decision, on the same rows of the log."
  + " Intervals hold at any time, at 95 % for all of them together.";

const remark = (score) => (score === null ? "not compared yet" : score.error ?? (score.reasons.join("; ") || (score.is_better ? "better" : "")));
const interval = (score) => (score === null || score.low === null ? "\u2013" : `${number(score.low)} to ${number(score.high)}`);

export function showChallengers(card, path, challengers) {
  const buttons = (one) => (may("admin") ? h("td", {}, ["served", "promoting", "trial"].includes(one.state)
    ? h("button", { type: "button", onclick: () => demote(path, one) }, "Demote\u2026")
    : h("button", { type: "button", onclick: () => promote(path, one) }, "Promote\u2026")) : h("td", {}));
  const rows = challengers.map((one) => h("tr", {},
    h("td", { class: "break" }, one.name), h("td", {}, one.state), h("td", { class: "num" }, percent(one.share)),
    h("td", { class: "num" }, count(one.score?.num ?? 0)), h("td", { class: "num" }, number(one.score?.lift ?? null)),
    h("td", { class: "num", title: one.score ? `at ${time(one.score.time)}` : "" }, interval(one.score)),
    h("td", { class: "break" }, remark(one.score)), buttons(one)));
  fill(card, h("h2", {}, "Challengers"), h("p", { class: "soft small" }, HINT),
    rows.length ? wide("List of challengers", h("table", {},
      h("thead", {}, h("tr", {}, NAMES.map((name, index) => h("th", { class: index > 1 && index < 6 ? "num" : "" }, name)))),
      h("tbody", {}, rows)))
      : h("p", { class: "soft" }, "None yet: PUT one at /bandits/{name}/challengers/{challenger}."),
    offered(path, challengers));
}

// What needs no configuration: another method, beside whatever the bandit is.
const OFFERED = [["greedy", "the same model without draws"], ["linear", "a linear policy"]];
function offered(path, challengers) {
  const names = new Set(challengers.map((one) => one.name));
  const free = may("admin") ? OFFERED.filter(([name]) => !names.has(name)) : [];
  return free.length ? h("div", { class: "row" }, free.map(([name, what]) => h("button", { type: "button", onclick: () => declare(path, name, what) }, `Compare with ${name}\u2026`))) : null;
}

async function declare(path, name, what) {
  await ask({
    title: `Compare with ${name}?`, button: "Compare",
    text: `${name} is ${what}. It learns the log beside the bandit and serves nothing; how it compares shows here once it has read the log.`,
    act: async () => {
      await call("PUT", `${path}/challengers/${name}`, { body: {} });
      tell(`${name} learns the log.`);
    },
  });
}

async function promote(path, one) {
  const field = h("select", {}, [["0.05", "5 % of the decisions"], ["0.25", "25 % of the decisions"], ["1", "all: its configuration becomes the bandit's"]]
    .map(([value, label]) => h("option", { value }, label)));
  await ask({
    title: `Promote ${one.name}?`, button: "Promote", danger: true, fields: [["Share", field]],
    text: "A share is a trial, which ends by itself where the challenger is worse. All of them is a change of the configuration, which can be undone.",
    act: async (share) => {
      await call("POST", `${path}/challengers/${encodeURIComponent(one.name)}/promote`, { body: { share: Number(share) } });
      tell(share === "1" ? `${one.name} is being learned, and is served then.` : `${one.name} decides ${percent(Number(share))}.`);
    },
  });
}

async function demote(path, one) {
  await ask({
    title: `Demote ${one.name}?`, button: "Demote", danger: true,
    text: "Its trial ends; or what it replaced is served again, with all rows since.",
    act: async () => {
      await call("POST", `${path}/challengers/${encodeURIComponent(one.name)}/demote`, {});
      tell(`${one.name} is demoted.`);
    },
  });
}

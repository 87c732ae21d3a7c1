// How much exploration, or control, shows a difference: the server's rule with the bandit's figures.
import { Refused, get } from "./api.js";
import { facts, fill, h } from "./dom.js";
import { field, line, numberIn } from "./fields.js";
import { count, number, percent } from "./format.js";

const ASKED = [ // parameter, label, hint
  ["precision", "Difference to be seen, of the range", "A share of the range of rewards, such as .05."],
  ["difference", "Or in the unit of rewards", "In its place; needed where there is no range."],
  ["decisions", "Within how many decisions", "Empty: those of 28 days, by the traffic of the last week."],
];
const FROM = { values: "of the last week's values", range: "the largest of the range", given: "as given" };

export class Advice {
  constructor(path) {
    this.path = `${path}/advice`;
    this.turn = 0;
    let typed = 0;
    this.boxes = new Map(ASKED.map(([name, label, hint]) => {
      const control = line(name === "precision" ? ".05" : "", { inputmode: "decimal" });
      control.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(() => this.ask(), 300); });
      return [name, field(label, control, hint)];
    }));
    this.answer = h("div", { "aria-live": "polite" });
    this.card = h("section", { class: "card", "aria-label": "How much exploration is enough" },
      h("h2", {}, "How much exploration is enough?"),
      h("p", { class: "soft small" }, "Which control group, or which floor, shows a difference of that size. Nothing is changed by asking."),
      h("div", { class: "form" }, [...this.boxes.values()]), this.answer);
    this.ask();
  }

  // What is asked, or null where a field holds no number.
  query() {
    const given = new URLSearchParams();
    for (const [name, label] of ASKED) {
      const box = this.boxes.get(name);
      try {
        const value = numberIn(box.control.value, label);
        if (value !== null) given.set(name, String(value));
        box.complain(null);
      } catch (error) {
        box.complain(error.message);
        return null;
      }
    }
    return given;
  }

  async ask() {
    const query = this.query();
    this.turn += 1;
    const { turn } = this;
    if (query === null) return;
    try {
      const found = await get(`${this.path}?${query}`);
      if (turn === this.turn) fill(this.answer, ...said(found));
    } catch (error) {
      if (turn !== this.turn) return;
      const [name] = error.message.split(":");
      this.boxes.get(name.replace("query.", ""))?.complain(error.message);
      fill(this.answer, h("p", { class: "finding" }, error.message));
      if (!(error instanceof Refused)) throw error;
    }
  }
}

function said({ inputs, text }) {
  return [
    h("ul", {}, text.map((each) => h("li", {}, each))),
    h("h3", {}, "What that follows from"),
    facts([["difference", number(inputs.difference)], [`variance, ${FROM[inputs.variance_from]}`, number(inputs.variance)],
      ["actions", count(inputs.actions)], ["decided by the bandit", percent(inputs.bandit_share)],
      ["decisions a day", count(inputs.decisions_per_day)], ["of them with a value", percent(inputs.values_per_decision)],
      ["uniform choices now", percent(inputs.epsilon_now)]], true)];
}

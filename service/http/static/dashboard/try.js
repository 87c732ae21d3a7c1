// A decision that is tried in the browser, and the reward for it.
import { Refused, call, may } from "./api.js";
import { facts, h } from "./dom.js";
import { field, jsonIn, line, lines, numberIn } from "./fields.js";
import { number, percent } from "./format.js";

export class Trial {
  constructor(name, context, spec) {
    this.name = name;
    const [low, high] = spec.reward_range ?? [0, 1];
    const base = `#/bandit/${encodeURIComponent(name)}`;
    this.context = field("Context", lines(JSON.stringify(context, null, context instanceof Array ? 0 : 2), 6, { class: "json" }), "What your application would send, as JSON.");
    this.served = spec.arms?.some((arm) => arm.policy === "request") ? field("Served", line(""), "The action that you would serve today; the control group serves it.") : null;
    this.reward = field("Reward", line(String(high), { inputmode: "decimal" }), `How it went, ${low} to ${high}.`);
    this.answer = h("div", { role: "status" });
    this.became = h("div", { role: "status" });
    this.decided = null;
    this.num = 0;
    this.decide = h("button", { type: "submit", class: "main", disabled: !may("select") }, "Decide");
    this.send = h("button", { type: "submit", disabled: true }, "Send the reward");
    const deciding = h("form", { class: "form", novalidate: true }, this.context, this.served, h("div", { class: "row" }, this.decide), this.answer);
    const rewarding = h("form", { class: "form", novalidate: true }, this.reward, h("div", { class: "row" }, this.send), this.became);
    deciding.addEventListener("submit", (event) => { event.preventDefault(); this.select(); });
    rewarding.addEventListener("submit", (event) => { event.preventDefault(); this.report(); });
    this.node = h("div", {},
      h("p", {}, h("strong", {}, `${name} is there. `), "Ask it for a first decision, and tell it how that went. Every press is a decision of the bandit, and counts."),
      may("select") ? null : h("p", { class: "finding" }, "This key lacks the scope select: use one that your application would have."),
      deciding, rewarding,
      h("p", { class: "row apart" }, h("a", { href: base }, `Watch ${name}`), h("a", { href: `${base}/catalogue` }, "Its catalogue"), h("a", { href: `${base}/configuration` }, "Its configuration")));
  }

  async select() {
    this.became.replaceChildren();
    this.decide.disabled = true;
    try {
      const body = { bandit: this.name, context: jsonIn(this.context.control.value, "Context") };
      const served = this.served?.control.value.trim();
      if (served) body.served = served;
      const made = await call("POST", "select", { body });
      this.decided = made.decision_id;
      this.context.complain(null);
      const link = `#/bandit/${encodeURIComponent(this.name)}/decision/${encodeURIComponent(made.decision_id)}`;
      this.answer.replaceChildren(
        facts([["action", made.action.id], ["probability", percent(made.propensity)], ["sampled value", number(made.score)], ...(made.arm ? [["decided by", made.arm]] : [])]),
        h("p", { class: "soft small" }, "Decision ", h("a", { href: link }, made.decision_id), ": open it to see why."));
      this.send.disabled = !may("reward");
    } catch (error) {
      this.answer.replaceChildren();
      this.context.complain(error.message);
      if (!(error instanceof Refused) && !(error instanceof Error)) throw error;
    } finally {
      this.decide.disabled = false;
    }
  }

  async report() {
    try {
      const reward = numberIn(this.reward.control.value, "Reward");
      if (reward === null) throw new Error("Reward: a number is needed");
      const { status } = await call("POST", "reward", { body: { decision_id: this.decided, reward } });
      this.reward.complain(null);
      this.num += 1;
      this.became.replaceChildren(h("p", {}, `The server says: ${status}. ${MEANINGS[status] ?? ""} Decide again to see the next one.`));
      this.send.disabled = true;
    } catch (error) {
      this.became.replaceChildren();
      this.reward.complain(error.message);
    }
  }
}

const MEANINGS = {
  applied: "The bandit has learned it.",
  pending: "It is learned once the decision is old enough for a fair count.",
  stored: "It is stored, and learned later.",
  duplicate: "It had a reward already.",
  ignored: "The first reward counts, and there was one.",
  late: "The reward window had closed.",
};

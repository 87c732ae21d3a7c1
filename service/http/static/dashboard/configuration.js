// The configuration of a bandit: shown as a form and as JSON, checked, and then applied.
import { Advice } from "./advice.js";
import { Refused, call, get, may, session, tagged } from "./api.js";
import { tell } from "./dialogs.js";
import { facts, fill, h, scroll } from "./dom.js";
import { choice, field, jsonIn, line, lines, numberIn } from "./fields.js";
import { count, seconds, time } from "./format.js";
import { tabs } from "./tabs.js";

// The keys that people change most: path, label, kind, hint.
const USUAL = [
  ["reward_range", "Range of rewards", "pair", "Lowest and highest, such as 0, 1. Empty: it is learned."],
  ["rewards.default_reward", "Reward without a report", "number", "What is learned when the window closes without a reward. Empty: nothing."],
  ["rewards.reward_window_s", "Reward window in seconds", "number", "How long after a decision rewards count. Empty: always."],
  ["rewards.aggregate", "Several rewards become", ["first", "last", "sum", "mean", "median", "min", "max"], null],
  ["selection.method", "Method of exploration", ["thompson", "squarecb", "greedy", "uniform"], null],
  ["selection.epsilon", "Share of uniform choices", "number", "0 to 1. Empty: .005, with named features .02; it falls with the values."],
  ["forgetting.half_life", "Half-life of rewards", "number", "Values (or seconds, see forgetting.by) after which one weighs half. Empty: nothing is forgotten."],
  ["segment", "Compared by", "text", "A named feature of contexts, for each value of which arms are compared."],
];

const at = (spec, path) => path.split(".").reduce((part, key) => part?.[key], spec);

function put(spec, path, value) {
  const keys = path.split(".");
  const last = keys.pop();
  let part = spec;
  for (const key of keys) part = part[key] ??= {};
  part[last] = value;
}

const shown = (value, kind) => (value === null || value === undefined ? "" : kind === "pair" ? value.join(", ") : String(value));

function read(text, kind, label) {
  if (Array.isArray(kind)) return text;
  if (kind === "number") return numberIn(text, label);
  if (kind === "text") return text.trim() || null;
  if (!text.trim()) return null;
  const both = text.split(",").map((part) => numberIn(part, label));
  if (both.length !== 2 || both.includes(null)) throw new Error(`${label}: write two numbers, such as 0, 1`);
  return both;
}

// What a PUT of the page leaves as it is: naming the mode would undo a guard, and a seed of more
// digits than a number has here would be another one.
function withoutMode(spec) {
  const { mode, serve, ...rest } = spec;
  if (!Number.isSafeInteger(rest.seed)) delete rest.seed;
  return rest;
}

// What is edited: the served configuration, with what is still being learned. A PUT without that would take it back.
export function edited({ spec, rebuild }) {
  const whole = structuredClone(withoutMode(spec));
  if (rebuild && rebuild.state !== "done") for (const key of rebuild.keys) put(whole, key, at(rebuild.spec, key) ?? null);
  return whole;
}

export class ConfigurationView {
  constructor(root, name) {
    this.name = name;
    this.title = `Configuration of ${name}`;
    this.every = 2000;
    this.path = `bandits/${encodeURIComponent(name)}`;
    this.loaded = null; // the text of the served configuration that is edited
    this.checked = null; // the text that the plan is of
    const changes = may("admin");
    this.blamed = null; // the field that the server's refusal names
    this.text = lines("", 24, { class: "json", readonly: !changes });
    this.text.disabled = true;
    this.json = field("Whole configuration, as JSON", this.text, "Mode and served action are not here: see Change who decides on the bandit's page.");
    this.text.addEventListener("input", () => { this.readText(); this.stale(); });
    this.form = h("div", { class: "form" });
    this.boxes = new Map();
    for (const [path, label, kind, hint] of USUAL) {
      const control = Array.isArray(kind) ? choice(kind.map((each) => [each, each])) : line("", { readonly: !changes });
      control.disabled = true; // until the configuration is there
      const box = field(label, control, hint);
      control.addEventListener("input", () => { this.readForm(path, label, kind, box); this.stale(); });
      this.boxes.set(path, box);
      this.form.append(box);
    }
    this.plan = h("section", { class: "card", "aria-label": "What would change", "aria-live": "polite" });
    this.state = h("div", { role: "status" });
    this.check = h("button", { type: "button", class: "main", disabled: true, onclick: () => this.ask() }, "Check");
    this.apply = h("button", { type: "button", class: "danger", disabled: true, onclick: () => this.change() }, "Apply");
    this.back = h("button", { type: "button", onclick: () => this.reload() }, "Discard my changes");
    root.replaceChildren(
      h("section", { class: "card" }, h("h1", {}, `Configuration of ${name}`), tabs(name, "configuration"), this.state),
      h("div", { class: "grid" },
        h("section", { class: "card", "aria-label": "Usual keys" }, h("h2", {}, "Usual keys"), this.form),
        h("section", { class: "card", "aria-label": "JSON" }, h("h2", {}, "JSON"), this.json,
          changes ? h("div", { class: "row" }, this.check, this.apply, this.back)
            : h("p", { class: "finding" }, `The key ${session.name ?? ""} lacks the scope admin: you can read the configuration, and not change it.`))),
      this.plan, new Advice(this.path).card);
    this.stale();
  }

  async update(signal) {
    const state = await get(this.path, signal);
    const text = JSON.stringify(edited(state), null, 2);
    if (this.loaded === null) this.load(text);
    const own = this.loaded === text ? null
      : h("div", { class: "finding" }, h("strong", {}, "The configuration has changed meanwhile. "), "Discard your changes to edit the new one.");
    fill(this.state, own, rebuilding(state.rebuild));
    this.apply.disabled = this.checked !== this.text.value || own !== null;
  }

  load(text) {
    this.loaded = text;
    this.text.value = text;
    this.text.disabled = this.check.disabled = false;
    for (const { control } of this.boxes.values()) control.disabled = control instanceof HTMLSelectElement && !may("admin");
    this.readText();
    this.stale();
  }

  async reload() {
    this.loaded = null;
    await this.update();
  }

  // The form shows what the text says, wherever that is JSON.
  readText() {
    let spec = null;
    try {
      spec = jsonIn(this.text.value, "JSON");
      this.json.complain(null);
    } catch (error) {
      this.json.complain(error.message);
      return;
    }
    for (const [path, , kind] of USUAL) {
      const { control } = this.boxes.get(path);
      if (document.activeElement !== control) control.value = shown(at(spec, path), kind);
      this.boxes.get(path).complain(null);
    }
  }

  readForm(path, label, kind, box) {
    try {
      const spec = jsonIn(this.text.value, "JSON");
      put(spec, path, read(box.control.value, kind, label));
      this.text.value = JSON.stringify(spec, null, 2);
      box.complain(null);
    } catch (error) {
      box.complain(error.message);
    }
  }

  stale() {
    this.blamed?.complain(null);
    this.blamed = null;
    this.checked = null;
    this.apply.disabled = true;
    fill(this.plan, h("h2", {}, "What would change"), h("p", { class: "soft" }, may("admin") ? "Edit, and press Check: nothing is changed by that." : "A key with the scope admin can check and apply a change."));
  }

  // Whether every field has something that can be sent.
  valid() {
    return [this.json, ...this.boxes.values()].every((box) => !box.control.hasAttribute("aria-invalid"));
  }

  refused(error) {
    const [key] = error.message.split(":");
    this.blamed = this.boxes.get(key) ?? null;
    this.blamed?.complain(error.message);
    fill(this.plan, h("h2", {}, "What would change"),
      h("div", { class: "finding alarm", role: "alert" }, h("strong", {}, "Refused: "), error.message));
  }

  async ask() {
    this.blamed?.complain(null);
    if (!this.valid()) {
      fill(this.plan, h("h2", {}, "What would change"), h("div", { class: "finding" }, "Mend the marked fields first."));
      return;
    }
    const text = this.text.value;
    try {
      const plan = await call("PUT", `${this.path}?dry_run=true`, { body: jsonIn(text, "JSON") });
      this.checked = plan.status === "unchanged" ? null : text;
      this.apply.disabled = this.checked === null;
      fill(this.plan, ...planned(plan));
    } catch (error) {
      this.refused(error);
      if (!(error instanceof Refused)) throw error;
    }
  }

  async change() {
    const text = this.checked;
    this.apply.disabled = true;
    try {
      const { answer: before, tag } = await tagged("GET", this.path);
      if (JSON.stringify(edited(before), null, 2) !== this.loaded) {
        await this.update();
        return;
      }
      const state = await call("PUT", this.path, { body: jsonIn(text, "JSON"), match: tag });
      this.load(JSON.stringify(edited(state), null, 2));
      const learning = state.rebuild !== null && state.rebuild.state !== "done";
      tell(learning ? "The new configuration is being learned, and is served then." : "The new configuration is served.");
      await this.update();
    } catch (error) {
      if (error.status === 412) return this.update(); // in the moment between the two calls
      this.refused(error);
      if (!(error instanceof Refused)) throw error;
    }
    return undefined;
  }

  destroy() {}
}

const short = (value) => { const text = JSON.stringify(value) ?? ""; return text.length > 160 ? `${text.slice(0, 157)}\u2026` : text; };

// What a change would do, from a dry run.
export function planned(plan) {
  if (plan.status === "unchanged") return [h("h2", {}, "What would change"), h("p", {}, "Nothing: this is the configuration that is served, or is being learned.")];
  const relearned = new Set(plan.relearned);
  const anew = plan.changes.filter((one) => relearned.has(one.key) || plan.relearned.some((key) => one.key.startsWith(`${key}.`)));
  const rows = plan.changes.map((one) => h("tr", {}, h("td", { class: "break" }, one.key), h("td", { class: "break" }, short(one.old)), h("td", { class: "break" }, short(one.new)),
    h("td", {}, anew.includes(one) ? h("span", { class: "badge warn" }, "learned anew") : h("span", { class: "badge good" }, "at once"))));
  return [
    h("h2", {}, "What would change"),
    plan.relearned.length
      ? h("div", { class: "finding" }, h("strong", {}, `${count(plan.rows)} values are learned anew from the log. `),
        plan.estimated_s === null ? "" : `That takes about ${seconds(plan.estimated_s)}, by earlier rounds. `,
        "Until that is done the bandit is served as it is now, and it can be changed back.")
      : h("p", {}, "All of it holds from the next decision on; nothing is learned anew."),
    ...(plan.warnings ?? []).map((text) => h("div", { class: "finding" }, h("strong", {}, "It could not learn: "), text)),
    plan.lost_rows ? h("div", { class: "finding alarm" }, h("strong", {}, `${count(plan.lost_rows)} values are lost: `), "they came with an imported model, and the log does not have them.") : null,
    scroll("Changed keys", h("table", {},
      h("thead", {}, h("tr", {}, ["key", "now", "then", "holds"].map((name) => h("th", {}, name)))), h("tbody", {}, rows)))];
}

// How a change that is learned anew goes on.
function rebuilding(rebuild) {
  if (rebuild === null) return null;
  if (rebuild.state === "done") return h("p", { class: "soft small" }, `The newest change that was learned anew (${rebuild.keys.join(", ")}) is served from position ${count(rebuild.served_from)} on.`);
  return h("div", { class: `finding ${rebuild.state === "failed" ? "alarm" : ""}` },
    h("strong", {}, rebuild.state === "failed" ? "A change could not be learned: " : `A change is being learned (${rebuild.state}): `),
    rebuild.state === "failed" ? `${rebuild.error}. It is tried again. ` : `${rebuild.keys.join(", ")}, ${count(rebuild.rows)} values. `,
    facts([["asked for", time(rebuild.requested_at)]], true));
}

// Create a bandit step by step: what is sent, what can be chosen, what is earned, how it explores.
import { Refused, call, get, may, session } from "./api.js";
import { EXAMPLES, actionsIn } from "./action_form.js";
import { fill, h } from "./dom.js";
import { choice, field, jsonIn, line, lines, numberIn } from "./fields.js";
import { codeTabs, snippets } from "./snippets.js";
import { Trial } from "./try.js";

const STEPS = ["Contexts", "Actions", "Rewards", "Exploration", "Create", "Try it"];
const CONTEXTS = [
  ["auto", "An object with named features", 'Send plain JSON, such as {"device": "phone", "age": 31}. Types are found from what is sent.'],
  ["declared", "Named features that I declare", "The same, where you say which fields there are and of which type."],
  ["vector", "A list of numbers", "Features that you have computed yourself, always in the same order."],
  ["image", "An image", "Pixels as numbers, learned by a convolutional network."],
];

// A group of radio buttons, each with a line of explanation.
function radios(legend, name, options, onchange) {
  const inputs = options.map(([value]) => h("input", { type: "radio", name, value, id: `${name}-${value}`, onchange }));
  inputs[0].checked = true;
  const box = h("fieldset", {}, h("legend", {}, legend), options.map(([, label, hint], index) => h("div", { class: "option" }, inputs[index],
    h("div", {}, h("label", { for: inputs[index].id }, label), hint ? h("p", { class: "soft small" }, hint) : null))));
  Object.defineProperty(box, "value", { get: () => inputs.find((input) => input.checked).value });
  return box;
}

// The sizes in a text such as "28, 28".
function sizes(text, name) {
  const found = text.split(/[\sx,]+/).filter(Boolean).map((part) => numberIn(part, name));
  if (!found.length || found.length > 4 || found.some((size) => !Number.isInteger(size) || size < 1)) throw new Error(`${name}: one to four whole numbers are needed, such as 28, 28`);
  return found;
}

const isTaken = (name) => h("div", { class: "finding alarm" }, h("strong", {}, `There is a bandit ${name} already. `), "Go back and give this one another name.");

// Whether there is a bandit of this name: what is refused may be a change of it.
async function exists(name) {
  try {
    await get(`bandits/${encodeURIComponent(name)}`);
    return true;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return false;
    throw error;
  }
}

export class CreateView {
  constructor(root) {
    this.title = "New bandit";
    this.every = 60000; // nothing here changes by itself
    this.step = 0;
    this.trial = null;
    this.makeFields();
    this.wrong = h("div", { role: "alert" });
    this.stepper = h("ol", { class: "steps" });
    this.place = h("section", { class: "card", "aria-label": "Step" });
    root.replaceChildren(
      h("section", { class: "card" }, h("h1", {}, "New bandit"), this.stepper,
        may("admin") ? null : h("p", { class: "finding" }, `The key ${session.name ?? ""} lacks the scope admin: it can compose a bandit and copy the code, and not create it.`)),
      this.place);
    this.show();
  }

  makeFields() {
    const again = () => this.depend();
    this.name = field("Name of the bandit", line("", { required: true }), "Letters, digits and . _ : -; such as shop-start-page.");
    this.context = radios("What does a request know?", "context", CONTEXTS, again);
    this.declared = field("Fields, one a line", lines("country category\nage number\ninterests categories", 4), "A path and a type: number, category, categories, boolean, text or time. Other keys are ignored and counted.");
    this.dim = field("How many numbers", line("8", { inputmode: "numeric" }));
    this.shape = field("Shape of the image", line("28, 28"), "Rows and columns, or channels, rows and columns.");
    this.pixels = field("Pixels are", choice([["uint8", "whole numbers, 0 to 255"], ["float32", "any numbers"]]));
    this.actionKind = radios("What is known of an action?", "actions", [
      ["none", "Its id alone", "A model for each action: right for a few to some hundreds that stay."],
      ["named", "Named features", "What is learned of one action helps with others that are like it; new ones start well."],
      ["numbers", "A list of numbers", "The same, with features that you have computed yourself."]], again);
    this.actionDim = field("How many numbers", line("2", { inputmode: "numeric" }));
    this.actions = field("Actions, one a line", lines(EXAMPLES.none, 6), "They can be changed at any time, in the catalogue of the bandit.");
    this.range = radios("What is a reward?", "range", [
      ["unit", "0 to 1", "A click, a purchase, a share that was read."],
      ["own", "Between two other numbers", "Such as money, minutes, points."],
      ["unknown", "I do not know its range", "It is learned; intervals and the guard then need at least 100 values."]], again);
    this.low = field("Lowest", line("0", { inputmode: "decimal" }));
    this.high = field("Highest", line("10", { inputmode: "decimal" }));
    this.silence = radios("Is no report a reward?", "silence", [
      ["no", "No: I report every outcome", "A decision without a report teaches nothing."],
      ["default", "Yes: no report means the reward below", "Such as clicks, where only the successes are reported."]], again);
    this.window = field("How long does a report take at most, in seconds", line("3600", { inputmode: "numeric" }), "When this time is over, a decision without a report has the reward below.");
    this.fallback = field("Reward without a report", line("0", { inputmode: "decimal" }));
    this.method = radios("How does it explore?", "method", [
      ["thompson", "Thompson sampling", "Chooses by a draw from what is known: explores where it may pay. The usual choice."],
      ["squarecb", "By the gaps between the means", "Inverse-gap weighting: probabilities are known exactly, and never small."],
      ["greedy", "Not at all", "The best by the mean, and a small uniform share."],
      ["uniform", "At random", "To gather data only."]], again);
    this.epsilon = field("Share of uniform choices", line("", { inputmode: "decimal" }), "0 to 1; empty: .005, with named features .02. It makes policies comparable on the log.");
    this.control = field("Share of a control group, in percent", line("10", { inputmode: "decimal" }), "So many decisions are made by the rule of today, so that you can see by how much the bandit is better. 0: none.");
    this.rule = field("The rule of today", choice([["first", "the first action of the list"], ["request", "what my request names in served"], ["uniform", "any action, at random"], ["action", "always this action:"]]));
    this.rule.control.addEventListener("input", again);
    this.usual = field("Action of the control group", line(""));
  }

  // Which fields there are follows from the choices.
  depend() {
    const kind = this.context.value;
    this.declared.hidden = kind !== "declared";
    this.dim.hidden = kind !== "vector";
    this.shape.hidden = this.pixels.hidden = kind !== "image";
    const actions = this.actionKind.value;
    this.actionDim.hidden = actions !== "numbers";
    const text = this.actions.control;
    if (Object.values(EXAMPLES).includes(text.value)) text.value = EXAMPLES[actions];
    this.low.hidden = this.high.hidden = this.range.value !== "own";
    this.window.hidden = this.fallback.hidden = this.silence.value !== "default";
    this.usual.hidden = this.rule.control.value !== "action";
  }

  parts() {
    return [
      [this.name, this.context, this.declared, this.dim, this.shape, this.pixels],
      [this.actionKind, this.actionDim, this.actions],
      [this.range, this.low, this.high, this.silence, this.window, this.fallback],
      [this.method, this.epsilon, this.control, this.rule, this.usual],
    ];
  }

  show() {
    fill(this.stepper, STEPS.map((label, index) => h("li", { "aria-current": index === this.step ? "step" : null, class: index < this.step ? "done" : "" }, label)));
    this.depend();
    const head = h("h2", { tabindex: "-1" }, `${this.step + 1}. ${STEPS[this.step]}`);
    const back = h("button", { type: "button", disabled: this.step === 0 || this.step === 5, onclick: () => this.go(-1) }, "Back");
    const next = h("button", { type: "submit", class: "main" }, "Next");
    this.wrong.replaceChildren();
    if (this.step < 4) {
      const form = h("form", { class: "form", novalidate: true }, head, this.parts()[this.step], this.wrong, h("div", { class: "row" }, back, next));
      form.addEventListener("submit", (event) => { event.preventDefault(); this.go(1); });
      this.place.replaceChildren(form);
    } else if (this.step === 4) this.review(head, back);
    else this.place.replaceChildren(head, this.trial.node);
    if (this.shownOnce) head.focus();
    this.shownOnce = true;
  }

  go(by) {
    try {
      if (by > 0) this.check(this.step);
      this.step += by;
      this.show();
    } catch (error) {
      this.complain(error);
    }
  }

  complain(error) {
    this.wrong.replaceChildren(h("div", { class: "finding alarm" }, error.message));
  }

  // What a step asks for is there and can be sent.
  check(step) {
    if (step === 0) this.identity();
    if (step === 1) this.catalogue();
    if (step === 2) this.rewards();
    if (step === 3) this.exploration();
  }

  identity() {
    const name = this.name.control.value.trim();
    if (!/^[A-Za-z0-9._:-]{1,128}$/.test(name)) throw new Error("Name: 1 to 128 letters, digits and . _ : - are needed");
    const kind = this.context.value;
    if (kind === "auto") return { name, context: { features: "auto" } };
    if (kind === "declared") {
      const rows = this.declared.control.value.split("\n").map((row) => row.trim()).filter(Boolean).map((row) => row.split(/[\s:]+/));
      const bad = rows.findIndex((row) => row.length !== 2);
      if (bad >= 0) throw new Error(`Fields: line ${bad + 1} needs a path and a type`);
      if (!rows.length) throw new Error("Fields: declare one at least");
      return { name, context: { features: Object.fromEntries(rows) } };
    }
    if (kind === "vector") {
      const [num, ...more] = sizes(this.dim.control.value, "How many numbers");
      if (more.length) throw new Error("How many numbers: one number is needed");
      return { name, context: { shape: [num] } };
    }
    return { name, context: { shape: sizes(this.shape.control.value, "Shape"), dtype: this.pixels.control.value } };
  }

  actionForm() {
    const kind = this.actionKind.value;
    if (kind !== "numbers") return { kind };
    const [num, ...more] = sizes(this.actionDim.control.value, "How many numbers");
    if (more.length) throw new Error("How many numbers: one number is needed");
    return { kind, num };
  }

  catalogue() {
    const actions = actionsIn(this.actions.control.value, this.actionForm());
    if (!actions.length) throw new Error("Actions: list one at least");
    return actions;
  }

  rewards() {
    const found = {};
    if (this.range.value === "unit") found.reward_range = [0, 1];
    if (this.range.value === "own") {
      const [low, high] = [numberIn(this.low.control.value, "Lowest"), numberIn(this.high.control.value, "Highest")];
      if (low === null || high === null || !(low < high)) throw new Error("Lowest: must be less than Highest");
      found.reward_range = [low, high];
    }
    if (this.silence.value === "default") {
      const [wait, value] = [numberIn(this.window.control.value, "How long"), numberIn(this.fallback.control.value, "Reward without a report")];
      if (wait === null || wait < 1) throw new Error("How long: one second is the least");
      if (value === null) throw new Error("Reward without a report: a number is needed");
      found.rewards = { reward_window_s: wait, default_reward: value };
    }
    return found;
  }

  exploration() {
    const found = {};
    const selection = {};
    if (this.method.value !== "thompson") selection.method = this.method.value;
    const epsilon = numberIn(this.epsilon.control.value, "Share of uniform choices");
    if (epsilon !== null) {
      if (epsilon < 0 || epsilon > 1) throw new Error("Share of uniform choices: must be 0 to 1");
      selection.epsilon = epsilon;
    }
    if (Object.keys(selection).length) found.selection = selection;
    const share = numberIn(this.control.control.value, "Share of a control group") ?? 0;
    if (share < 0 || share > 50) throw new Error("Share of a control group: must be 0 to 50 percent");
    if (share) {
      const rule = this.rule.control.value;
      const usual = this.usual.control.value.trim();
      if (rule === "action" && !this.catalogue().some((one) => one.id === usual)) throw new Error(`Action of the control group: ${usual ? `${usual} is none of the actions` : "name one of the actions"}`);
      found.arms = [{ name: "control", share: share / 100, ...(rule === "action" ? { action: usual } : { policy: rule }) }];
    }
    return found;
  }

  spec() {
    const { context } = this.identity();
    const form = this.actionForm();
    const spec = { context };
    if (form.kind === "numbers") spec.action_dim = form.num;
    if (form.kind === "named") spec.actions = { features: "auto" };
    return { ...spec, ...this.rewards(), ...this.exploration() };
  }

  // A context of the bandit, to be tried and shown in code.
  example() {
    const { context } = this.identity();
    if (this.context.value === "auto") return { device: "phone", age: 31 };
    if (context.features) {
      const values = { number: 31, category: "red", categories: ["red", "blue"], boolean: true, text: "some words", time: new Date().toISOString() };
      return Object.fromEntries(Object.entries(context.features).map(([path, type]) => [path, values[type] ?? "value"]));
    }
    const zeros = (shape) => (shape.length ? Array.from({ length: shape[0] }, () => zeros(shape.slice(1))) : 0);
    const found = zeros(context.shape);
    if (context.shape.length === 1) found[0] = 1;
    return found;
  }

  review(head, back) {
    const name = this.name.control.value.trim();
    const spec = this.spec();
    const actions = this.catalogue();
    const json = field("Configuration", lines(JSON.stringify(spec, null, 2), 12, { class: "json" }), "You may still edit it; the code below follows.");
    const code = h("div");
    const checked = h("div", { "aria-live": "polite" });
    const create = h("button", { type: "submit", class: "main", disabled: !may("admin") }, `Create ${name}`);
    const write = (given) => code.replaceChildren(codeTabs(snippets({ name, spec: given, actions, context: this.example(), keysNeeded: session.keys_needed, value: given.reward_range?.[1] ?? 1 })));
    let latest = 0;
    const test = async () => {
      latest += 1;
      const mine = latest;
      let plan = null;
      try {
        const given = jsonIn(json.control.value, "Configuration");
        json.complain(null);
        write(given);
        if (!may("admin")) return;
        checked.replaceChildren(h("p", { class: "soft" }, "Checking with the server\u2026 The first network after its start takes some seconds more."));
        plan = await call("PUT", `bandits/${encodeURIComponent(name)}?dry_run=true`, { body: given });
      } catch (error) {
        const there = error instanceof Refused && (await exists(name));
        if (mine !== latest) return;
        if (there) checked.replaceChildren(isTaken(name));
        else { checked.replaceChildren(); json.complain(error.message); }
        create.disabled = true;
        return;
      }
      if (mine !== latest) return;
      const taken = plan.status !== "created";
      create.disabled = taken;
      checked.replaceChildren(taken
        ? isTaken(name)
        : h("p", {}, `Checked: this can be created, with the policy ${plan.spec.policy} and the encoder ${plan.spec.encoder.name}.`),
        ...(plan.warnings ?? []).map((text) => h("div", { class: "finding" }, h("strong", {}, "It could not learn: "), text)));
    };
    let typing = 0;
    json.control.addEventListener("input", () => { clearTimeout(typing); create.disabled = true; typing = setTimeout(test, 300); });
    const form = h("form", { class: "form", novalidate: true }, head, json, checked,
      h("p", {}, `${actions.length} action${actions.length === 1 ? "" : "s"}: ${actions.slice(0, 12).map((one) => one.id).join(", ")}${actions.length > 12 ? ", \u2026" : ""}.`), this.wrong,
      h("div", { class: "row" }, back, create), h("h3", { class: "apart" }, "The same by code"), code);
    form.addEventListener("submit", (event) => { event.preventDefault(); this.create(name, json, actions, create); });
    this.place.replaceChildren(form);
    create.disabled = true;
    test();
  }

  async create(name, json, actions, button) {
    button.disabled = true;
    const path = `bandits/${encodeURIComponent(name)}`;
    const spec = jsonIn(json.control.value, "Configuration");
    let created = false;
    try {
      await call("PUT", path, { body: spec, absent: true });
      created = true;
      await call("PUT", `${path}/actions`, { body: { actions } });
    } catch (error) {
      button.disabled = created;
      const more = created ? " The bandit is there, without these actions: add them in its catalogue, or delete it." : "";
      this.complain(new Error(`${error.message}.${more}`));
      if (!(error instanceof Refused)) throw error;
      return;
    }
    this.trial = new Trial(name, this.example(), spec);
    this.step = 5;
    this.show();
  }

  async update() {}

  destroy() {}
}

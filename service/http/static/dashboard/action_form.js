// Dialogs that add an action, or change its features and limits.
import { call, tagged } from "./api.js";
import { ask, tell } from "./dialogs.js";
import { h } from "./dom.js";
import { field, jsonIn, line, lines, numberIn, typed } from "./fields.js";
import { edited } from "./configuration.js";

// What actions of a bandit have: {"kind": "none"}, numbers, or named features.
export function formOf(spec) {
  if (spec.actions?.features) return { kind: "named" };
  return spec.action_dim ? { kind: "numbers", num: spec.action_dim } : { kind: "none" };
}

// The text of a value, of which `typed` makes the same value again.
function written(value) {
  const plain = typeof value === "string" && value !== "" && value.trim() === value && typed(value) === value;
  return plain ? value : JSON.stringify(value);
}

// Whether a field is stored as a digest: a field has the rule of the declared path it is below.
function isDigest(path, declared) {
  const parts = path.split(".");
  const above = parts.map((_, index) => parts.slice(0, parts.length - index).join("."));
  const rule = above.map((each) => declared[each]).find((each) => each !== undefined);
  return rule?.log === "hash";
}

// Every path of an object, with its value.
function pathsOf(object, above = "") {
  return Object.entries(object).flatMap(([name, value]) => (value !== null && typeof value === "object" && !Array.isArray(value)
    ? pathsOf(value, `${above}${name}.`) : [[`${above}${name}`, value]]));
}

// Rows of name and value, one for each named feature, with those the bandit knows as proposals.
// Where a value is stored as a digest its row is empty: a digest that is put again is another one.
function namedRows(object, known, declared) {
  const list = h("datalist", { id: "known-features" }, known.map((name) => h("option", { value: name })));
  const rows = h("div");
  let number = 0;
  const add = (name, value, digest = false) => {
    number += 1;
    const of = number;
    rows.append(h("div", { class: "row pair", "data-digest": digest ? name : null },
      line(name, { "aria-label": `Name of feature ${of}`, placeholder: "name", list: "known-features", class: "name" }),
      line(value, { "aria-label": `Value of feature ${of}`, placeholder: digest ? "stored as a digest" : "value", class: "value" }),
      h("button", { type: "button", "aria-label": `Remove feature ${of}`, onclick: (event) => event.target.closest(".pair").remove() }, "\u00d7")));
  };
  for (const [name, value] of Object.entries(object)) {
    const digests = pathsOf({ [name]: value }).some(([path]) => isDigest(path, declared));
    if (!digests) add(name, written(value));
    else for (const [path, part] of pathsOf({ [name]: value })) add(path, isDigest(path, declared) ? "" : written(part), isDigest(path, declared));
  }
  for (const name of known) if (!(name.split(".")[0] in object)) add(name, "");
  if (!number) add("", "");
  const texts = () => JSON.stringify([...rows.querySelectorAll("input")].map((input) => input.value));
  const box = h("fieldset", {}, h("legend", {}, "Features"), list,
    h("p", { class: "soft small" }, "Numbers, true, false and lists as in JSON; anything else is text. A name with a point nests: user.age. Empty values are left out."),
    rows, h("button", { type: "button", onclick: () => { add("", ""); rows.lastChild.querySelector("input").focus(); } }, "Add a feature"));
  box.read = () => {
    const found = {};
    for (const row of rows.querySelectorAll(".pair")) {
      const [name, value] = [...row.querySelectorAll("input")].map((input) => input.value.trim());
      if (!value && name && name === row.dataset.digest) throw new Error(`features: ${name} is stored as a digest: type its value again, or remove the row`);
      if (!name && value) throw new Error(`features: the value ${value} has no name`);
      if (!name || value === "") continue;
      if (name in found) throw new Error(`features: ${name} is there twice`);
      found[name] = typed(value);
    }
    return found;
  };
  const first = texts();
  box.isTouched = () => texts() !== first;
  return box;
}

function numbersField(values, num) {
  const first = (values ?? []).join(", ");
  const box = field(`Features: ${num} numbers`, line(first), "Separated by commas.");
  box.isTouched = () => box.control.value !== first;
  box.read = () => numbers(box.control.value, num);
  return box;
}

function numbers(text, num) {
  const found = text.split(/[\s,]+/).filter(Boolean).map((part) => numberIn(part, "features"));
  if (found.length !== num) throw new Error(`features: ${num} numbers are needed, these are ${found.length}`);
  return found;
}

const pad = (part) => String(part).padStart(2, "0");
function local(moment) {
  if (!moment) return "";
  const at = new Date(moment);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${pad(at.getHours())}:${pad(at.getMinutes())}`;
}

// When the action is offered, and how probable its choice is at least and at most.
function limitFields(limit) {
  const fields = {
    starts_at: field("Offered from", line(local(limit.starts_at), { type: "datetime-local" }), "In the time of this browser. Empty: at once."),
    ends_at: field("Offered until", line(local(limit.ends_at), { type: "datetime-local" }), "Empty: without an end."),
    floor: field("Chosen at least (0 to 1)", line(limit.floor || "", { inputmode: "decimal" }), "The least probability of its choice; empty: none."),
    max_share: field("Chosen at most (0 to 1)", line(limit.max_share === 1 ? "" : limit.max_share ?? "", { inputmode: "decimal" }), "Empty: no cap."),
  };
  const box = h("details", { open: Object.keys(limit).length > 0 }, h("summary", {}, "Dates, floor and cap"), Object.values(fields));
  box.read = () => {
    const found = {};
    for (const name of ["starts_at", "ends_at"]) {
      const text = fields[name].control.value;
      // A moment that was not touched stays as it was written, with its own offset.
      if (text) found[name] = text === local(limit[name]) ? limit[name] : new Date(text).toISOString();
    }
    for (const name of ["floor", "max_share"]) {
      const value = numberIn(fields[name].control.value, name);
      if (value !== null) found[name] = value;
    }
    return found;
  };
  return box;
}

// Only what says something: a limit without any of it is none.
function stated(limit) {
  return Object.fromEntries(Object.entries(limit ?? {}).filter(([name, value]) => value !== null && value !== undefined && !(name === "floor" && value === 0) && !(name === "max_share" && value === 1)));
}

async function putLimit(path, id, limit) {
  const { answer: state, tag } = await tagged("GET", path); // as it is now
  const limits = { ...(state.spec.limits ?? {}) };
  if (Object.keys(limit).length) limits[id] = limit;
  else delete limits[id];
  await call("PUT", path, { body: { ...edited(state), limits }, match: tag });
}

// Add an action (`action` null), or change one; true once that is done.
export function openAction(path, state, action) {
  const { spec } = state;
  const form = formOf(spec);
  const id = field("Id", line(action?.id, { required: true, readonly: action !== null, pattern: "[A-Za-z0-9._:\\-]{1,128}" }), action ? null : "Letters, digits and . _ : -");
  let features = null;
  if (form.kind === "named") features = namedRows(action?.features ?? {}, Object.keys(state.features?.actions?.fields ?? {}), spec.actions.features);
  if (form.kind === "numbers") features = numbersField(action?.features, form.num);
  const before = stated((spec.limits ?? {})[action?.id]);
  const limits = limitFields(before);
  return ask({
    title: action ? `Change ${action.id}` : "Add an action", button: action ? "Save" : "Add",
    text: features === null ? "This bandit knows its actions by their ids alone." : "Features are what the model knows of the action.",
    content: [id, features, limits].filter(Boolean),
    act: async () => {
      const name = id.control.value.trim();
      const limit = limits.read();
      const put = { id: name, enabled: action?.enabled ?? true };
      const changes = action === null || (features !== null && features.isTouched()); // else what a colleague put meanwhile stays
      if (features !== null && changes) put.features = features.read();
      const limited = JSON.stringify(limit) !== JSON.stringify(before);
      if (!action && (await exists(path, state, name))) throw new Error(`id: ${name} is an action already; edit it in the list`);
      if (changes) await call("PUT", `${path}/actions`, { body: { actions: [put] } });
      if (limited) await putLimit(path, name, limit);
      tell(action ? `${name} is changed.` : `${name} is offered.`);
    },
  });
}

// Whether there is such an action: a put would overwrite it without a word.
async function exists(path, state, name) {
  for (let offset = 0, total = 1; offset < total; offset += 10000) {
    const part = await call("GET", `${path}/actions?offset=${offset}&limit=10000`);
    total = part.total;
    if (part.actions.some((one) => one.id === name)) return true;
  }
  return false;
}

// The actions of a text, one a line: an id, and behind a colon and a space its features.
export function actionsIn(text, form) {
  const seen = new Set();
  return text.split("\n").map((row) => row.trim()).filter(Boolean).map((row, index) => {
    const where = `line ${index + 1}`;
    const found = /^(\S+?)(?::?\s+(.*))?$/.exec(row);
    const [, id, rest] = found;
    if (!/^[A-Za-z0-9._:-]{1,128}$/.test(id)) throw new Error(`${where}: ${JSON.stringify(id)} is no id: it takes letters, digits and . _ : -`);
    if (seen.has(id)) throw new Error(`${where}: ${id} is there twice`);
    seen.add(id);
    if (form.kind === "none") {
      if (rest) throw new Error(`${where}: actions of this bandit have no features`);
      return { id };
    }
    if (form.kind === "numbers") {
      try {
        return { id, features: numbers(rest ?? "", form.num) };
      } catch (error) {
        throw new Error(`${where}: ${error.message}`);
      }
    }
    return { id, features: rest ? jsonIn(rest, where) : {} };
  });
}

export const EXAMPLES = {
  none: "usual\nbundle\ndiscount",
  numbers: "usual 1, 0\nbundle 0, 1",
  named: 'tea-01 {"kind": "tea", "price": 4}\ngift-07 {"kind": "gift", "price": 9.5}',
};

export function openSeveral(path, state, parse) {
  const form = formOf(state.spec);
  const box = field("Actions, one a line", lines("", 8, { placeholder: EXAMPLES[form.kind], required: true }),
    form.kind === "none" ? "Ids." : form.kind === "numbers" ? `An id, and its ${form.num} numbers.` : "An id, and its features as a JSON object.");
  return ask({
    title: "Add several actions", button: "Add", content: [box],
    text: "Those that are there already are overwritten; the others do not change.",
    act: async () => {
      const actions = parse(box.control.value, form);
      const answer = await call("PUT", `${path}/actions`, { body: { actions } });
      tell(`${actions.length} actions are put; ${answer.num_actions} are offered.`);
    },
  });
}

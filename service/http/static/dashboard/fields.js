// Labelled fields of forms, and what was typed in them.
import { h } from "./dom.js";

let made = 0;

// A field under its label, with a hint and a place for what is wrong; `control` is an input, a
// select or a textarea.
export function field(label, control, hint = null) {
  made += 1;
  control.id = `field-${made}`;
  const wrong = h("span", { class: "error small", id: `wrong-${made}`, role: "alert" });
  const told = hint === null ? null : h("span", { class: "soft small", id: `hint-${made}` }, hint);
  control.setAttribute("aria-describedby", `${told === null ? "" : `${told.id} `}${wrong.id}`);
  const box = h("div", { class: "field" }, h("label", { for: control.id }, label), control, told, wrong);
  box.control = control;
  box.complain = (text) => {
    wrong.textContent = text ?? "";
    if (text) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  return box;
}

export const choice = (options, value) => {
  const control = h("select", {}, options.map(([each, text]) => h("option", { value: each }, text)));
  if (value !== undefined) control.value = value;
  return control;
};

export const line = (value, more = {}) => {
  const control = h("input", { autocomplete: "off", spellcheck: "false", ...more });
  control.value = value ?? "";
  return control;
};

export const lines = (value, rows, more = {}) => {
  const control = h("textarea", { rows, spellcheck: "false", autocomplete: "off", ...more });
  control.value = value ?? "";
  return control;
};

// The number in a text, null for an empty one.
export function numberIn(text, name) {
  const given = text.trim();
  if (given === "") return null;
  const value = Number(given);
  if (!Number.isFinite(value)) throw new Error(`${name}: ${JSON.stringify(given)} is no number`);
  return value;
}

// The JSON in a text.
export function jsonIn(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${name}: this is no JSON: ${error.message}`);
  }
}

// A value that was typed for a named feature: JSON where it is some, else text.
export function typed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

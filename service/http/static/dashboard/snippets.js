// Code that does what the page does: for curl, Python and TypeScript, ready to be copied.
import { h } from "./dom.js";

const LANGUAGES = ["curl", "Python", "TypeScript"];

// A value as Python writes it.
export function python(value, indent = "") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  const inner = `${indent}    `;
  if (Array.isArray(value)) {
    if (value.every((one) => one === null || typeof one !== "object")) return `[${value.map((one) => python(one)).join(", ")}]`;
    return `[\n${value.map((one) => `${inner}${python(one, inner)},`).join("\n")}\n${indent}]`;
  }
  if (typeof value === "object") {
    const flat = `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(", ")}}`;
    if (flat.length + indent.length <= 80 && !flat.includes("\n")) return flat;
    return `{\n${Object.entries(value).map(([name, one]) => `${inner}${JSON.stringify(name)}: ${python(one, inner)},`).join("\n")}\n${indent}}`;
  }
  return JSON.stringify(value);
}

// A value as JSON in a shell's single quotes.
const quoted = (value) => `'${JSON.stringify(value).replaceAll("'", "'\\''")}'`;
const typescript = (value) => JSON.stringify(value, null, 2);

// Create the bandit, put its actions, decide once and report a reward, in each language.
export function snippets({ name, spec, actions, context, keysNeeded, value = 1 }) {
  const { origin } = location;
  const at = encodeURIComponent(name);
  const auth = keysNeeded ? ' \\\n  -H "authorization: Bearer $BANDEXA_KEY"' : "";
  const send = (method, path, body) => `curl -X ${method} ${origin}${path} -H 'content-type: application/json'${auth} \\\n  -d ${quoted(body)}`;
  const ask = { bandit: name, context };
  return {
    curl: [
      send("PUT", `/bandits/${at}`, spec),
      ...(actions.length ? [send("PUT", `/bandits/${at}/actions`, { actions })] : []),
      "# a decision; its answer has the decision_id that the reward names",
      send("POST", "/select", ask),
      send("POST", "/reward", { decision_id: "...", reward: value }),
    ].join("\n"),
    Python: [
      ...(keysNeeded ? ["import os", ""] : []),
      "from bandexa_client import BanditClient",
      "",
      `with BanditClient(${JSON.stringify(origin)}${keysNeeded ? ', api_key=os.environ["BANDEXA_KEY"]' : ""}) as client:`,
      `    client.put_bandit(${JSON.stringify(name)}, ${python(spec, "    ")})`,
      ...(actions.length ? [`    client.put_actions(${JSON.stringify(name)}, ${python(actions, "    ")})`] : []),
      `    chosen = client.select(${JSON.stringify(name)}, ${python(context, "    ")})`,
      "    print(chosen.action.id, chosen.propensity)",
      `    print(client.reward(chosen.decision_id, ${python(value)}).status)`,
    ].join("\n"),
    TypeScript: [
      'import { BanditClient } from "bandexa-client";',
      "",
      `const client = new BanditClient(${JSON.stringify(origin)}${keysNeeded ? ", { apiKey: process.env.BANDEXA_KEY }" : ""});`,
      `await client.putBandit(${JSON.stringify(name)}, ${typescript(spec)});`,
      ...(actions.length ? [`await client.putActions(${JSON.stringify(name)}, ${typescript(actions)});`] : []),
      `const chosen = await client.select(${typescript(ask)});`,
      "console.log(chosen.action.id, chosen.propensity);",
      `const answer = await client.reward({ decision_id: chosen.decision_id, reward: ${JSON.stringify(value)} });`,
      "console.log(answer.status);",
    ].join("\n"),
  };
}

// Put text on the clipboard. Browsers allow that on https and on this machine alone; elsewhere the
// text is selected, so that a key copies it.
async function copy(text, shown, told) {
  if (navigator.clipboard && isSecureContext) {
    await navigator.clipboard.writeText(text);
    told.textContent = "Copied.";
    return;
  }
  getSelection().selectAllChildren(shown);
  told.textContent = "Selected: press Ctrl+C, or Command+C, to copy.";
}

// A block of code with a button that copies it.
export function codeBlock(label, text) {
  const shown = h("pre", { tabindex: "0", role: "group", "aria-label": label }, text);
  const told = h("span", { class: "soft small", role: "status" });
  const button = h("button", { type: "button", onclick: () => copy(text, shown, told).catch((error) => { told.textContent = error.message; }) }, "Copy");
  return h("div", { class: "code" }, shown, h("div", { class: "row" }, button, told));
}

// The same in each language, one of which is shown.
export function codeTabs(texts) {
  const place = h("div");
  const buttons = LANGUAGES.map((language) => h("button", { type: "button", "data-language": language, onclick: () => show(language) }, language));
  function show(language) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.language === language));
    place.replaceChildren(codeBlock(`${language} code`, texts[language]));
  }
  show(LANGUAGES[0]);
  return h("div", {}, h("div", { class: "ranges", role: "group", "aria-label": "Language" }, buttons), place);
}

// What an administrator can do to a bandit; each asks first.
import { call, get, may, session } from "./api.js";
import { ask, tell } from "./dialogs.js";
import { h, wide } from "./dom.js";
import { choice, field, line } from "./fields.js";
import { count, number, time } from "./format.js";

export function administration(name) {
  const path = `bandits/${encodeURIComponent(name)}`;
  if (!may("admin")) {
    return h("p", { class: "soft small" }, `This key${session.name ? ` (${session.name})` : ""} lacks the scope admin: there is nothing to press here.`);
  }
  const button = (label, act) => h("button", { type: "button", onclick: () => act(name, path) }, `${label}\u2026`);
  return h("div", { class: "row", id: "admin" },
    button("Train now", train), button("Roll back", rollBack), button("Change who decides", changeMode), button("Retire an action", retire));
}

async function train(name, path) {
  await ask({
    title: `Train ${name} now?`, button: "Train",
    text: "A round runs in the background; its snapshot is swapped in when it is done. Selects go on meanwhile.",
    act: async () => { await call("POST", `${path}/train?wait=false`); tell("A round is queued."); },
  });
}

// What a snapshot was made of, and how good its round found it.
const FIGURES = [
  ["rows", (one) => count(one.metrics.rows ?? one.num_learned)],
  ["held-out error", (one) => number(one.metrics.held_out_error ?? null)],
  ["calibration", (one) => number(one.metrics.calibration ?? null)],
  ["training loss", (one) => number(one.metrics.loss_after ?? null)],
];

async function rollBack(name, path) {
  const { served, snapshots } = await get(`${path}/snapshots`);
  const other = snapshots.filter((one) => one.version !== served).at(-1);
  const rows = snapshots.slice().reverse().map((one) => h("tr", {},
    h("td", {}, h("input", { type: "radio", name: "version", value: one.version, id: `version-${one.version}`, checked: one === other, disabled: one.version === served })),
    h("td", {}, h("label", { for: `version-${one.version}` }, `${one.version}${one.version === served ? " (served)" : ""}`)),
    h("td", {}, time(one.created_at)), h("td", { class: "num" }, count(one.num_learned)), FIGURES.map(([, of]) => h("td", { class: "num" }, of(one)))));
  const table = wide("Snapshots", h("table", {},
    h("thead", {}, h("tr", {}, h("td", {}), ["snapshot", "made", "learned", ...FIGURES.map(([label]) => label)].map((label, index) => h("th", { class: index > 1 ? "num" : "" }, label)))), h("tbody", {}, rows)));
  await ask({
    title: `Roll ${name} back?`, button: "Roll back", danger: true, wide: true,
    content: [table, other === undefined ? h("p", { class: "finding" }, "There is no other snapshot to go back to yet.") : null, h("p", { class: "soft small" }, "Held-out error: mean squared error on the values that came after the snapshot before, which its model had not seen; less is better. Calibration: errors over what was predicted; 1 is right, more is too sure of itself.")].filter(Boolean),
    text: "What was learned after that snapshot leaves the model. The log keeps it, and a later round learns from it again.",
    act: async () => {
      const version = table.querySelector("input:checked")?.value;
      if (version === undefined) throw new Error("There is no other snapshot to go back to.");
      const answer = await call("POST", `${path}/rollback`, { body: { version: Number(version) } });
      tell(`Snapshot ${version} is served again, as snapshot ${answer.snapshot}.`);
    },
  });
}

async function changeMode(name, path) {
  const { spec } = await get(path);
  const guard = spec.guard.arm;
  const now = spec.serve === null ? spec.mode : "serve";
  const modes = [["learn", "The bandit and its arms, and it learns"], ["frozen", "The bandit as it is, and it learns nothing"],
    ["control_only", `The arm ${guard}, everything`], ["serve", "One action, everything"]];
  const mode = choice(modes.map(([value, label]) => [value, `${label}${value === now ? " (now)" : ""}`]), now);
  const served = field("Action", line(spec.serve ?? ""), "It is served wherever it is offered.");
  served.hidden = now !== "serve";
  mode.addEventListener("input", () => { served.hidden = mode.value !== "serve"; });
  await ask({
    title: `Who decides for ${name}?`, button: "Change", danger: true, fields: [["From the next decision on", mode]], content: [served],
    text: "It lasts until it is changed again, and is a row of the log. It also takes back what a guard did.",
    act: async (value) => {
      const id = served.control.value.trim();
      if (value === "serve" && !id) throw new Error("Action: name one");
      await call("PUT", `${path}/mode`, { body: value === "serve" ? { serve: id } : { mode: value } });
      tell(value === "serve" ? `${id} is served.` : `The mode is ${value}.`);
    },
  });
}

async function retire(name, path) {
  const { actions } = await get(`${path}/actions?limit=10000`);
  const known = h("datalist", { id: "known-actions" }, actions.filter((one) => one.enabled).map((one) => h("option", { value: one.id })));
  const field = h("input", { list: "known-actions", required: true, autocomplete: "off" });
  await ask({
    title: "Retire an action?", button: "Retire", danger: true, fields: [["Action", field]], content: [known],
    text: "It is not offered any more. What was learned from it stays, and the catalogue brings it back.",
    act: async (id) => {
      await call("DELETE", `${path}/actions/${encodeURIComponent(id.trim())}`);
      tell(`${id.trim()} is retired.`);
    },
  });
}

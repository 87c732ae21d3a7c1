// The catalogue of a bandit: add actions, change their features and limits, retire and bring back.
import { call, get, may, session } from "./api.js";
import { actionsIn, openAction, openSeveral } from "./action_form.js";
import { ask, tell } from "./dialogs.js";
import { fill, h, scroll } from "./dom.js";
import { count, percent, time } from "./format.js";
import { tabs } from "./tabs.js";

const PAGE = 50;
const SCANNED = 10000; // of one call of a search
const MOST_FOUND = 200;

export class CatalogueView {
  constructor(root, name) {
    this.name = name;
    this.title = `Catalogue of ${name}`;
    this.every = 4000;
    this.path = `bandits/${encodeURIComponent(name)}`;
    this.offset = 0;
    this.find = "";
    this.head = h("p", { class: "soft", role: "status" });
    this.list = h("section", { class: "card", "aria-label": "Actions" });
    this.pages = h("nav", { class: "row", "aria-label": "Pages" });
    const find = h("input", { type: "search", placeholder: "Find by id", "aria-label": "Find an action by id", autocomplete: "off" });
    let typing = 0;
    find.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { this.find = find.value.trim(); this.offset = 0; this.again(); }, 250); });
    const buttons = may("admin")
      ? [h("button", { type: "button", class: "main", onclick: () => this.open(null) }, "Add an action\u2026"), h("button", { type: "button", onclick: () => this.several() }, "Add several\u2026")]
      : [];
    root.replaceChildren(
      h("section", { class: "card" }, h("h1", {}, `Catalogue of ${name}`), tabs(name, "catalogue"), this.head,
        may("admin") ? null : h("p", { class: "finding" }, `The key ${session.name ?? ""} lacks the scope admin: you can read the catalogue, and not change it.`)),
      h("div", { class: "row filters", role: "search", "aria-label": "Actions" }, find, buttons), this.list, this.pages);
  }

  again() { this.update().catch(() => {}); } // the next turn says why

  async update(signal) {
    const asked = `${this.offset} ${this.find}`;
    const [state, found] = await Promise.all([get(this.path, signal), this.page(signal)]);
    if (asked !== `${this.offset} ${this.find}`) return; // something else is looked for meanwhile
    this.state = state;
    const { spec } = state;
    fill(this.head, `${count(state.num_actions)} of ${count(found.total)} actions are offered.`);
    this.show(found, spec);
  }

  // The actions of this page, or those that are looked for.
  async page(signal) {
    if (!this.find) return get(`${this.path}/actions?offset=${this.offset}&limit=${PAGE}`, signal);
    const wanted = this.find.toLowerCase();
    const actions = [];
    for (let offset = 0, total = 1; offset < total && actions.length < MOST_FOUND; offset += SCANNED) {
      const part = await get(`${this.path}/actions?offset=${offset}&limit=${SCANNED}`, signal);
      total = part.total;
      actions.push(...part.actions.filter((one) => one.id.toLowerCase().includes(wanted)));
      if (offset + SCANNED >= total) return { total, actions: actions.slice(0, MOST_FOUND) };
    }
    return { total: actions.length, actions: actions.slice(0, MOST_FOUND) };
  }

  show({ total, actions }, spec) {
    const named = spec.actions.features !== null;
    const has = named || spec.action_dim > 0;
    const limits = spec.limits ?? {};
    const rows = actions.map((one) => h("tr", { "data-action": one.id },
      h("td", { class: "break" }, one.id),
      h("td", {}, h("span", { class: `badge ${one.enabled ? "good" : ""}` }, one.enabled ? "offered" : "retired")),
      has ? h("td", { class: "break" }, features(one.features)) : null,
      h("td", { class: "break" }, limited(limits[one.id])),
      may("admin") ? h("td", {}, h("span", { class: "row" },
        h("button", { type: "button", "data-do": "edit", "data-id": one.id, "aria-label": `Edit ${one.id}` }, "Edit\u2026"),
        h("button", { type: "button", "data-do": one.enabled ? "retire" : "activate", "data-id": one.id, "aria-label": `${one.enabled ? "Retire" : "Bring back"} ${one.id}` }, one.enabled ? "Retire\u2026" : "Bring back"))) : null));
    const names = ["action", "state", ...(has ? ["features"] : []), "limits", ...(may("admin") ? ["change"] : [])];
    this.shown = new Map(actions.map((one) => [one.id, one]));
    fill(this.list, h("h2", {}, "Actions"),
      rows.length ? scroll("List of actions", h("table", { class: "stack" }, h("thead", {}, h("tr", {}, names.map((name) => h("th", {}, name)))), h("tbody", {}, rows)))
        : h("p", { class: "soft" }, this.find ? `No action has "${this.find}" in its id.` : "No action yet: nothing can be decided before there is one."));
    this.list.onclick = (event) => {
      const { do: what, id } = event.target.dataset ?? {};
      if (what === "edit") this.open(this.shown.get(id));
      if (what === "retire") this.retire(id);
      if (what === "activate") this.activate(id);
    };
    fill(this.pages, ...(this.find || total <= PAGE ? [] : [
      h("span", { class: "soft" }, `${count(this.offset + 1)} to ${count(Math.min(total, this.offset + PAGE))} of ${count(total)}`),
      h("button", { type: "button", disabled: this.offset === 0, "data-turn": String(-PAGE) }, "Back"),
      h("button", { type: "button", disabled: this.offset + PAGE >= total, "data-turn": String(PAGE) }, "Next")]));
    this.pages.onclick = (event) => {
      const turn = Number(event.target.dataset?.turn ?? 0);
      if (turn) { this.offset = Math.max(0, this.offset + turn); this.again(); }
    };
  }

  async open(action) {
    const done = await openAction(this.path, this.state, action);
    if (done) this.again();
  }

  async several() {
    const done = await openSeveral(this.path, this.state, actionsIn);
    if (done) this.again();
  }

  async retire(id) {
    const done = await ask({
      title: `Retire ${id}?`, button: "Retire", danger: true,
      text: "It is not offered any more. What was learned from it stays, and it can be brought back.",
      act: async () => { await call("DELETE", `${this.path}/actions/${encodeURIComponent(id)}`); tell(`${id} is retired.`); },
    });
    if (done) this.again();
  }

  async activate(id) {
    try {
      await call("PUT", `${this.path}/actions`, { body: { actions: [{ id, enabled: true }] } }); // its features stay
      tell(`${id} is offered again.`);
      await this.update();
    } catch (error) {
      tell(error.message);
    }
  }

  destroy() {}
}

function features(value) {
  const text = Array.isArray(value) ? value.map((one) => Number(one.toPrecision(5))).join(", ") : JSON.stringify(value);
  return text.length > 140 ? `${text.slice(0, 137)}\u2026` : text;
}

function limited(limit) {
  if (!limit) return "";
  const parts = [];
  if (limit.starts_at) parts.push(`from ${time(new Date(limit.starts_at).getTime() / 1000)}`);
  if (limit.ends_at) parts.push(`until ${time(new Date(limit.ends_at).getTime() / 1000)}`);
  if (limit.floor) parts.push(`at least ${percent(limit.floor)}`);
  if (limit.max_share !== 1 && limit.max_share !== null && limit.max_share !== undefined) parts.push(`at most ${percent(limit.max_share)}`);
  return parts.join(", ");
}

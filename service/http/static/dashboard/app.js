// Which view is shown, and when it asks again: never while hidden, more slowly while nobody answers.
import { Refused, identify, may, session } from "./api.js";
import { BanditView } from "./bandit.js";
import { CatalogueView } from "./catalogue.js";
import { CompareView } from "./compare.js";
import { ConfigurationView } from "./configuration.js";
import { CreateView } from "./create.js";
import { DecisionView } from "./decision.js";
import { askForKey, asking } from "./dialogs.js";
import { fill, h } from "./dom.js";
import { Overview } from "./overview.js";

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const live = document.getElementById("live");
const SLOWEST = 8000;
let view = null;
let timer = 0;
let running = null;
let failures = 0;

function route() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const range = new URLSearchParams(query ?? "").get("range");
  if (parts[0] === "bandits") parts[0] = "bandit"; // as the API calls them
  const [what, name, page, id] = parts;
  const crumb = (view) => [["Overview", "#/"], ...(name ? [[name, `#/bandit/${encodeURIComponent(name)}`]] : []), ...(view ? [[view, null]] : [])];
  if (what === "bandit" && page === "decision" && id) return [() => new DecisionView(main, name, id), crumb(id)];
  if (what === "bandit" && page === "configuration") return [() => new ConfigurationView(main, name), crumb("Configuration")];
  if (what === "bandit" && page === "catalogue") return [() => new CatalogueView(main, name), crumb("Catalogue")];
  if (what === "bandit" && name) return [() => new BanditView(main, name, range), crumb(null)];
  if (what === "compare") return [() => new CompareView(main, name, page, range), [["Overview", "#/"], ["Compare", null]]];
  if (what === "new") return [() => new CreateView(main), [["Overview", "#/"], ["New bandit", null]]];
  return [() => new Overview(main), [["Overview", "#/"]]];
}

function show() {
  if (location.hash === "#main") return; // the skip link
  const [make, crumbs] = route();
  running?.abort();
  view?.destroy();
  view = may("read") ? make() : null;
  fill(document.getElementById("crumbs"), ...crumbs.map(([label, href]) => (href === null ? h("span", { "aria-current": "page" }, label) : h("a", { href }, label))));
  document.title = view ? `${view.title} - Bandexa` : "Bandexa";
  if (view === null) main.replaceChildren(h("section", { class: "card" }, h("h1", {}, "This key may not read"), h("p", {}, "The dashboard needs a key with the scope read.")));
  poll(0);
}

function poll(delay) {
  clearTimeout(timer);
  if (view !== null) timer = setTimeout(tick, delay);
}

async function tick() {
  if (document.hidden) return undefined; // `visibilitychange` begins again
  if (asking()) return poll(1000);
  const shown = view;
  running = new AbortController();
  const { signal } = running;
  try {
    await shown.update(signal);
    if (shown !== view) return undefined;
    failures = 0;
    banner.hidden = true;
    live.textContent = `live, ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    if (signal.aborted || shown !== view) return undefined;
    if (error instanceof Refused && error.status === 401) return begin();
    failures += 1;
    banner.hidden = false;
    live.textContent = "";
    const away = !(error instanceof Refused);
    banner.textContent = away ? "The server does not answer. What is shown is old; this page tries again by itself." : `${error.message}.`;
    if (away && error.name !== "TypeError" && error.name !== "SyntaxError") throw error;
  } finally {
    if (shown === view) poll(Math.min(SLOWEST, shown.every * 2 ** Math.min(failures, 3)));
  }
  return undefined;
}

// Find out who we are; ask for a key where one is needed.
async function begin() {
  clearTimeout(timer);
  try {
    await identify();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) await askForKey(false);
    else {
      banner.hidden = false;
      banner.textContent = "The server does not answer. This page tries again by itself.";
      failures += 1;
      setTimeout(begin, Math.min(SLOWEST, 1000 * 2 ** Math.min(failures, 4)));
      return;
    }
  }
  banner.hidden = true;
  failures = 0;
  document.getElementById("key").hidden = !session.keys_needed;
  show();
}

const THEMES = [["", "\u25d0", "as the system says"], ["light", "\u25cb", "light"], ["dark", "\u25cf", "dark"]];
let theme = 0;
function paint() {
  const [value, sign, text] = THEMES[theme];
  const button = document.getElementById("theme");
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  button.textContent = sign;
  button.setAttribute("aria-label", `Colours: ${text}`);
  button.title = `Colours: ${text}`;
  view?.recolour?.();
}

document.getElementById("theme").addEventListener("click", () => { theme = (theme + 1) % THEMES.length; paint(); });
document.getElementById("key").addEventListener("click", async () => { if (await askForKey(true)) show(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { clearTimeout(timer); running?.abort(); } else poll(0);
});
window.addEventListener("hashchange", () => { show(); if (location.hash !== "#main") { main.focus({ preventScroll: true }); scrollTo(0, 0); } });
paint();
begin();

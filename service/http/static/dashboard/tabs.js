// The pages of one bandit.
import { h } from "./dom.js";

const PAGES = [["", "Overview"], ["configuration", "Configuration"], ["catalogue", "Catalogue"]];

export function tabs(name, current) {
  const base = `#/bandit/${encodeURIComponent(name)}`;
  return h("nav", { class: "row tabs", "aria-label": "Pages of this bandit" },
    PAGES.map(([path, label]) => h("a", { href: path ? `${base}/${path}` : base, "aria-current": path === current ? "page" : null }, label)),
    h("a", { href: `#/compare/${encodeURIComponent(name)}` }, "Compare"));
}

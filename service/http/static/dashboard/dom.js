// Elements from plain data. Text is always text: nothing a server says becomes markup.
import { time } from "./format.js";

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Replace what a node holds, unless it holds the same already: focus and selection stay.
export function fill(node, ...children) {
  const next = document.createElement("div");
  next.append(...children.flat().filter((child) => child !== null && child !== undefined));
  if (next.innerHTML === node.dataset.filled) return;
  node.dataset.filled = next.innerHTML;
  node.replaceChildren(...next.childNodes);
}

export function facts(pairs, plain = false) {
  return h("dl", { class: plain ? "facts plain" : "facts" },
    pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// What may be wider than the page: it scrolls by itself, by the keyboard, too.
export const scroll = (label, ...children) => h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, ...children);

// A wide table, which a telephone shows as a list: each cell says its column there.
export function wide(label, table) {
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, index) => { cell.dataset.of = names[index] ?? ""; });
  table.classList.add("listed");
  return scroll(label, table);
}

// What is wrong, with its name and since when; `href`: where the bandit is shown, if not here.
export function findings(list, href = null) {
  const rank = (one) => (one.severity === "alarm" ? 0 : 1);
  return list.slice().sort((a, b) => rank(a) - rank(b)).map((one) => h("div", { class: `finding ${one.severity}` },
    h("strong", {}, `${one.severity === "alarm" ? "Alarm" : "Notice"} `, href === null ? one.name : h("a", { href }, one.name), ": "), `${one.message}. `,
    one.since ? h("span", { class: "soft" }, `Since ${time(one.since).slice(0, 16)}. `) : null,
    h("span", { class: "soft" }, `${one.remedy.charAt(0).toUpperCase()}${one.remedy.slice(1)}`)));
}

// Elements from plain data. Text is always text: nothing a server says becomes markup.

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

export function findings(list) {
  return list.map((one) => h("div", { class: `finding ${one.severity}` },
    h("strong", {}, one.severity === "alarm" ? "Alarm: " : "Notice: "), `${one.message}. `,
    h("span", { class: "soft" }, one.remedy)));
}

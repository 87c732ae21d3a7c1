// Alarms and notices over time: on a time axis, and as a list.
import { fill, h, scroll } from "./dom.js";
import { seconds, time } from "./format.js";

const LISTED = 20;

// One lane for each kind of finding, with a bar for each time that it was there.
function lanes(list, start, end) {
  const seen = list.filter((one) => one.since < end && (one.until ?? end) > start);
  const names = [...new Set(seen.map((one) => one.name))];
  if (!names.length) return null;
  const share = (at) => `${(100 * Math.min(1, Math.max(0, (at - start) / (end - start)))).toFixed(3)}%`;
  const lane = (name) => {
    const bars = seen.filter((one) => one.name === name).map((one) => {
      const bar = h("i", { class: one.severity, title: `${one.name}: ${time(one.since)} ${one.until === null ? "until now" : `for ${seconds(one.until - one.since)}`}` });
      bar.style.left = share(one.since);
      bar.style.width = `calc(${share(one.until ?? end)} - ${share(one.since)})`;
      return bar;
    });
    return h("div", { class: "lane" }, h("span", { class: "soft small" }, name), h("div", { class: "bar" }, bars));
  };
  return h("div", { class: "lanes", role: "img", "aria-label": `When there were alarms and notices in this range: ${names.join(", ")}; the list below has the times` },
    names.map(lane), h("div", { class: "ends soft small" }, h("span", {}, time(start).slice(0, 16)), h("span", {}, time(end).slice(0, 16))));
}

export function showNoted(card, list, start, end) {
  const rows = list.slice(0, LISTED).map((one) => h("tr", {},
    h("td", {}, h("span", { class: `badge ${one.severity === "alarm" ? "bad" : "warn"}` }, one.name)),
    h("td", {}, time(one.since)), h("td", {}, one.until === null ? "still there" : `for ${seconds(one.until - one.since)}`), h("td", { class: "break" }, one.message)));
  const key = JSON.stringify([list, start, end]);
  if (card.dataset.shown === key) return; // bars have styles, which `fill` does not compare
  card.dataset.shown = key;
  delete card.dataset.filled;
  fill(card, h("h2", {}, "Alarms and notices"), h("p", { class: "soft small" }, "When they began and ended: in the range of the charts, and the newest ones of all time."),
    lanes(list, start, end),
    rows.length ? scroll("List of alarms and notices", h("table", { class: "stack" }, h("thead", {}, h("tr", {}, ["what", "since", "lasted", "seen"].map((name) => h("th", {}, name)))), h("tbody", {}, rows)))
      : h("p", { class: "soft" }, "None so far."));
}

// Finds a decision by its id, whichever bandit made it.
import { Refused, get } from "./api.js";
import { h } from "./dom.js";

export function findForm() {
  const input = h("input", { type: "search", placeholder: "Find a decision by id", "aria-label": "Find a decision by id", autocomplete: "off", spellcheck: "false" });
  const told = h("span", { class: "error small", role: "alert" });
  const form = h("form", { class: "row find", role: "search", "aria-label": "Decisions", novalidate: true }, input, h("button", { type: "submit" }, "Find"), told);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const id = input.value.trim();
    told.textContent = "";
    if (!id) return;
    try {
      const { bandit, decision_id } = await get(`dashboard/decisions/${encodeURIComponent(id)}`);
      location.hash = `#/bandit/${encodeURIComponent(bandit)}/decision/${encodeURIComponent(decision_id)}`;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      told.textContent = error.message;
    }
  });
  return form;
}

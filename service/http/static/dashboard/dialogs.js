// Questions before anything is done, and what became of it.
import { identify } from "./api.js";
import { h } from "./dom.js";

const dialog = document.getElementById("dialog");
const toast = document.getElementById("toast");
let clearing = 0;

export function tell(text) {
  toast.textContent = text;
  clearTimeout(clearing);
  clearing = setTimeout(() => { toast.textContent = ""; }, 8000);
}

// Ask, and call `act` with the fields' values; a refusal is shown in the dialog, which stays.
// `fields`: [label, control] each; `content`: further nodes, which `act` reads by itself.
export function ask({ title, text, fields = [], content = [], button, danger = false, wide = false, closable = true, act }) {
  return new Promise((resolve) => {
    const error = h("p", { class: "error", role: "alert" });
    const confirm = h("button", { type: "submit", class: danger ? "danger" : "main" }, button);
    const form = h("form", { method: "dialog" },
      h("h2", { id: "dialog-title" }, title), h("p", { class: "soft" }, text),
      fields.map(([label, field]) => h("label", {}, label, field)), content, error,
      h("div", { class: "row" },
        closable ? h("button", { type: "button", onclick: () => dialog.close() }, "Cancel") : null,
        confirm));
    let done = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      confirm.disabled = true;
      error.textContent = "";
      try {
        await act(...fields.map(([, field]) => field.value));
        done = true;
        dialog.close();
      } catch (refused) {
        error.textContent = refused.message;
      } finally {
        confirm.disabled = false;
      }
    });
    dialog.oncancel = (event) => { if (!closable) event.preventDefault(); };
    dialog.onclose = () => { dialog.replaceChildren(); resolve(done); };
    dialog.replaceChildren(form);
    dialog.className = wide ? "wide-dialog" : "";
    if (!dialog.open) dialog.showModal();
    (fields[0]?.[1] ?? form.querySelector("input:not([readonly]), select, textarea") ?? confirm).focus();
  });
}

export const asking = () => dialog.open;

export function askForKey(closable) {
  const field = h("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true });
  return ask({
    title: "API key", button: "Use this key", closable, fields: [["Key", field]],
    text: "This server has API keys. One with the scope read shows the dashboard, admin adds the buttons."
      + " It stays in this page's memory until you close or reload it.",
    act: (value) => identify(value.trim()),
  });
}

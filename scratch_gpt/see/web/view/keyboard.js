/** Keys that work everywhere but in a field: digits open views, `/` goes to the text, `?` lists the keys. */

import { element } from "#see/view/dom.js";

const KEYS = [
  ["1 … 9", "open a view"],
  ["← →", "move between tabs or tokens"],
  ["/", "go to the text"],
  ["Escape", "leave the text"],
  ["d", "light or dark"],
  ["?", "show these keys"],
];

/**
 * @param {import("#see/view/state.js").Store} store
 * @param {import("#see/view/navigation.js").Navigation} navigation
 */
export function listenToKeys(store, { views, open }) {
  const dialog = createDialog();
  document.body.append(dialog);
  const actions = {
    "/": () => document.getElementById("text").focus(),
    d: () => document.getElementById("theme").click(),
    "?": () => dialog.showModal(),
  };
  document.getElementById("keys").addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    if (event.target.closest("textarea, input, select")) {
      if (event.key === "Escape") document.activeElement.blur();
      return;
    }
    const view = /^[1-9]$/.test(event.key) ? views[Number(event.key) - 1] : undefined;
    const action = view ? () => open(view.id) : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function createDialog() {
  const row = ([key, meaning]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, meaning)];
  const close = element("button", { type: "button", class: "primary" }, "Close");
  const heading = element("h2", { id: "keys-heading" }, "Keys");
  const list = element("dl", {}, ...KEYS.flatMap(row));
  const dialog = element("dialog", { "aria-labelledby": "keys-heading" }, heading, list, close);
  close.addEventListener("click", () => dialog.close());
  return dialog;
}

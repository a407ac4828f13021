// @ts-check
/** Ctrl+K: go to a conversation by a few letters of its name. */

import { fuzzy } from "../look.js";
import { find } from "./messages.js";

const MAX_OPTIONS = 12;

/** @param {() => {name: string, href: string}[]} choices the most recent first */
export function switcher(choices) {
  const dialog = find(document, "[data-switcher]", HTMLDialogElement);
  const input = find(dialog, "input", HTMLInputElement);
  const list = find(dialog, "ul", HTMLElement);
  /** @type {HTMLElement[]} */
  let options = [];
  let chosen = 0;

  const open = () => {
    if (dialog.open) return;
    input.value = "";
    dialog.showModal();
    show();
  };

  const show = () => {
    const found = fuzzy(input.value, choices()).slice(0, MAX_OPTIONS);
    options = found.map(({ name, href }, index) => {
      const option = document.createElement("li");
      option.id = `switcher-option-${index}`;
      option.setAttribute("role", "option");
      option.dataset["href"] = href;
      option.dir = "auto";
      option.textContent = name;
      return option;
    });
    list.replaceChildren(...options);
    choose(0);
  };

  const choose = (/** @type {number} */ index) => {
    chosen = options.length === 0 ? 0 : (index + options.length) % options.length;
    for (const [at, option] of options.entries()) option.setAttribute("aria-selected", `${at === chosen}`);
    const option = options[chosen];
    option?.scrollIntoView({ block: "nearest" });
    if (option === undefined) input.removeAttribute("aria-activedescendant");
    else input.setAttribute("aria-activedescendant", option.id);
  };

  const go = (/** @type {Element | null | undefined} */ option) => {
    const href = option instanceof HTMLElement ? option.dataset["href"] : undefined;
    if (href !== undefined) location.assign(href);
  };

  input.addEventListener("input", show);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") choose(chosen + 1);
    else if (event.key === "ArrowUp") choose(chosen - 1);
    else if (event.key === "Enter" && !event.isComposing) go(options[chosen]);
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", (event) => go(event.target instanceof Element ? event.target.closest("li") : null));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
    }
  });
  const button = find(document, "[data-open-switcher]", HTMLElement);
  button.hidden = false;
  button.addEventListener("click", open);
}

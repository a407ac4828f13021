// @ts-check
/** What stands across the top while there is no connection. */

import { find } from "./messages.js";

const PATIENCE_MS = 800; // a server that restarts is back before this

/** @typedef {import("../connection.js").State} State */

export class Banner {
  /** @type {any} */
  #timer = null;
  /** @type {State} */
  #state = { name: "waiting", attempt: 0, until: 0 };

  /** @param {() => void} tryNow */
  constructor(tryNow) {
    this.banner = find(document, "[data-banner]", HTMLElement);
    this.text = find(this.banner, "[data-banner-text]", HTMLElement);
    this.countdown = find(this.banner, "[data-banner-countdown]", HTMLElement);
    this.button = find(this.banner, "[data-try-now]", HTMLButtonElement);
    this.button.addEventListener("click", () => {
      if (this.#state.name === "over" && this.#state.why === "confused") location.reload();
      else tryNow();
    });
    setInterval(() => this.#count(), 500);
  }

  /** @param {State} state */
  show(state) {
    this.#state = state;
    if (state.name === "open") {
      clearTimeout(this.#timer);
      this.#timer = null;
      this.banner.hidden = true;
    } else if (!navigator.onLine || state.name === "over") {
      this.#reveal();
    } else if (state.name === "waiting") {
      this.#timer ??= setTimeout(() => this.#reveal(), PATIENCE_MS);
    }
    if (!this.banner.hidden) this.#describe();
  }

  #reveal() {
    this.banner.hidden = false;
    this.#describe();
  }

  #describe() {
    const said = describe(this.#state);
    if (this.text.textContent !== said) this.text.textContent = said;
    this.button.textContent = this.#state.name === "over" && this.#state.why === "confused" ? "Load again" : "Try now";
    this.button.hidden = this.#state.name === "connecting";
    this.#count();
  }

  #count() {
    if (this.banner.hidden) return;
    const counts = this.#state.name === "waiting" && navigator.onLine;
    const seconds = this.#state.name === "waiting" ? Math.max(1, Math.ceil((this.#state.until - Date.now()) / 1000)) : 0;
    this.countdown.textContent = counts ? `Next try in ${seconds} s.` : "";
  }
}

/** @param {State} state */
function describe(state) {
  if (state.name === "over") {
    return state.why === "crowded"
      ? "You have this chat open in too many places. Close some of them."
      : "This page no longer fits the server.";
  }
  return navigator.onLine
    ? "No connection. What you write is kept and sent later."
    : "You are offline. What you write is kept and sent later.";
}

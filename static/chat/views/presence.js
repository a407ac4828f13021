// @ts-check
/** Who is here: a dot and a text for everyone on the page. */

import { presenceText } from "../look.js";
import { MAX_WATCHED } from "../protocol.js";

const REPHRASE_MS = 30_000;

export class PresenceView {
  /** @type {Map<string, import("../protocol.js").Presence>} */
  #known = new Map();
  #watched = "";
  #wasConnected = false; // before, the server's text stands there

  /** @param {{watch: (userIds: string[]) => boolean, myId: string}} world `watch` returns whether it went out */
  constructor(world) {
    this.world = world;
    setInterval(() => this.#showAll(), REPHRASE_MS);
  }

  /** The people on the page may be others than before. */
  peopleChanged() {
    const people = new Set(elements().map((element) => element.dataset["presence"] ?? ""));
    const watched = [...people].filter((id) => id !== "" && id !== this.world.myId).slice(0, MAX_WATCHED);
    const key = watched.toSorted().join();
    if (key !== this.#watched && this.world.watch(watched)) this.#watched = key;
    this.#showAll();
  }

  /** @param {import("../protocol.js").Presence} presence */
  changed(presence) {
    this.#wasConnected = true;
    this.#known.set(presence.user_id, presence);
    for (const element of elements()) if (element.dataset["presence"] === presence.user_id) this.#show(element);
  }

  /** Without a connection nobody knows. */
  forget() {
    this.#watched = "";
    this.#known.clear();
    this.#showAll();
  }

  #showAll() {
    for (const element of elements()) this.#show(element);
  }

  /** @param {HTMLElement} element */
  #show(element) {
    const known = this.#known.get(element.dataset["presence"] ?? "");
    const text = element.querySelector("span");
    if (known === undefined) {
      delete element.dataset["status"];
      if (text !== null && this.#wasConnected) text.textContent = "";
      return;
    }
    element.dataset["status"] = known.status;
    const said = presenceText(known.status, known.last_seen_at, new Date());
    if (text !== null && text.textContent !== said) text.textContent = said;
  }
}

/** @returns {HTMLElement[]} */
function elements() {
  return [...document.querySelectorAll("[data-presence]")].filter((each) => each instanceof HTMLElement);
}

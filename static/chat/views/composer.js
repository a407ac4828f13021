// @ts-check
/** Where a message is written. What is not sent yet is kept as a draft, per conversation. */

import { cleanContent } from "../protocol.js";
import { find } from "./messages.js";

/** @param {string} userId */
export function drafts(userId) {
  const key = (/** @type {string} */ id) => `draft-${userId}-${id}`;
  return {
    /** @param {string} id */
    of: (id) => localStorage.getItem(key(id)) ?? "",
    /** @type {(id: string, text: string) => void} */
    keep(id, text) {
      if (text.trim() === "") localStorage.removeItem(key(id));
      else localStorage.setItem(key(id), text);
    },
  };
}

export class Composer {
  /**
   * @param {HTMLFormElement} form
   * @param {{draft: string, keepDraft: (text: string) => void, send: (content: string) => Promise<void>}} world
   *   `send` is fulfilled once the message is safe
   */
  constructor(form, world) {
    this.form = form;
    this.world = world;
    this.text = find(form, "textarea", HTMLTextAreaElement);
    this.problem = find(document, "[data-composer-problem]", HTMLElement);
    this.text.required = false; // the browser's bubble would be one more voice
    this.text.value = world.draft;
    this.#fit();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.text.addEventListener("input", () => {
      this.problem.textContent = "";
      world.keepDraft(this.text.value);
      this.#fit();
    });
    this.text.addEventListener("keydown", (event) => {
      if (!isSendKey(event)) return;
      event.preventDefault();
      this.#send();
    });
    if (matchMedia("(hover: hover) and (pointer: fine)").matches) this.text.focus({ preventScroll: true });
  }

  /** @param {string} reason shown instead of the field */
  close(reason) {
    this.problem.textContent = reason;
    this.form.remove();
  }

  #send() {
    const cleaned = cleanContent(this.text.value);
    if ("problem" in cleaned) {
      this.problem.textContent = this.text.value === "" ? "" : cleaned.problem;
      return;
    }
    // Until it is safe elsewhere, the draft has it: a tab may die at any time.
    void this.world.send(cleaned.content).then(() => this.world.keepDraft(this.text.value));
    this.text.value = "";
    this.problem.textContent = "";
    this.#fit();
    this.text.focus({ preventScroll: true });
  }

  /** As high as its text, where the browser does not do that itself. */
  #fit() {
    if (CSS.supports("field-sizing", "content")) return;
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight + 2}px`;
  }
}

/**
 * Enter sends; not with Shift, not while an input method composes, not where the keyboard is on the screen.
 *
 * @param {KeyboardEvent} event
 */
function isSendKey(event) {
  const composing = event.isComposing || event.keyCode === 229;
  return event.key === "Enter" && !event.shiftKey && !composing && !matchMedia("(pointer: coarse)").matches;
}

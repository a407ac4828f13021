// @ts-check
/** Whether somebody uses this page: what they do with it counts, a window that merely lies open does not. */

const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "touchmove", "focus"];

export class Activity {
  #used = true; // somebody has just opened the page

  /**
   * @param {{addEventListener: (type: string, heard: () => void, options?: {capture: boolean, passive: boolean}) => void}} page
   * @param {{onReturn: () => void}} world `onReturn`: the page has got the focus again
   */
  constructor(page, { onReturn }) {
    const heard = () => {
      this.#used = true;
    };
    for (const sign of SIGNS) page.addEventListener(sign, heard, { capture: true, passive: true });
    page.addEventListener("focus", onReturn);
  }

  /** @returns {boolean} whether the page was used since this was last asked */
  take() {
    const used = this.#used;
    this.#used = false;
    return used;
  }
}

// @ts-check
/** Parts of a page that are fetched again as the server draws them. */

/** @type {Map<string, number>} */
const asked = new Map();

/**
 * An answer that comes after that of a later call is none. What is the same stays untouched: whoever is pressing it
 * must not lose it.
 *
 * @param {string} address
 * @param {string} selector
 */
export async function redraw(address, selector) {
  const mine = (asked.get(selector) ?? 0) + 1;
  asked.set(selector, mine);
  const response = await fetch(address);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const shown = document.querySelector(selector);
  const drawn = page.querySelector(selector);
  if (shown === null || drawn === null || asked.get(selector) !== mine) return;
  if (!withoutWhatVaries(shown).isEqualNode(withoutWhatVaries(drawn))) {
    shown.replaceChildren(...document.adoptNode(drawn).childNodes);
  }
}

/** @param {Element} element */
function withoutWhatVaries(element) {
  const copy = /** @type {Element} */ (document.importNode(element, true));
  for (const part of copy.querySelectorAll("[data-presence], [name=csrfmiddlewaretoken]")) part.remove();
  return copy;
}

/**
 * Search while one types.
 *
 * @param {HTMLFormElement} form
 * @param {string} selector of the results
 * @param {() => void} onDrawn
 */
export function searchWhileTyping(form, selector, onDrawn) {
  /** @type {any} */
  let timer = null;
  const search = async () => {
    const query = new URLSearchParams([...new FormData(form)].map(([name, value]) => [name, `${value}`]));
    await redraw(`${form.action}?${query}`, selector);
    onDrawn();
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => void search(), 200);
  });
}

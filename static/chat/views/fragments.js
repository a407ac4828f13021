// @ts-check
/** Parts of a page that are fetched again as the server draws them. */

let asked = 0;
/** @type {Map<string, number>} */
const drawn = new Map(); // by which question

/**
 * What is the same stays untouched: whoever is pressing it must not lose it. Nothing is drawn over what is newer.
 *
 * @param {string} address
 * @param {string[]} selectors
 * @returns {Promise<number>} the status of the answer
 */
export async function redraw(address, ...selectors) {
  const mine = (asked += 1);
  const response = await fetch(address);
  if (!response.ok) return response.status;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const selector of selectors) {
    const [old, part] = [document, page].map((each) => each.querySelector(selector));
    if (!(old instanceof HTMLElement && part instanceof HTMLElement) || mine < (drawn.get(selector) ?? 0)) continue;
    drawn.set(selector, mine);
    if (withoutWhatVaries(old).isEqualNode(withoutWhatVaries(part))) continue;
    old.hidden = part.hidden;
    old.replaceChildren(...document.adoptNode(part).childNodes);
  }
  return response.status;
}

/** @param {Element} element */
function withoutWhatVaries(element) {
  const copy = document.importNode(element, true);
  for (const part of copy.querySelectorAll("[data-presence], input")) part.remove();
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

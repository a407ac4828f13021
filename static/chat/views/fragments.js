// @ts-check
/** Parts of a page that are fetched again as the server draws them. */

/**
 * @param {string} address
 * @param {string} selector
 * @param {() => boolean} [isWanted] asked once the answer is there
 */
export async function redraw(address, selector, isWanted = () => true) {
  const response = await fetch(address);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const drawn = page.querySelector(selector);
  if (drawn === null || !isWanted()) return;
  document.querySelector(selector)?.replaceChildren(...document.adoptNode(drawn).childNodes);
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
  let asked = 0;
  const search = async () => {
    const query = new URLSearchParams([...new FormData(form)].map(([name, value]) => [name, `${value}`]));
    asked += 1;
    const mine = asked;
    await redraw(`${form.action}?${query}`, selector, () => mine === asked); // an answer that is late is no answer
    onDrawn();
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => void search(), 200);
  });
}

// @ts-check
/** Short texts at the top of a page; one can be left for the next page. */

const KEY = "notice";

/** @param {string} text */
export function showNotice(text) {
  const notice = document.createElement("p");
  notice.className = "notice";
  notice.textContent = text;
  document.querySelector("[data-notices]")?.append(notice);
}

/**
 * @param {string} text
 * @param {string} address the page that shows it
 */
export function goWithNotice(text, address) {
  sessionStorage.setItem(KEY, text);
  location.assign(address);
}

export function takeNotice() {
  const text = sessionStorage.getItem(KEY);
  if (text === null) return;
  sessionStorage.removeItem(KEY);
  showNotice(text);
}

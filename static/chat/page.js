// @ts-check
/** What every page has: the colours, a notice from the page before, a question before what can't be undone. */

import { takeNotice } from "./views/notices.js";

const root = document.documentElement;

for (const button of document.querySelectorAll("[data-theme-toggle]")) {
  if (button instanceof HTMLElement) button.hidden = false;
  button.addEventListener("click", () => {
    const isDark = root.dataset["theme"]
      ? root.dataset["theme"] === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset["theme"] = isDark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset["theme"]);
    } catch {
      // then it lasts as long as this page
    }
  });
}

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset["confirm"];
  if (question !== undefined && !confirm(question)) event.preventDefault();
});

takeNotice();

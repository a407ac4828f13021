// @ts-check
// In <head> and not a module, so that it has run before the first paint: no flash of the other colours.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // storage is not allowed here: the system's colours it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset["theme"] = chosen;
})();

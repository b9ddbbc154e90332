// Builds elements from text only, so nothing that a run is called can become markup.

/** element("div", "class", "text" or children...) */
export function element(tag, className = "", ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.filter((part) => part !== null && part !== undefined));
  return made;
}

/** Sets a text without touching the page where it is the same. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export const show = (target, yes) => target.classList.toggle("pt-hidden", !yes);

/** Calls back when the size of `target` has changed; returns a function that stops it. */
export function onResize(target, callback) {
  const observer = new ResizeObserver(() => target.clientWidth > 0 && callback());
  observer.observe(target);
  return () => observer.disconnect();
}

/** The value of a CSS variable of the page's theme. */
export function themeColour(name, fallback) {
  return getComputedStyle(document.body).getPropertyValue(name).trim() || fallback;
}

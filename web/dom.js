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

/** Gives a menu its choices, [value, words] each; what is chosen stays chosen while it is among them. */
export function offer(select, choices) {
  const wanted = choices.map((choice) => choice.map(String));
  const there = [...select.options].map((option) => [option.value, option.textContent]);
  if (JSON.stringify(there) === JSON.stringify(wanted)) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map(([value, text]) => Object.assign(element("option", "", text), { value })));
  if (wanted.some(([value]) => value === chosen)) select.value = chosen;
}

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

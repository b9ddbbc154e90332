// The server's sentences in Chinese: found by their wording, with what fills their gaps. They are fetched once a page is Chinese.
import { ZH } from "./chinese.js";

const ROOMS = ["nodes", "rewards", "toy", "trainers", "trainers/data", "trainers/policy", "trainers/run", "trainers/servers"];
const GAP = /\{(\d+)\}/;
const FILLED = /( ?)\{(\d+)\}( ?)/g;
const MOST_NAMES = 2, DEEPEST = 4; // sentences within sentences
const LONGEST = 4000; // of a line: a longer one is no sentence
const WIDE = /[\u3000-\u9fff\uff00-\uffef\u201c\u201d]/;
const known = new Map();
let forms = [];
let loading;

/** Fetches the sentences. Until this is done they are said as the server says them, and for good where it fails. */
export function loadChinese() {
  loading ??= Promise.all(ROOMS.map((room) => fetchWords(`./chinese_errors/${room}.json`))).then((rooms) => {
    forms = [...rooms, ZH.looks].flatMap(Object.entries).map(formOf).sort((a, b) => b.fixed - a.fixed); // "{1} is missing" takes any text
    known.clear();
  });
  return loading;
}

/** English -> Chinese, of a file beside this one; nothing where it cannot be had. */
export async function fetchWords(file) {
  try {
    return await (await fetch(new URL(file, import.meta.url), { cache: "no-cache" })).json();
  } catch {
    return {};
  }
}

/** What stands before, between and after the gaps, which gaps they are, and how many letters are no gap. */
function formOf([words, chinese]) {
  const parts = words.split(GAP);
  const fixed = parts.filter((_, i) => i % 2 === 0);
  return { fixed: fixed.join("").length, first: fixed[0], between: fixed.slice(1, -1), last: fixed.at(-1),
    gaps: parts.filter((_, i) => i % 2), chinese };
}

/** gap -> what fills it, each as little as possible; nothing where the text is not of this form. In one go over the text. */
function fillings(text, { fixed, first, between, last, gaps }) {
  if (!gaps.length) return text === first ? {} : undefined;
  if (text.length < fixed || !text.startsWith(first) || !text.endsWith(last)) return undefined;
  const end = text.length - last.length, found = {};
  let at = first.length;
  for (const [i, words] of between.entries()) {
    const next = text.indexOf(words, at);
    if (next < 0 || next + words.length > end) return undefined;
    found[gaps[i]] = text.slice(at, next);
    at = next + words.length;
  }
  found[gaps.at(-1)] = text.slice(at, end);
  return found;
}

/** The form that a text has, and what fills it. */
function match(text) {
  for (const form of forms) {
    const found = fillings(text, form);
    if (found) return { form, found };
  }
  return undefined;
}

/** deep: how many sentences it stands within. */
function filled({ form, found }, deep) {
  return form.chinese.replace(FILLED, (all, before, gap, after) => spaced(before, filling(found[gap].trim(), deep + 1), after));
}

/** Between Chinese and Chinese stands no space. */
const spaced = (before, words, after) => (WIDE.test(words[0]) ? "" : before) + words + (WIDE.test(words.at(-1)) ? "" : after);

function filling(text, deep) {
  if (deep > DEEPEST) return text;
  const sentences = list(text, "; ", "；", (part) => one(part, deep)) ?? list(text, ", ", "，", (part) => whole(part, deep));
  return sentences ?? one(text, deep) ?? text;
}

/** Several sentences in a row, where all are known; of: what a part is looked up by. */
function list(text, mark, chinese, of) {
  const parts = text.split(mark), said = [];
  if (parts.length < 2) return undefined;
  for (const part of parts) {
    const words = of(part);
    if (!words) return undefined;
    said.push(words);
  }
  return said.join(chinese);
}

function whole(text, deep) {
  const found = match(text);
  return found && filled(found, deep);
}

/** A sentence, or one behind the names of what it is about, such as an input's and a file's: what says the most. */
function one(text, deep) {
  let best = match(text), name = "";
  for (let at = text.indexOf(": "), names = 0; at >= 0 && names < MOST_NAMES; at = text.indexOf(": ", at + 2), names++) {
    const found = match(text.slice(at + 2));
    if (found && found.form.fixed > (best?.form.fixed ?? 0)) [best, name] = [found, text.slice(0, at + 2)];
  }
  return best && name.split(": ").map((part) => whole(part, deep) ?? part).join("：") + filled(best, deep);
}

/** A text of the server, line by line; a line that is not known stays as it is. */
export function inChinese(text) {
  loadChinese();
  if (!forms.length) return text;
  if (!known.has(text)) {
    if (known.size > 1000) known.clear();
    known.set(text, text.split("\n").map((line) => (line.length < LONGEST && one(line, 0)) || line).join("\n"));
  }
  return known.get(text);
}

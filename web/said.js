// The server's sentences in Chinese: found by their wording, with what fills their gaps.
import { ERRORS } from "./chinese_errors.js";

const GAP = /\{(\d+)\}/;
const forms = Object.entries(ERRORS).map(([words, chinese]) => {
  const parts = words.split(GAP); // words and, in between, the gaps' numbers
  const pattern = parts.map((part, i) => (i % 2 ? "([\\s\\S]*?)" : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))).join("");
  return { pattern: new RegExp(`^${pattern}$`), chinese, fixed: words.replace(/\{\d+\}/g, "").length };
}).sort((a, b) => b.fixed - a.fixed); // "{1} is too large" would take more than it says
const known = new Map();

function translated(text) {
  for (const { pattern, chinese } of forms) {
    const found = pattern.exec(text);
    if (found) return chinese.replace(/\{(\d+)\}/g, (all, number) => inChinese(found[number].trim()));
  }
  return text;
}

/** A text of the server, line by line; a line that is not known stays as it is. */
export function inChinese(text) {
  if (!known.has(text)) {
    if (known.size > 1000) known.clear();
    known.set(text, text.split("\n").map(translated).join("\n"));
  }
  return known.get(text);
}

// What the page says, in the language that the user has chosen: english.js and chinese.js hold the words.
import { app } from "../../scripts/app.js";
import { ZH } from "./chinese.js";
import { EN } from "./english.js";
import { inChinese, loadChinese } from "./said.js";

const WEIGHT = "weight of "; // before a reward's name, among the numbers that can be changed

/** The language that the user has chosen, such as "en" or "zh". */
export const locale = () => String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "en");

const language = () => (locale().startsWith("zh") ? ZH : EN);

const fill = (form, values) => form.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? "");

/** The sentence of that name in the user's language. */
export const words = (key, values = {}) => fill(language()[key], values);

/** What an input or output of the pack's blocks is called in the user's language; nothing for a name that they do not have. */
export const blockLabel = (name) => (Object.hasOwn(ZH.blocks, name) ? (language().blocks?.[name] ?? name) : undefined);

/** Whether a label of that input is its name, in any language, and none that the user has typed. */
export const isBlockLabel = (name, label) => !label || label === name || label === ZH.blocks[name];

/** What an input of a block of nodes of the host alone does. */
export const blockHint = (name) => language().blockHints[name];

/** What a menu offers in the user's language; but for goals with the value itself, which help pages and workflows know. */
export function choiceName(value) {
  const { goals, menus } = language();
  return goals?.[value] ?? (menus && Object.hasOwn(menus, value) ? `${menus[value]}（${value}）` : value);
}

/** What a list of pictures is called: "samples" or "held_out". */
export const picturesName = (kind) => language().samplesOf[kind];

/** Makes ready what the server says, where the user's language needs it. */
export const loadWords = async () => language() === ZH && loadChinese();

/** A text of the server, such as an error or what became of a run, in the user's language where that is known. */
export const serverWords = (text) => (language() === ZH ? inChinese(text) : text);

/** A word of a table that a node answers with: a column's head, or the number that a row is about. */
export const headWords = (text) => language().heads?.[text] ?? serverWords(text);

/** A message of a run as the user should read it: an alarm in the chosen language, anything else as it was written. */
export function messageWords({ text, alarm, values }) {
  const { alarms, looks } = language();
  if (values?.number in language().numbers || values?.number?.startsWith(WEIGHT)) {
    const [value, before] = [number(values.value), number(values.before)];
    return words("changedNumber", { name: numberName(values.number), value, before });
  }
  const what = language().said?.[values?.what];
  if (what) return fill(what, saidValues(values));
  if (!alarms?.[alarm]) return serverWords(text);
  const numbers = Object.entries(values).map(([key, value]) => [key, typeof value === "number" ? number(value) : value]);
  const plain = Object.fromEntries(numbers);
  return fill(alarms[alarm], { ...plain, word: looks[plain.word], number: metricName(plain.number ?? "") });
}

/** What fills the gaps of a sentence that the server has said, in the user's language where it is a sentence or a name itself. */
function saidValues(values) {
  const { reasons, steps } = language();
  const plain = Object.fromEntries(Object.entries(values)
    .map(([key, value]) => [key, key !== "iteration" && typeof value === "number" ? number(value) : value]));
  if (values.because) plain.alarm = messageWords(values.because);
  if (values.number) plain.number = metricName(values.number);
  if (values.steps) plain.steps = values.steps.map((step, i) => `${i + 1}) ${fill(steps[step], plain)}`).join("；");
  if (values.why) plain.why = fill(reasons[values.why], plain);
  return plain;
}

/** An answer to a question on a run. */
export const answerName = (answer) => language().answers[answer] ?? answer;

/** A number that can be changed while it trains. */
export const numberName = (name) => (name.startsWith(WEIGHT) ? words("weightOf", { name: name.slice(WEIGHT.length) })
  : language().numbers[name] ?? name);

/** A number of metrics.jsonl as the user should read it. */
export function metricName(key) {
  if (key.startsWith("reward/")) return words("rewardOf", { name: key.slice(7) });
  if (key.startsWith("weight/")) return words("weightOf", { name: key.slice(7) });
  const plain = key.replaceAll("_", " ").replaceAll("/", ": ");
  return language().metrics[key] ?? plain.charAt(0).toUpperCase() + plain.slice(1);
}

/** 0.0001234 -> "0.000123", 1234567 -> "1.23e6": three digits that mean something. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 3)));
}

export function duration(seconds) {
  if (seconds < 90) return words("seconds", { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 90 * 60) return words("minutes", { n: Math.round(seconds / 60) });
  if (seconds < 36 * 3600) return words("hours", { n: (seconds / 3600).toFixed(1) });
  return words("days", { n: (seconds / 86400).toFixed(1) });
}

export function ago(time) {
  const seconds = Date.now() / 1000 - time;
  return seconds < 60 ? words("now") : words("ago", { time: duration(seconds) });
}

/** What becomes of a run, in one sentence. */
export function statusWords(run) {
  const held = run.status === "paused" && run.steering;
  const key = held ? "held" : run.status === "running" && run.iteration === 0 ? "starting" : run.status;
  return words(language()[key] ? key : "unknown", run);
}

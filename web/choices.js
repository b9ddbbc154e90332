// Which numbers of a run can be drawn, which of them first, and what the user has chosen; kept in the browser.
import { LINE_COLOURS, METRIC_COLOUR, lineOf, meanOf } from "./charts.js";
import { metricName, number, words } from "./words.js";

const MAIN = ["reward_mean", "accuracy", "loss"]; // the first of these that a trainer reports is its first curve
export const HELD_OUT = "held_out_reward";
export const PARTS = "*parts"; // several numbers in one chart
export const TIME = "*time";
const FIRST = [HELD_OUT, "blind_share", "kl", PARTS, "pass_rate", "clip_fraction", "grad_norm", "loss", "reward_std", "zero_spread_groups", TIME];
const NOT_SHOWN = new Set(["iteration", "time", "reward_mean", "groups", "single_groups", "skipped_updates_in_a_row"]);
const TIMES = ["seconds_sampling", "seconds_decoding", "seconds_scoring", "seconds_training"];
const SMOOTHINGS = [null, 0, 1, 2, 5, 10, 20, 50]; // iterations on each side; null: as many as suit the length

/** A value that the browser keeps. */
function kept(name, empty) {
  return {
    get: () => {
      try {
        return JSON.parse(localStorage.getItem(`posttrain.${name}`)) ?? empty;
      } catch {
        return empty;
      }
    },
    set: (value) => localStorage.setItem(`posttrain.${name}`, JSON.stringify(value)),
  };
}

export const further = kept("further", []); // numbers of further charts
export const smoothing = kept("smoothing", 0); // a place among SMOOTHINGS
export const logarithmic = kept("log", false);
export const smoothingOf = (place) => SMOOTHINGS[place] ?? null;
export const MOST_SMOOTHING = SMOOTHINGS.length - 1;

/** The number of the first curve: trainers that learn from a folder of pictures have no reward, and where a person chooses
 *  the best and the worst its mean is always the same. */
export function mainOf(points) {
  const known = MAIN.filter((key) => points.some((point) => Number.isFinite(point[key])));
  const still = points.length > 1 && points.every((point) => point.reward_mean === points[0].reward_mean);
  return still && known.includes("accuracy") ? "accuracy" : known[0] ?? MAIN[0];
}

/** The numbers that can be chosen for the further curves, the useful ones first. */
export function choicesOf(points) {
  const keys = new Set();
  // held-out prompts are measured now and then
  const measured = points.findLast((point) => HELD_OUT in point);
  for (const point of [points[0], points.at(-1), measured]) for (const key of Object.keys(point ?? {})) keys.add(key);
  for (const [group, members] of [[PARTS, membersOf(PARTS, keys)], [TIME, membersOf(TIME, keys)]]) {
    if (members.length > 1) keys.add(group);
  }
  const rank = (key) => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length);
  keys.delete(mainOf(points));
  for (const key of keys) if (key.startsWith("weight/") && points.every((point) => point[key] === points[0][key])) keys.delete(key);
  return [...keys].filter((key) => !NOT_SHOWN.has(key)).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

function membersOf(key, known) {
  if (key === TIME) return TIMES.filter((name) => known.has(name));
  if (key === PARTS) return [...known].filter((name) => name.startsWith("reward/")).sort();
  return [key];
}

/** The lines of a chart of that number; of PARTS and TIME one for each member. */
export function linesOf(points, key, smooth, colour = METRIC_COLOUR) {
  const members = membersOf(key, new Set(Object.keys(points.at(-1) ?? {})));
  return members.map((name, i) => lineOf(points, name, { name: metricName(name), smoothing: smooth,
    colour: members.length > 1 ? LINE_COLOURS[i % LINE_COLOURS.length] : colour }));
}

/** Memory, and where the time goes, in one line; "" where a run is older than these numbers. */
export function gaugeWords(points) {
  const newest = (key) => meanOf(points, key, true);
  const seconds = TIMES.map(newest).map((value) => value ?? 0);
  const whole = seconds.reduce((sum, one) => sum + one, 0);
  const parts = [];
  if (newest("vram_gb") !== null) parts.push(words("gaugeVram", { value: number(newest("vram_gb")) }));
  if (newest("ram_gb") !== null) parts.push(words("gaugeRam", { value: number(newest("ram_gb")) }));
  if (whole > 0) {
    const [sampling, decoding, scoring, training] = seconds.map((one) => Math.round((100 * one) / whole));
    parts.push(words("gaugeTime", { sampling, decoding, scoring, training }));
  }
  return parts.join(" · ");
}

// What is shown of one run, on its node and in the side bar alike: words, reward curve, a second curve of choice.
import { METRIC_COLOUR, REWARD_COLOUR, columns, createChart, meanOf } from "./charts.js";
import { element, say, show, themeColour } from "./dom.js";
import { duration, messageWords, metricName, number, statusWords, words } from "./words.js";

const CHOICE = "posttrain.metric";
const MAIN = ["reward_mean", "accuracy", "loss"]; // the first of these that a trainer reports is its first curve
const HELD_OUT = "held_out_reward";
const FIRST = [HELD_OUT, "kl", "pass_rate", "clip_fraction", "grad_norm", "loss", "reward_std", "zero_spread_groups"];
const NOT_SHOWN = new Set(["iteration", "time", "reward_mean", "groups", "single_groups", "skipped_updates_in_a_row"]);

/** The number of the first curve: trainers that learn from a folder of pictures have no reward, and where a person chooses
 *  the best and the worst its mean is always the same. */
function mainOf(points) {
  const known = MAIN.filter((key) => points.some((point) => Number.isFinite(point[key])));
  const still = points.length > 1 && points.every((point) => point.reward_mean === points[0].reward_mean);
  return still && known.includes("accuracy") ? "accuracy" : known[0] ?? MAIN[0];
}

/** The numbers that can be chosen for the second curve, the useful ones first. */
function choices(points) {
  const keys = new Set();
  // held-out prompts are measured now and then
  const measured = points.findLast((point) => HELD_OUT in point);
  for (const point of [points[0], points.at(-1), measured]) for (const key of Object.keys(point ?? {})) keys.add(key);
  const rank = (key) => (FIRST.includes(key) ? FIRST.indexOf(key) : FIRST.length);
  keys.delete(mainOf(points));
  return [...keys].filter((key) => !NOT_SHOWN.has(key)).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

function chosen(keys) {
  const wanted = localStorage.getItem(CHOICE);
  return keys.includes(wanted) ? wanted : keys[0];
}

function metricSelect(redraw) {
  const select = element("select", "pt-select");
  let offered = "";
  select.addEventListener("change", () => {
    localStorage.setItem(CHOICE, select.value);
    redraw();
  });
  select.offer = (keys) => {
    const names = keys.map(metricName);
    if (offered !== names.join()) {
      offered = names.join();
      select.replaceChildren(...keys.map((key, i) => Object.assign(element("option", "", names[i]), { value: key })));
    }
    select.value = chosen(keys) ?? "";
  };
  return select;
}

function header() {
  const dot = element("span", "pt-dot");
  const status = element("span", "pt-status");
  const left = element("span", "pt-left");
  const bar = element("div", "pt-bar", element("div", "pt-bar-fill"));
  const root = element("div", "pt-header", element("div", "pt-row", dot, status, left), bar);
  return {
    root,
    set(run) {
      dot.dataset.status = run.status;
      say(status, statusWords(run));
      say(left, run.status === "running" && run.seconds_left ? words("left", { time: duration(run.seconds_left) }) : "");
      bar.firstChild.style.width = `${run.iterations ? Math.min(100, (100 * run.iteration) / run.iterations) : 0}%`;
      show(bar, run.status === "running");
    },
  };
}

/** -> {root, set(run)}. root has no size of its own: the charts fill what it is given. */
export function createRunView() {
  let run = null;
  let hovered = null;
  let drawn = "";
  const head = header();
  const now = element("span", "pt-now");
  const start = element("span", "pt-start");
  const value = element("span", "pt-value");
  const select = metricSelect(() => draw());
  const reward = element("div", "pt-chart pt-reward");
  const metric = element("div", "pt-chart pt-metric");
  const thinned = element("div", "pt-hint");
  const problem = element("div", "pt-message");
  const root = element("div", "pt-run", head.root, problem, element("div", "pt-row", now, start), reward,
    element("div", "pt-row", select, value), metric, thinned);
  const hover = (index) => {
    hovered = index;
    if (run) texts();
  };
  const charts = [createChart(reward, REWARD_COLOUR, hover), createChart(metric, METRIC_COLOUR, hover)];

  function texts() {
    const point = hovered === null ? null : run.points[hovered];
    const key = select.value;
    const main = mainOf(run.points);
    say(now, words("mainNow", { name: metricName(main), now: number(meanOf(run.points, main, true)) }));
    const spread = main === "reward_mean" && Number.isFinite(point?.reward_std)
      ? words("spread", { value: number(point.reward_mean), spread: number(point.reward_std) })
      : number(point?.[main]);
    say(start, point ? words("at", { iteration: point.iteration, value: spread })
      : words("rewardStart", { start: number(meanOf(run.points, main, false)) }));
    say(value, number(point ? point[key] : meanOf(run.points, key, true)));
  }

  /** What ended the run, or else the newest alarm or warning. */
  function showProblem() {
    const newest = (level) => run.messages.findLast((one) => one.level === level);
    const failed = ["error", "paused"].includes(run.status) && (newest("error")?.text ?? run.summary);
    const warning = newest("warning");
    const text = failed || (warning ? messageWords(warning) : "");
    show(problem, Boolean(text));
    problem.classList.toggle("pt-error", Boolean(failed));
    problem.classList.toggle("pt-warning", !failed);
    say(problem, text);
    problem.title = text; // on a small node only its beginning is seen
  }

  function draw() {
    head.set(run);
    const points = run.points ?? [];
    const drawable = points.length > 0;
    for (const part of [now.parentNode, reward, select.parentNode, metric]) show(part, drawable);
    showProblem();
    show(thinned, run.thinned > 1);
    if (run.thinned > 1) say(thinned, words("thinned", { n: run.thinned }));
    if (!drawable) return;
    const main = mainOf(points);
    const spread = main === "reward_mean" ? "reward_std" : null;
    const beside = spread && points.some((point) => Number.isFinite(point[HELD_OUT])) ? HELD_OUT : null;
    reward.title = (beside ? words("heldOutCurve") : "") + words(spread ? "band" : "line");
    select.offer(choices(points));
    texts();
    // the slow clock draws, too: most of the time nothing new has come, and the theme is the same
    const key = [run.run, run.id, points.length, points.at(-1).iteration, select.value, main, themeColour("--descrip-text")].join();
    if (key === drawn) return;
    drawn = key;
    charts[0].set(columns(points, main, spread, beside));
    charts[1].set(columns(points, select.value));
  }

  return {
    root,
    set(shown) {
      run = shown;
      draw();
    },
    destroy: () => charts.forEach((chart) => chart.destroy()),
  };
}

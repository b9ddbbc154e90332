// What is shown of one run, on its node and in the side bar alike: words, reward curve, further curves of choice.
import { createChart, lineOf, LINE_COLOURS, meanOf, METRIC_COLOUR, REWARD_COLOUR } from "./charts.js";
import { HELD_OUT, MOST_SMOOTHING, choicesOf, further, gaugeWords, linesOf, logarithmic, mainOf, smoothing, smoothingOf } from "./choices.js";
import { element, offer, say, show, themeColour } from "./dom.js";
import { duration, messageWords, metricName, number, serverWords, statusWords, words } from "./words.js";

const CHOICE = "posttrain.metric";
const BESIDE_COLOUR = LINE_COLOURS[0];
const MARKED = new Set(["warning", "error", "steer"]);
const MOST_FURTHER = 4;

function header() {
  const dot = element("span", "pt-dot");
  const status = element("span", "pt-status");
  const left = element("span", "pt-left");
  const bar = element("div", "pt-bar", element("div", "pt-bar-fill"));
  const root = element("div", "pt-header", element("div", "pt-row", dot, status, left), bar);
  bar.setAttribute("role", "progressbar");
  return {
    root,
    set(run) {
      dot.dataset.status = run.status;
      say(status, statusWords(run));
      say(left, run.status === "running" && run.seconds_left ? words("left", { time: duration(run.seconds_left) }) : "");
      const share = run.iterations ? Math.min(100, Math.round((100 * run.iteration) / run.iterations)) : 0;
      bar.firstChild.style.width = `${share}%`;
      bar.setAttribute("aria-valuenow", share);
      bar.setAttribute("aria-label", words("progress"));
      show(bar, run.status === "running");
    },
  };
}

/** A chart of a number that can be chosen. chosen(): the one that is wanted; choose(key). */
function metricChart(className, chosen, choose, hover) {
  const select = element("select", className);
  const value = element("span", "pt-value");
  const place = element("div", "pt-chart pt-metric");
  const legend = element("div", "pt-legend");
  const root = element("div", "pt-metric-box", element("div", "pt-row", select, value), place, legend);
  const chart = createChart(place, hover);
  place.setAttribute("role", "img");
  select.addEventListener("change", () => choose(select.value));
  return {
    root, chart, select,
    offer(keys) {
      offer(select, keys.map((key) => [key, metricName(key)]));
      select.value = keys.includes(chosen()) ? chosen() : keys[0] ?? "";
      select.setAttribute("aria-label", words("chooseCurve"));
    },
    say(points, point) {
      const key = select.value;
      const text = key.startsWith("*") ? "" : number(point ? point[key] : meanOf(points, key, true));
      say(value, text);
      place.setAttribute("aria-label", `${metricName(key)}: ${text}`);
    },
    set(points, smooth, log, marks) {
      const lines = linesOf(points, select.value, smooth);
      chart.set({ lines, log, marks });
      writeLegend(legend, lines.length > 1 ? lines : []);
    },
  };
}

function writeLegend(legend, lines) {
  show(legend, lines.length > 0);
  legend.replaceChildren(...lines.map(({ name, colour }) => {
    const dot = element("span", "pt-key");
    dot.style.background = colour;
    return element("span", "pt-legend-entry", dot, name);
  }));
}

/** Smoothing, the axis, one more curve. -> {root, set()} */
function chartTools(redraw, addCurve) {
  const range = Object.assign(element("input", "pt-smooth"), { type: "range", min: 0, max: MOST_SMOOTHING });
  const said = element("span", "pt-hint");
  const log = Object.assign(element("input"), { type: "checkbox" });
  const logWords = element("span");
  const more = element("button", "pt-act");
  const root = element("div", "pt-row pt-wrap pt-tools", element("label", "pt-row", said, range),
    element("label", "pt-row", log, logWords), more);
  range.addEventListener("input", () => { smoothing.set(Number(range.value)); redraw(); });
  log.addEventListener("change", () => { logarithmic.set(log.checked); redraw(); });
  more.addEventListener("click", addCurve);
  return {
    root,
    set() {
      range.value = smoothing.get();
      log.checked = logarithmic.get();
      const half = smoothingOf(smoothing.get());
      say(said, half === null ? words("smoothAuto") : words("smooth", { n: half }));
      say(logWords, words("log"));
      say(more, words("moreCurves"));
      more.disabled = further.get().length >= MOST_FURTHER;
    },
  };
}

/** -> {root, set(run, overlaid), destroy}. root has no size of its own: the charts fill what it is given. tools: whether curves
 *  can be smoothed, added and laid over each other. overlaid: other runs, drawn behind the first curve. */
export function createRunView({ tools = false } = {}) {
  let run = null;
  let others = [];
  let hovered = null; // an iteration
  let drawn = "";
  const head = header();
  const now = element("span", "pt-now");
  const start = element("span", "pt-start");
  const reward = element("div", "pt-chart pt-reward");
  const legend = element("div", "pt-legend");
  const happened = element("div", "pt-hint pt-happened");
  const gauge = element("div", "pt-hint pt-gauge");
  const thinned = element("div", "pt-hint");
  const problem = element("div", "pt-message");
  const extra = element("div", "pt-extra");
  const bar = tools ? chartTools(redraw, () => { further.set([...further.get(), ""]); redraw(); }) : null;
  const hover = (iteration) => {
    hovered = iteration;
    if (run) texts();
  };
  const metric = metricChart("pt-select", () => localStorage.getItem(CHOICE), (key) => {
    localStorage.setItem(CHOICE, key);
    redraw();
  }, hover);
  const rewardRow = element("div", "pt-row", now, start);
  const root = element("div", "pt-run", head.root, problem, rewardRow, reward, legend, happened, metric.root, extra, bar?.root,
    tools ? gauge : null, thinned);
  const main = createChart(reward, hover);
  const charts = []; // of further numbers
  reward.setAttribute("role", "img");

  function redraw() {
    drawn = "";
    draw();
  }

  function removable(index) {
    const made = metricChart("pt-choice", () => further.get()[index], (key) => choose(index, key), hover);
    const away = element("button", "pt-act", "×");
    away.addEventListener("click", () => choose(index, null));
    made.root.firstChild.append(away);
    made.away = away;
    return made;
  }

  function choose(index, key) {
    const wanted = further.get();
    if (key === null) wanted.splice(index, 1);
    else wanted[index] = key;
    further.set(wanted);
    redraw();
  }

  /** As many further charts as are wanted. */
  function furtherCharts() {
    const count = tools ? further.get().length : 0;
    while (charts.length > count) {
      const gone = charts.pop();
      gone.chart.destroy();
      gone.root.remove();
    }
    while (charts.length < count) {
      charts.push(removable(charts.length));
      extra.append(charts.at(-1).root);
    }
    for (const { away } of charts) away.setAttribute("aria-label", words("removeCurve"));
    return [metric, ...charts];
  }

  function texts() {
    const point = hovered === null ? null : run.points.find((one) => one.iteration === hovered) ?? null;
    const key = mainOf(run.points);
    say(now, words("mainNow", { name: metricName(key), now: number(meanOf(run.points, key, true)) }));
    const spread = key === "reward_mean" && Number.isFinite(point?.reward_std)
      ? words("spread", { value: number(point.reward_mean), spread: number(point.reward_std) })
      : number(point?.[key]);
    say(start, point ? words("at", { iteration: point.iteration, value: spread })
      : words("rewardStart", { start: number(meanOf(run.points, key, false)) }));
    reward.setAttribute("aria-label", `${now.textContent}, ${words("rewardStart", { start: number(meanOf(run.points, key, false)) })}`);
    for (const one of [metric, ...charts]) one.say(run.points, point);
    tellMark();
  }

  /** What was said or done near the iteration under the mouse. */
  function tellMark() {
    const reach = Math.max(1, Math.round(run.points.length / 60));
    const near = hovered === null ? [] : marks().filter((one) => Math.abs(one.iteration - hovered) <= reach);
    show(happened, near.length > 0);
    say(happened, near.map((one) => `${one.iteration}: ${messageWords(one)}`).join(" · "));
  }

  const marks = () => run.messages.filter((one) => MARKED.has(one.level) && one.iteration > 0);

  /** What ended the run, or else the newest alarm or warning. */
  function showProblem() {
    const newest = (level) => run.messages.findLast((one) => one.level === level);
    const ended = run.status === "error" || (run.status === "paused" && !run.steering);
    const failed = ended && serverWords(newest("error")?.text ?? run.summary);
    const warning = newest("warning");
    const text = failed || (warning ? messageWords(warning) : "");
    show(problem, Boolean(text));
    problem.classList.toggle("pt-error", Boolean(failed) && run.status === "error");
    problem.classList.toggle("pt-warning", !failed || run.status === "paused");
    say(problem, text);
    problem.title = text; // on a small node only its beginning is seen
  }

  function rewardLines(points, key, smooth) {
    const spread = key === "reward_mean" ? "reward_std" : null;
    const beside = spread && points.some((point) => Number.isFinite(point[HELD_OUT]));
    const lines = [lineOf(points, key, { colour: REWARD_COLOUR, spread, smoothing: smooth, name: run.run })];
    if (beside) lines.push(lineOf(points, HELD_OUT, { colour: BESIDE_COLOUR, sparse: true, name: metricName(HELD_OUT) }));
    const overlaid = others.filter((one) => one.points?.length);
    lines.push(...overlaid.map((one, i) => lineOf(one.points, key, { smoothing: smooth, name: one.run,
      colour: LINE_COLOURS[(i + 1) % LINE_COLOURS.length] })));
    reward.title = (beside ? words("heldOutCurve") : "") + words(spread ? "band" : "line");
    writeLegend(legend, overlaid.length ? lines : []);
    return lines;
  }

  function draw() {
    head.set(run);
    const points = run.points ?? [];
    const drawable = points.length > 0;
    for (const part of [rewardRow, reward, metric.root, extra, bar?.root]) if (part) show(part, drawable);
    showProblem();
    show(thinned, run.thinned > 1);
    if (run.thinned > 1) say(thinned, words("thinned", { n: run.thinned }));
    if (!drawable) return;
    const [smooth, log, key] = [smoothingOf(tools ? smoothing.get() : 0), tools && logarithmic.get(), mainOf(points)];
    const shown = furtherCharts();
    for (const one of shown) one.offer(choicesOf(points));
    bar?.set();
    say(gauge, gaugeWords(points));
    texts();
    // the slow clock draws, too: most of the time nothing new has come, and the theme is the same
    const state = [run.run, run.id, points.length, points.at(-1).iteration, key, smooth, log, themeColour("--fg-color"),
      marks().length, ...shown.map((one) => one.select.value), ...others.map((one) => `${one.run} ${one.points?.length}`)].join();
    if (state === drawn) return;
    drawn = state;
    main.set({ lines: rewardLines(points, key, smooth), log, marks: marks() });
    for (const one of shown) one.set(points, smooth, log, marks());
  }

  return {
    root,
    set(shown, overlaid = []) {
      [run, others] = [shown, overlaid];
      draw();
    },
    destroy: () => [main, metric.chart, ...charts.map((one) => one.chart)].forEach((chart) => chart.destroy()),
  };
}

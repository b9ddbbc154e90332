// One number of a run over its iterations, drawn by uPlot: dots, their running mean, and a band where the spread is known.
import uPlot from "./lib/uPlot.esm.js";
import { onResize, themeColour } from "./dom.js";
import { number } from "./words.js";

export const REWARD_COLOUR = "#25a26f";
export const METRIC_COLOUR = "#d9822b";
const BESIDE_COLOUR = "#9a6dd7";
const STEPS = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((n) => n * 10 ** power)); // whole iterations
const DOTS = 300; // above that, single iterations are drawn as a thin line
const FONT = "11px Inter, Arial, sans-serif";
const faint = (colour, alpha) => colour + Math.round(alpha * 255).toString(16).padStart(2, "0");

/** The points' columns for a chart: x, y, running mean, low, high, and another number that is measured now and then. */
export function columns(points, key, spreadKey = null, besideKey = null) {
  const x = points.map((point) => point.iteration);
  const y = points.map((point) => point[key] ?? null);
  const spread = points.map((point) => (spreadKey ? point[spreadKey] ?? null : null));
  const at = (sign) => y.map((value, i) => (value === null || spread[i] === null ? null : value + sign * spread[i]));
  return [x, y, runningMean(y), at(-1), at(1), points.map((point) => (besideKey ? point[besideKey] ?? null : null))];
}

/** Mean over a stretch around each iteration, so that the line runs through its dots without a lag. */
function runningMean(values) {
  const sums = [0];
  const counts = [0];
  for (const value of values) {
    sums.push(sums.at(-1) + (value ?? 0));
    counts.push(counts.at(-1) + (value === null ? 0 : 1));
  }
  const half = Math.max(2, Math.min(50, Math.round(values.length / 24)));
  return values.map((value, i) => {
    const reach = Math.min(half, i, values.length - 1 - i);
    const number = counts[i + reach + 1] - counts[i - reach];
    return value === null ? null : (sums[i + reach + 1] - sums[i - reach]) / number;
  });
}

/** The mean over the first (or last) five points that hold the number. */
export function meanOf(points, key, end) {
  const found = [];
  for (let i = 0; i < points.length && found.length < 5; i++) {
    const value = (end ? points[points.length - 1 - i] : points[i])[key];
    if (Number.isFinite(value)) found.push(value);
  }
  return found.length ? found.reduce((a, b) => a + b) / found.length : null;
}

function options(colour, size, hover) {
  // called at each drawing, so a change of the theme shows with the next one
  const axis = { stroke: () => themeColour("--descrip-text", "#999"), font: FONT,
    grid: { stroke: () => faint("#808080", 0.18), width: 1 }, ticks: { show: false } };
  const few = (chart) => chart.data[0].length <= DOTS;
  return {
    ...size,
    legend: { show: false },
    padding: [8, 14, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: (chart, series) => (series === 2 ? 7 : 0), width: 0, fill: colour }, move: unscaled },
    scales: { x: { time: false, range: (chart, low, high) => [low, Math.max(high, low + 4)] },
      y: { range: (chart, low, high) => padded(low, high) } },
    axes: [{ ...axis, size: 24, incrs: STEPS, values: (chart, ticks) => ticks.map(String) },
      { ...axis, size: 50, space: 22, values: (chart, ticks) => ticks.map(number) }],
    bands: [{ series: [4, 3], fill: faint(colour, 0.16) }],
    series: [{},
      { stroke: (chart) => (few(chart) ? null : faint(colour, 0.35)), width: 1, spanGaps: true,
        points: { show: few, size: 4, fill: faint(colour, 0.55), stroke: "transparent" } },
      { stroke: colour, width: 2, spanGaps: true, points: { show: (chart) => chart.data[0].length < 2, size: 6, fill: colour } },
      { stroke: null, points: { show: false } }, { stroke: null, points: { show: false } },
      { stroke: BESIDE_COLOUR, width: 2, dash: [6, 4], spanGaps: true,
        points: { show: true, size: 7, fill: BESIDE_COLOUR, stroke: "transparent" } }],
    hooks: { setCursor: [(chart) => hover(chart.cursor.idx ?? null)] },
  };
}

/** The graph's canvas scales its nodes, and the mouse comes in pixels of the screen. Reckoned from the event each time,
 *  since uPlot also asks when new data come, with what it was answered before. */
function unscaled(chart, left, top) {
  const mouse = chart.cursor.event;
  if (left < 0 || !Number.isFinite(mouse?.clientX)) return [left, top];
  const box = chart.over.getBoundingClientRect();
  const scale = box.width / (chart.over.clientWidth || 1) || 1;
  return [(mouse.clientX - box.left) / scale, (mouse.clientY - box.top) / scale];
}

function padded(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.1;
  // a share or a distance looks odd with an axis that goes below zero
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

/** A chart that fills `parent`. hover(index or null) is called as the mouse moves. -> {set(columns), destroy} */
export function createChart(parent, colour, hover) {
  let chart = null;
  let data = [[], [], [], [], [], []];
  const size = () => ({ width: Math.max(60, parent.clientWidth), height: Math.max(50, parent.clientHeight) });
  const stop = onResize(parent, () => {
    if (!chart) {
      chart = new uPlot(options(colour, size(), hover), data, parent);
      return;
    }
    chart.setSize(size());
    chart.setData(data); // it may have come while nothing was to be seen
  });
  return {
    set(columnsNow) {
      data = columnsNow;
      chart?.setData(data);
    },
    destroy() {
      stop();
      chart?.destroy();
    },
  };
}

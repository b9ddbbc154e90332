// Numbers of a run over its iterations, drawn by uPlot: dots, their running mean, a band where the spread is known, and marks
// where something was said or done.
import { giveBackLanguage } from "./language.js"; // before uPlot
import uPlot from "./lib/uPlot.esm.js";
import { onResize, themeColour } from "./dom.js";
import { number } from "./words.js";

giveBackLanguage();

export const REWARD_COLOUR = "#25a26f";
export const METRIC_COLOUR = "#d9822b";
/** For further lines: told apart with every common kind of colour blindness (Okabe and Ito). */
export const LINE_COLOURS = ["#9a6dd7", "#56b4e9", "#cc79a7", "#e69f00", "#5f8dd3", "#b8a51e"];
const MARK_COLOURS = { warning: "#d9822b", error: "#dc4c4c", steer: "#5f8dd3" };
const STEPS = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((n) => n * 10 ** power)); // whole iterations
const DOTS = 300; // above that, single iterations are drawn as a thin line
const PER_LINE = 4; // columns: values, running mean, low, high
const FONT = "11px Inter, Arial, sans-serif";
const faint = (colour, alpha) => colour + Math.round(alpha * 255).toString(16).padStart(2, "0");

/** A line of a chart. points: of a run; spread: the number that its band is made of; smoothing: iterations on each side of a
 *  mean, null for as many as suit the length; sparse: measured now and then, drawn without a mean. */
export function lineOf(points, key, { colour, spread = null, smoothing = null, sparse = false, name = "" }) {
  const y = points.map((point) => point[key] ?? null);
  const around = (sign) => points.map((point, i) =>
    (spread && y[i] !== null && Number.isFinite(point[spread]) ? y[i] + sign * point[spread] : null));
  return { colour, sparse, name, x: points.map((point) => point.iteration),
    columns: [y, sparse ? y : runningMean(y, smoothing), around(-1), around(1)] };
}

/** Mean over a stretch around each iteration, so that the line runs through its dots without a lag; at the ends over that part
 *  of the stretch which is there, so that the last point is as smooth as the others and no more. */
export function runningMean(values, smoothing = null) {
  const sums = [0];
  const counts = [0];
  for (const value of values) {
    sums.push(sums.at(-1) + (value ?? 0));
    counts.push(counts.at(-1) + (value === null ? 0 : 1));
  }
  const half = smoothing ?? Math.max(2, Math.min(50, Math.round(values.length / 24)));
  return values.map((value, i) => {
    const [from, to] = [Math.max(0, i - half), Math.min(values.length, i + half + 1)];
    return value === null ? null : (sums[to] - sums[from]) / (counts[to] - counts[from]);
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

/** Lines, each with an x of its own, as the columns of one table. */
function joined(lines) {
  const same = lines.every((line) => line.x.length === lines[0].x.length && line.x.at(-1) === lines[0].x.at(-1));
  if (same) return [lines[0]?.x ?? [], ...lines.flatMap((line) => line.columns)];
  const x = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const place = new Map(x.map((iteration, i) => [iteration, i]));
  const spread = (line) => line.columns.map((column) => {
    const wide = new Array(x.length).fill(null);
    line.x.forEach((iteration, i) => { wide[place.get(iteration)] = column[i]; });
    return wide;
  });
  return [x, ...lines.flatMap(spread)];
}

const few = (chart) => chart.data[0].length <= DOTS;

function seriesOf({ colour, sparse }) {
  const none = { stroke: null, points: { show: false } };
  const dots = { show: true, size: 7, fill: colour, stroke: "transparent" };
  if (sparse) return [none, { stroke: colour, width: 2, dash: [6, 4], spanGaps: true, points: dots }, none, none];
  return [
    { stroke: (chart) => (few(chart) ? null : faint(colour, 0.35)), width: 1, spanGaps: true,
      points: { show: few, size: 4, fill: faint(colour, 0.55), stroke: "transparent" } },
    { stroke: colour, width: 2, spanGaps: true, points: { show: (chart) => chart.data[0].length < 2, size: 6, fill: colour } },
    none, none];
}

function options(lines, log, size, hover, marks) {
  // called at each drawing, so a change of the theme shows with the next one
  const axis = { stroke: () => themeColour("--fg-color", "#999"), font: FONT,
    grid: { stroke: () => faint("#808080", 0.18), width: 1 }, ticks: { show: false } };
  const first = lines[0]?.colour ?? METRIC_COLOUR;
  const y = log ? { distr: log === "signed" ? 4 : 3, asinh: 1e-3 } : { range: (chart, low, high) => padded(low, high) };
  return {
    ...size,
    legend: { show: false },
    padding: [8, 14, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, move: unscaled,
      points: { size: (chart, series) => (series % PER_LINE === 2 ? 7 : 0), width: 0, fill: first } },
    scales: { x: { time: false, range: (chart, low, high) => [low, Math.max(high, low + 4)] }, y },
    axes: [{ ...axis, size: 24, incrs: STEPS, values: (chart, ticks) => ticks.map(String) },
      { ...axis, size: 50, space: 22, values: (chart, ticks) => ticks.map((tick) => (tick === null ? "" : number(tick))) }],
    bands: lines.map((line, i) => ({ series: [PER_LINE * i + 4, PER_LINE * i + 3], fill: faint(line.colour, 0.16) })),
    series: [{}, ...lines.flatMap(seriesOf)],
    hooks: { setCursor: [(chart) => hover(chart.data[0][chart.cursor.idx] ?? null)], draw: [(chart) => drawMarks(chart, marks())] },
  };
}

/** Upright lines where something was said or done. */
function drawMarks(chart, marks) {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.setLineDash([4, 4]);
  for (const { iteration, level } of marks) {
    const x = Math.round(chart.valToPos(iteration, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = MARK_COLOURS[level];
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillRect(x - 3, bbox.top, 7, 5);
  }
  ctx.restore();
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

/** Whether a logarithm can show these lines: "plain" where all is above 0, else "signed". */
function logOf(lines) {
  const below = (value) => value !== null && value <= 0;
  return lines.some((line) => line.columns.slice(0, 2).some((column) => column.some(below))) ? "signed" : "plain";
}

/** A chart that fills `parent`. hover(iteration or null) is called as the mouse moves.
 *  -> {set({lines, log, marks}), destroy}; marks: [{iteration, level}]. */
export function createChart(parent, hover) {
  let chart = null;
  let shown = { lines: [], log: false, marks: [] };
  let built = "";
  const size = () => ({ width: Math.max(60, parent.clientWidth), height: Math.max(50, parent.clientHeight) });

  function draw() {
    const log = shown.log && logOf(shown.lines);
    const kind = [log, ...shown.lines.map((line) => line.colour + line.sparse)].join();
    const data = joined(shown.lines);
    if (chart && kind === built) {
      chart.setData(data);
      return;
    }
    built = kind;
    chart?.destroy();
    chart = new uPlot(options(shown.lines, log, size(), hover, () => shown.marks), data, parent);
  }

  const stop = onResize(parent, () => {
    chart?.setSize(size());
    draw(); // data may have come while nothing was to be seen
  });
  return {
    set(next) {
      shown = next;
      if (chart) draw();
    },
    destroy() {
      stop();
      chart?.destroy();
    },
  };
}

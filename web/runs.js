// The page's picture of every run. Events keep it fresh; whatever they leave out is read from the run's folder.
import { fetchRun, fetchRuns, fetchSteering } from "./api.js";

const MOST_POINTS = 4000; // more than that are read again, thinned by the server
const DRAW_MS = 100; // a fast loop sends hundreds of events a second; nobody sees more than ten pictures
const GAP_MS = 3000;
const SILENCE_MS = 15_000; // a training that says nothing for so long is asked

const runs = new Map();
const views = new Set();
let drawn = 0;
let planned = false;
export let trouble = "";

/** The run of that name, or undefined. Fields: run, id, status, node, iteration, iterations, seconds_left, points,
 *  samples, held_out, messages, reward, modified, thinned, summary, steering, pinned, note, folder, kept. Points are null until they were asked for. */
export const getRun = (name) => runs.get(name);

/** All runs, newest first. */
export const allRuns = () => [...runs.values()].sort((a, b) => b.modified - a.modified);

/** A run of that name is not there any more. */
export function forgetRun(name) {
  runs.delete(name);
  changed();
}

/** The newest run that a node drives; in a subgraph its execution id ends with its own, as in "10:3". */
export const runOfNode = (id) => allRuns().find((run) => run.node?.split(":").at(-1) === String(id));

/** Calls draw() after changes, at most ten times a second and all views in one frame. Returns how to stop. */
export function watch(draw) {
  views.add(draw);
  return () => views.delete(draw);
}

export function changed() {
  if (planned) return;
  planned = true;
  setTimeout(() => requestAnimationFrame(drawAll), Math.max(0, drawn + DRAW_MS - performance.now()));
}

function drawAll() {
  planned = false;
  drawn = performance.now();
  for (const draw of views) draw();
}

function make(name) {
  const run = { run: name, id: null, status: "unknown", node: null, iteration: 0, iterations: 0, seconds_left: null,
    points: null, samples: [], held_out: [], messages: [], reward: null, modified: Date.now() / 1000, thinned: 1, summary: "",
    steering: null, pinned: false, note: "", folder: "", kept: [], heard: performance.now(), read: -GAP_MS, hole: false, doubted: false, askedAt: -GAP_MS, loading: null, again: false, pending: [] };
  runs.set(name, run);
  return run;
}

const last = (run) => run.points?.at(-1)?.iteration ?? 0;

/** Reads the run's folder; the points that came meanwhile are added after it. Calls during a reading read once more. */
export function load(name) {
  const run = runs.get(name) ?? make(name);
  if (run.loading) {
    run.again = true;
    return run.loading;
  }
  run.points ??= [];
  run.loading = read(run).finally(() => {
    run.loading = null;
    changed();
    if (run.again) {
      run.again = false;
      load(name);
    }
  });
  return run.loading;
}

/** The newest iteration up to which every point is known; 0 where the points have to be read whole. */
function wholeUntil(run) {
  if (run.doubted || run.thinned > 1 || run.points.length > MOST_POINTS || !run.id) return 0;
  let until = 0;
  for (const { iteration } of run.points) {
    if (iteration !== until + 1) break;
    until = iteration;
  }
  return until;
}

async function read(run) {
  run.pending = [];
  try {
    const [since, id] = [wholeUntil(run), run.id];
    const known = run.points.slice(0, since);
    let found = await fetchRun(run.run, since);
    // begun anew, or cut back: nothing that is known holds any more
    if (since && (found.id !== id || found.iteration < since || found.thinned > 1)) found = await fetchRun(run.run);
    else if (since) found.points = [...known, ...found.points];
    Object.assign(run, found, { hole: false, doubted: false });
    run.heard = performance.now();
  } catch (error) {
    // a run that has only just been named has no folder yet
    if (runs.get(run.run) === run && run.status === "unknown") runs.delete(run.run);
    console.debug("PostTrain:", error.message);
  }
  run.read = performance.now();
  for (const event of run.pending) addPoint(run, event);
}

/** The connection was down: what is known may have been cut back meanwhile, and is read whole. */
export function loadAnew() {
  for (const run of runs.values()) run.doubted = true;
  return loadAll();
}

/** Reads the list of runs again; the runs whose points are in use are read whole. */
export async function loadAll() {
  try {
    const found = await fetchRuns();
    trouble = "";
    const names = new Set(found.map((run) => run.run));
    for (const run of allRuns()) if (!names.has(run.run) && run.status !== "running") runs.delete(run.run);
    for (const one of found) {
      const run = runs.get(one.run) ?? make(one.run);
      const other = run.hole || run.id !== one.id || last(run) !== one.iteration || run.status !== one.status;
      Object.assign(run, one);
      if (run.points && other) load(one.run);
    }
  } catch (error) {
    trouble = error.message;
  }
  changed();
}

function addPoint(run, event) {
  const known = last(run);
  if (event.iteration <= known) return;
  if (event.iteration > known + 1) run.hole = true; // events were missed
  run.points.push({ iteration: event.iteration, seconds: event.seconds, ...event.metrics });
  if (run.points.length > MOST_POINTS) run.hole = true;
}

/** Whether what can be asked of a training is not known, or may have been done meanwhile. */
const steeringIsOld = ({ steering, iteration }) => !steering || steering.asked.length > 0
  || (iteration < 20 && !Object.keys(steering.numbers).length);

async function askSteering(run) {
  run.askedAt = performance.now();
  try {
    run.steering = await fetchSteering(run.run);
    changed();
  } catch (error) {
    console.debug("PostTrain:", error.message);
  }
}

/** Reads what was missed; not for every event, since a folder that could not be written will never hold it. */
function fillHole(run) {
  if (run.points && steeringIsOld(run) && performance.now() - run.askedAt > GAP_MS) askSteering(run);
  if (run.hole && !run.loading && performance.now() - run.read > GAP_MS) load(run.run);
}

const HANDLERS = {
  start(run, event) {
    Object.assign(run, { status: "running", summary: "", iteration: event.iteration });
    run.points &&= run.points.filter((point) => point.iteration <= event.iteration);
    load(run.run); // the folder may have been cut back, or begun anew
    loadAll();
  },
  iteration(run, event) {
    Object.assign(run, { status: "running", iteration: event.iteration, seconds_left: event.seconds_left,
      reward: event.metrics?.reward_mean ?? run.reward });
    if (run.loading) run.pending.push(event);
    else if (run.points) addPoint(run, event);
    fillHole(run);
  },
  samples(run, event) {
    const list = event.held_out ? "held_out" : "samples";
    run[list] = [...run[list].filter((s) => s.iteration !== event.iteration),
      { iteration: event.iteration, file: event.file }].sort((a, b) => a.iteration - b.iteration);
  },
  message(run, event) {
    run.messages.push({ level: "info", ...event });
    if (event.level === "steer" && run.points) askSteering(run);
  },
  state(run, event) {
    run.status = event.status;
    askSteering(run);
  },
  error: (run, event) => run.messages.push({ text: event.text, level: "error" }),
  end(run, event) {
    Object.assign(run, { status: event.status, iteration: event.iteration, seconds_left: null, steering: null,
      summary: event.text ?? "" });
    // the last word: no later event will show what is missing, what a reading under way saw too early, or the checkpoints
    if (run.points) load(run.run);
  },
};

/** Takes one event of the pack into the picture. */
export function receive(kind, event) {
  const run = runs.get(event.run) ?? make(event.run);
  run.heard = performance.now();
  run.modified = Date.now() / 1000;
  if (event.iterations) run.iterations = event.iterations;
  if (event.node && kind !== "error") run.node = String(event.node);
  HANDLERS[kind](run, event);
  changed();
}

/** For a slow clock: what was missed is read, and a silent training may have ended while the connection was down. */
export function askTheSilent() {
  for (const run of runs.values()) {
    if (run.status !== "running" || run.loading) continue;
    if (performance.now() - run.heard > SILENCE_MS) load(run.run);
    else fillHole(run);
  }
}

// The live view on Loop End and Train.
import { app } from "../../scripts/app.js";
import { element, say, show } from "./dom.js";
import { createRunView } from "./run_view.js";
import { getRun, load, runOfNode, watch } from "./runs.js";
import { createSamples } from "./samples.js";
import { words } from "./words.js";

const DRIVERS = new Set(["PTLoopEnd", "PTTrain"]);
const LEAST_HEIGHT = 300;
const FIRST_SIZE = [420, 680];

export const drivesRun = (node) => DRIVERS.has(node.comfyClass);

/** The run_name that the user has typed for this node's loop; null where it comes by wire or is out of sight. */
function typedName(node) {
  const start = node.comfyClass === "PTTrain" ? node : node.getInputNode(node.findInputSlot("loop"));
  const wired = start?.inputs?.find((input) => input.widget?.name === "run_name")?.link;
  if (!start || (wired !== null && wired !== undefined)) return null;
  return start.widgets?.find((widget) => widget.name === "run_name")?.value ?? null;
}

function shownRun(node) {
  const name = typedName(node);
  return { name, run: name === null ? runOfNode(node.id) : getRun(name) };
}

/** Adds the view to the node. open(run name): shows a run in the side bar. */
export function addRunView(node, open) {
  const view = createRunView();
  const samples = createSamples({ slider: false });
  const empty = element("div", "pt-empty");
  // Vue nodes let what is called widget-expands fill the node
  const root = element("div", "pt-node widget-expands", empty, view.root, samples.root);
  let asked = null;

  const draw = () => {
    if (!root.isConnected) return;
    const { name, run } = shownRun(node);
    if (run && asked !== run.run) {
      asked = run.run;
      if (!run.points) load(run.run);
    }
    show(empty, !run);
    show(view.root, Boolean(run));
    say(empty, name === null ? words("unnamed") : words("waiting", { run: name }));
    if (run) view.set(run);
    samples.set(run ?? null);
  };

  samples.root.title = words("openRun");
  samples.root.addEventListener("click", () => open(shownRun(node).run.run));
  root.addEventListener("wheel", zoomCanvas, { passive: false });
  const widget = node.addDOMWidget("run_view", "PT_RUN_VIEW", root, {
    serialize: false, hideOnZoom: false, getMinHeight: () => LEAST_HEIGHT });
  widget.serialize = false; // and not in the workflow file either: two different flags of the page
  // the picture of the curve, made for those who do not see this view: not a second time below it
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
  const stop = watch(draw);
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    stop();
    view.destroy();
    return removed?.apply(this, args);
  };
  node.setSize([Math.max(node.size[0], FIRST_SIZE[0]), Math.max(node.size[1], FIRST_SIZE[1])]);
  // the element enters the page after this call
  setTimeout(draw, 200);
}

/** The wheel zooms the graph, as it does over any other part of a node. Vue nodes hand it on by themselves. */
function zoomCanvas(event) {
  if (event.target.closest("[data-node-id]")) return;
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}

/** The node of an execution id; "10:3" is node 3 in the subgraph of node 10. */
function findNode(id) {
  let graph = app.graph;
  const path = String(id).split(":");
  for (const part of path.slice(0, -1)) graph = graph?.getNodeById(Number(part))?.subgraph;
  return graph?.getNodeById(Number(path.at(-1))) ?? null;
}

const marked = new Set();

/** Frames the node that failed in red, until the next start. */
export function markFailed(id) {
  const node = findNode(id);
  if (!node) return;
  node.has_errors = true;
  marked.add(node);
  app.canvas.setDirty(true, true);
}

export function clearMarks() {
  for (const node of marked) node.has_errors = false;
  if (marked.size) app.canvas.setDirty(true, true);
  marked.clear();
}

// Newer pages show a workflow as an app, without graph and side bar: what went wrong lies behind a button there, so it is said here.
import { app } from "../../scripts/app.js";
import { listenForFailures } from "./api.js";
import { errorThatStays } from "./dialogs.js";
import { serverWords } from "./words.js";

const FIRST = [1, 41]; // the first page that shows an app's own widgets; apps of earlier ones show every widget of the graph
const PANEL = "[data-testid=linear-widgets]"; // an app's widgets
const MOST_LETTERS = 600;

let takeBack = []; // of what was said
let refusals = null;

const isOurs = ({ comfyClass, subgraph }) => comfyClass?.startsWith("PT") || subgraph?.nodes.some(isOurs);
const speaks = () => document.querySelector(PANEL) && app.graph.nodes.some(isOurs);

/** Hook beforeConfigureGraph: on a page with the early kind of app, a workflow with an app of its own opens as a graph. */
export function openAsGraphOnEarlyPages({ extra }) {
  const [major, minor] = (window.__COMFYUI_FRONTEND_VERSION__ ?? "0.0").split(".").map(Number);
  const early = major < FIRST[0] || (major === FIRST[0] && minor < FIRST[1]);
  if (early && extra?.linearData) delete extra.linearMode;
}

/** Says in an app what a node has failed with; what was said is taken back when the next workflow is queued. */
export function listenInApps() {
  listenForFailures(() => {
    takeBack.forEach((each) => each());
    takeBack = [];
    refusals = null;
  }, ({ node_id, node_type, exception_message }) => say(node_id, node_type, exception_message));
}

/** For a slow clock: inputs that the server has refused, of which the page has no event. */
export function sayRefusals() {
  const found = app.lastNodeErrors;
  if (!found || refusals) return;
  refusals = found;
  for (const [id, { class_type, errors }] of Object.entries(found)) say(id, class_type, [...new Set(errors.map(wordsOf))].join("\n"));
}

/** The host writes the input's name before a node's own words, once for each of its inputs. */
function wordsOf({ message, details, extra_info: info }) {
  const start = `${info?.input_name} - `;
  return details?.startsWith(start) ? details.slice(start.length) : [message, details].filter(Boolean).join(": ");
}

function say(id, kind, words) {
  if (!speaks()) return;
  takeBack.push(errorThatStays(app.graph.getNodeById(id)?.title ?? kind, serverWords(words.trim()).slice(0, MOST_LETTERS)));
}

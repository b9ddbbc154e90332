// Back to an earlier iteration of a run: its number is set on the node that trains the run, and the next Run goes on from there.
import { app } from "../../scripts/app.js";
import { toast } from "./dialogs.js";
import { element, offer, say, show } from "./dom.js";
import { words } from "./words.js";

const STARTS = new Set(["PTLoopStart", "PTTrain"]);
const [START_OVER, CONTINUE] = ["start over", "continue"]; // of when_run_exists
const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** Every node of the graph, those inside of subgraphs too. */
function* nodesOf(graph) {
  for (const node of graph.nodes) {
    yield node;
    if (node.subgraph) yield* nodesOf(node.subgraph);
  }
}

function setWidget(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}

/** Sets the iteration on the nodes that train this run, which then do not start over. -> how many there are */
function setBack(run, iteration) {
  const found = [...nodesOf(app.rootGraph ?? app.graph)]
    .filter((node) => STARTS.has(node.comfyClass) && widgetOf(node, "run_name")?.value === run && widgetOf(node, "continue_from"));
  for (const node of found) {
    setWidget(widgetOf(node, "continue_from"), iteration);
    const exists = widgetOf(node, "when_run_exists");
    if (exists?.value === START_OVER) setWidget(exists, CONTINUE);
  }
  app.graph.setDirtyCanvas(true, true);
  return found.length;
}

/** -> {root, set(run)}. Seen where there is more than the newest checkpoint, and nobody trains the run. */
export function createGoBack() {
  let run = null;
  const select = element("select", "pt-iterations");
  const button = element("button", "pt-act");
  const root = element("div", "pt-row pt-wrap pt-back", button, select);
  button.addEventListener("click", () => {
    const facts = { run: run.run, iteration: select.value };
    if (setBack(run.run, Number(select.value))) toast("success", words("goBack"), words("goBackSet", facts));
    else toast("warn", words("goBack"), words("goBackNowhere", facts));
  });
  return {
    root,
    set(next) {
      if (run?.run !== next.run) select.replaceChildren();
      run = next;
      const kept = (run.kept ?? []).slice(0, -1).toReversed();
      show(root, kept.length > 0 && !["running", "paused", "elsewhere"].includes(run.status));
      say(button, words("goBack"));
      select.setAttribute("aria-label", words("goBack"));
      offer(select, kept.map((iteration) => [iteration, iteration]));
    },
  };
}

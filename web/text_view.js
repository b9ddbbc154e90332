// Shows the words and tables that a node answers with, on the node itself.
import { element } from "./dom.js";
import { copy } from "./shelf.js";
import { headWords, serverWords, words } from "./words.js";

const LEAST_HEIGHT = 50;
const LINE = 17, MOST_LINES = 12; // the height of a line; lines that a node grows by at the most

/** Lets the node show the texts of its answers; the view comes with the first of them. */
export function addTextView(node) {
  const executed = node.onExecuted;
  let root = null;
  node.onExecuted = function (output, ...rest) {
    executed?.call(this, output, ...rest);
    if (!output?.text?.length) return;
    const texts = output.text.filter((text) => text);
    root ??= attach(node, texts.join("\n").split("\n").length);
    root.replaceChildren(...texts.map(part), ...(output.posttrain_file ?? []).map(place));
  };
}

function attach(node, lines) {
  const root = element("div", "pt-answer widget-expands");
  // the wheel scrolls a long answer, and not the graph behind it
  root.addEventListener("wheel", (event) => event.stopPropagation());
  const before = node.computeSize()[1];
  const widget = node.addDOMWidget("answer", "PT_ANSWER", root, {
    serialize: false, hideOnZoom: false, getMinHeight: () => LEAST_HEIGHT });
  widget.serialize = false; // and not in the workflow file either: two different flags of the page
  const room = Math.max(LEAST_HEIGHT, LINE * Math.min(lines, MOST_LINES));
  node.setSize([node.size[0], Math.max(node.size[1], before + room + LINE)]);
  return root;
}

const part = (text) => (text.includes("\t") ? table(text) : element("div", "pt-words", serverWords(text)));

/** Where a file lies, in full, to be copied. */
function place(path) {
  const button = element("button", "pt-act", words("copyPath"));
  button.addEventListener("click", () => copy(path));
  return element("div", "pt-words", words("savedAt", { path }), " ", button);
}

/** Tab-separated lines, the first of them the heads. */
function table(text) {
  const [heads, ...rows] = text.trimEnd().split("\n").map((line) => line.split("\t"));
  const head = element("thead", "", element("tr", "", ...heads.map((cell) => element("th", "", headWords(cell)))));
  const body = element("tbody", "", ...rows.map(([about, ...cells]) =>
    element("tr", "", ...[headWords(about), ...cells].map((cell) => element("td", "", cell)))));
  return element("table", "pt-table", head, body);
}

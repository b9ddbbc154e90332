// The nodes in the user's language, from locales/. ComfyUI does the same by itself, but its pages of early 2026 and before
// load their own words of a language after those of the packs, over them.
import { fetchTranslations } from "./api.js";
import { blockHint, blockLabel, choiceName, isBlockLabel, locale } from "./words.js";

const OTHER_BLOCKS = ["Before and after", "Before and after training"]; // of nodes of the host alone

let texts = {};

/** Hook addCustomNodeDefs: puts names, descriptions and tooltips into the definitions of the pack's nodes. */
export async function translateDefinitions(definitions) {
  const language = locale();
  if (language === "en") return;
  const found = (await fetchTranslations())[language] ?? {};
  texts = found.nodeDefs ?? {};
  for (const [id, words] of Object.entries(texts)) {
    const definition = definitions[id];
    if (!id.startsWith("PT") || !definition) continue;
    definition.display_name = words.display_name ?? definition.display_name;
    definition.description = words.description ?? definition.description;
    definition.category = definition.category.split("/").map((part) => found.nodeCategories?.[part] ?? part).join("/");
    for (const kind of ["required", "optional"]) {
      for (const [name, spec] of Object.entries(definition.input?.[kind] ?? {})) {
        const tooltip = words.inputs?.[name]?.tooltip;
        if (tooltip) spec[1] = { ...spec[1], tooltip };
      }
    }
  }
}

/** Hook nodeCreated: puts the names of inputs, widgets and outputs on a node of the pack. */
export function translateNode(node) {
  const words = texts[node.comfyClass];
  if (!words) return;
  // not a slot's label, which would go into the saved workflow and stay there in every language
  for (const input of node.inputs ?? []) input.localized_name = words.inputs?.[input.name]?.name ?? input.localized_name;
  for (const widget of node.widgets ?? []) widget.label = words.inputs?.[widget.name]?.name ?? widget.label;
  for (const [index, { name }] of Object.entries(words.outputs ?? {})) {
    if (node.outputs?.[index]) node.outputs[index].localized_name = name;
  }
}

/** Hook nodeCreated: widgets of the pack's nodes carry their tooltips; newer pages give them on to a subgraph that shows the widget. */
export function addTooltips(node) {
  if (!node.comfyClass?.startsWith("PT")) return;
  for (const widget of node.widgets ?? []) widget.tooltip ??= tooltipOf(node, widget.name);
}

function tooltipOf(node, name) {
  const { required, optional } = node.constructor.nodeData?.input ?? {};
  return { ...required, ...optional }[name]?.[1]?.tooltip;
}

/** Hook nodeCreated: tooltips and words of the user's language for a block, or another subgraph around nodes of the pack. */
export function introduceBlock(node, complete = false) {
  const ours = ({ comfyClass }) => comfyClass?.startsWith("PT");
  if (!OTHER_BLOCKS.includes(node.subgraph?.name) && !node.subgraph?.nodes.some(ours)) return;
  // not a slot's label, as above
  for (const slot of [...node.inputs, ...node.outputs]) slot.localized_name = blockLabel(slot.name) ?? slot.localized_name;
  introduceWidgets(node); // pages that draw nodes with Vue copy tooltips from the nodes inside before the widgets are there
  if (complete) return;
  setTimeout(() => introduceWidgets(node)); // its widgets come a little later
  const entered = node.onMouseEnter;
  node.onMouseEnter = function (...given) {
    explainWidgets(this); // newer pages make them anew from time to time, without what was put on them
    return entered?.apply(this, given);
  };
}

function introduceWidgets(node) {
  explainWidgets(node);
  for (const input of node.subgraph.inputs) {
    const { inside, widget } = promoted(node, input);
    if (!inside || !widget) continue;
    if (inside.comfyClass?.startsWith("PT")) nameChoices(widget);
    nameWidget(node, input, widget);
  }
}

function explainWidgets(node) {
  for (const input of node.subgraph.inputs) {
    const { inside, shown, widget } = promoted(node, input);
    if (!inside) continue;
    if (OTHER_BLOCKS.includes(node.subgraph.name)) shown.tooltip ??= blockHint(input.name);
    if (!widget) continue;
    widget.tooltip ??= shown.tooltip ?? tooltipOf(inside, shown.name);
    if (widget.element) widget.element.title ||= widget.tooltip ?? "";
  }
}

/** The node inside that an input leads to, its widget that the subgraph shows, and the subgraph's own; nothing for a socket. */
function promoted(node, { name, linkIds }) {
  const link = node.subgraph.links.get(linkIds[0]), inside = node.subgraph.getNodeById(link?.target_id);
  const source = inside?.inputs[link.target_slot].widget?.name, shown = inside?.widgets?.find((one) => one.name === source);
  return shown ? { inside, shown, widget: node.widgets?.find((one) => one.name === name) } : {};
}

/** Unless the user has given it another name. No label stays on a slot, as above. */
function nameWidget(node, input, widget) {
  const slot = node.inputs.find((one) => one.name === input.name), label = blockLabel(input.name);
  if (!label || ![input, slot].every((one) => isBlockLabel(input.name, one.label))) return;
  // newer pages keep what an app calls a text box apart from the box, and tell it only of a renamed input
  if (slot.widgetId) node.subgraph.renameInput(input, label);
  widget.label = label;
  input.label = slot.label = undefined;
}

/** Hook nodeCreated: what menus offer in the user's language; their values stay what workflows know. */
export function translateMenus(node) {
  if (node.comfyClass?.startsWith("PT")) for (const widget of node.widgets ?? []) nameChoices(widget);
}

function nameChoices(widget) {
  if (widget.type === "combo" && locale().startsWith("zh")) widget.options.getOptionLabel = choiceName;
}

/** Hook afterConfigureGraph: an app's panel is drawn once, so what it shows is named before. The saved names stay English. */
export function introduceApp(graph) {
  for (const node of graph.nodes.filter(({ subgraph }) => subgraph)) introduceBlock(node, true);
  for (const [id, name] of graph.extra?.linearData?.inputs ?? []) {
    const node = graph.getNodeById(id), widget = node?.widgets?.find((one) => one.name === name);
    const { label } = node?.inputs?.find((one) => one.name === name) ?? {};
    if (widget && label) widget.label = blockLabel(label) ?? label;
  }
}

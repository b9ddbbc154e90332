// The nodes in the user's language, from locales/. ComfyUI does the same by itself, but its pages of early 2026 and before
// load their own words of a language after those of the packs, over them.
import { fetchTranslations } from "./api.js";
import { locale } from "./words.js";

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

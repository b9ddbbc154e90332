// The notes, groups and titles of the pack's templates in the user's language, whichever language they were saved in.
import { fetchWords } from "./said.js";
import { locale } from "./words.js";

const FILE = "./chinese_templates.json"; // English -> Chinese: a line of a note, a group's title, a node's
const NOTE = "MarkdownNote";
const HAN = /[\u4e00-\u9fff]/;
let loading;

/** Hook afterConfigureGraph: a workflow that has been made from a template. Titles and lines that the user has written stay. */
export async function sayTemplate(graph) {
  const chinese = locale().startsWith("zh"), notes = graph.nodes.filter(({ type }) => type === NOTE);
  if (!notes.length || (!chinese && !notes.some((note) => HAN.test(textOf(note))))) return;
  loading ??= fetchWords(FILE);
  const pairs = Object.entries(await loading).map((pair) => (chinese ? pair : pair.toReversed()));
  const said = new Map(pairs);
  const ours = notes.filter((note) => textOf(note).split("\n").some((line) => said.has(line)));
  if (!ours.length) return;
  for (const note of ours) note.widgets[0].value = textOf(note).split("\n").map((line) => said.get(line) ?? line).join("\n");
  for (const { nodes, groups } of [graph, ...(graph.subgraphs?.values() ?? [])]) {
    for (const one of [...nodes, ...groups]) if (said.has(one.title)) one.title = said.get(one.title);
  }
}

const textOf = (note) => String(note.widgets?.[0]?.value ?? "");

// What can be done with a run that lies in its folder: a name, a pin, a note, its table, its workflow, the trash.
import { app } from "../../scripts/app.js";
import { csvUrl, fetchWorkflow, moveRun } from "./api.js";
import { confirmed, prompted, toast } from "./dialogs.js";
import { element, say } from "./dom.js";
import { createGoBack } from "./go_back.js";
import { forgetRun, loadAll } from "./runs.js";
import { words } from "./words.js";

const HERE = new Set(["localhost", "127.0.0.1", "[::1]"]);
const OPENED_BY = { tensorboard: "tensorboard --logdir", wandb: "wandb sync" };

/** Whether there is a graph to set something on: not on the page at /posttrain. */
export const hasGraph = () => Boolean(app.graph);

/** Copies a text; where the page may not, it is shown to be copied by hand. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("success", words("copied"), text);
  } catch {
    window.prompt(words("copyByHand"), text);
  }
}

async function rename(run, moved) {
  const name = await prompted(words("rename"), words("renameTo", run), run.run);
  if (!name || name === run.run) return;
  const { run: now } = await moveRun(run.run, "rename", { name });
  forgetRun(run.run);
  moved(now);
}

async function remove(run, moved) {
  if (!await confirmed(words("deleteRun"), words("deleteSure", run))) return;
  await moveRun(run.run, "delete", { delete: run.run });
  forgetRun(run.run);
  moved(null);
}

async function note(run) {
  const text = await prompted(words("note"), words("noteOf", run), run.note ?? "");
  if (text !== null && text !== undefined) await moveRun(run.run, "note", { note: text });
}

async function openWorkflow(run) {
  await app.loadGraphData(await fetchWorkflow(run.run), true, true, run.run);
}

function download(run) {
  const link = Object.assign(document.createElement("a"), { href: csvUrl(run.run), download: `${run.run}.csv` });
  link.click();
}

/** The run in another tool's files; the command that opens them is copied. */
async function takeOut(run, tool) {
  const { folder } = await moveRun(run.run, "export", { to: tool });
  await copy(`${OPENED_BY[tool]} "${folder}"`);
}

/** -> {root, set(run)}. moved(name or null): the run is called otherwise now, or is gone. */
export function createShelf(moved) {
  let run = null;
  const acts = {
    pin: () => moveRun(run.run, "pin", { pinned: !run.pinned }),
    rename: () => rename(run, moved),
    note: () => note(run),
    csv: () => download(run),
    tensorboard: () => takeOut(run, "tensorboard"),
    wandb: () => takeOut(run, "wandb"),
    openWorkflow: () => openWorkflow(run),
    openFolder: () => moveRun(run.run, "open", { open: run.run }),
    copyFolder: () => copy(run.folder),
    deleteRun: () => remove(run, moved),
  };
  if (!hasGraph()) delete acts.openWorkflow;
  if (!HERE.has(location.hostname)) delete acts.openFolder; // it would open on the other machine
  const buttons = Object.keys(acts).map((key) => Object.assign(element("button", "pt-act"), { key }));
  for (const button of buttons) button.addEventListener("click", () => act(button.key));
  const back = createGoBack();
  const menu = element("details", "pt-shelf", element("summary", "pt-summary"), element("div", "pt-row pt-wrap", ...buttons), hasGraph() ? back.root : null);
  const written = element("div", "pt-note");

  async function act(key) {
    try {
      await acts[key]();
    } catch (error) {
      toast("error", run.run, error.message);
    }
    await loadAll();
  }

  return {
    root: element("div", "", written, menu),
    set(next) {
      run = next;
      say(menu.firstChild, words("shelf"));
      say(written, run.note ?? "");
      back.set(run);
      for (const button of buttons) say(button, words(button.key === "pin" && run.pinned ? "unpin" : button.key));
      buttons.at(-1).disabled = ["running", "elsewhere"].includes(run.status);
    },
  };
}

// The pack on the page: live curves on Loop End and Train, a side bar of all runs, messages as toasts.
import { app } from "../../scripts/app.js";
import { listenForForeignAddresses } from "./address.js";
import { listenInApps, openAsGraphOnEarlyPages, sayRefusals } from "./app_mode.js";
import { listen, listenForQuestions, listenForRunQuestions } from "./api.js";
import { toast } from "./dialogs.js";
import { DONE_SETTINGS, tellDone } from "./done.js";
import { addRunView, clearMarks, drivesRun, markFailed } from "./node_view.js";
import { introduce, loadRunQuestions } from "./question.js";
import { loadQuestions } from "./rate.js";
import { askTheSilent, changed, getRun, loadAll, loadAnew, receive } from "./runs.js";
import { destroySidebar, renderSidebar, selectRun } from "./sidebar.js";
import { sayTemplate } from "./template_words.js";
import { addTextView } from "./text_view.js";
import { addTooltips, introduceApp, introduceBlock, translateDefinitions, translateMenus, translateNode } from "./translate.js";
import { loadWords, messageWords, serverWords, words } from "./words.js";

const TAB = "posttrain";
const TICK_MS = 1000;
const SEVERITY = { info: "info", warning: "warn", error: "error", done: "success", cancelled: "info", steer: "info" };
const severity = (level) => SEVERITY[level] ?? "info"; // of a toast

const style = Object.assign(document.createElement("link"), { rel: "stylesheet" });
style.href = new URL("./style.css", import.meta.url).href;
const chartStyle = Object.assign(document.createElement("link"), { rel: "stylesheet" });
chartStyle.href = new URL("./lib/uPlot.css", import.meta.url).href;
document.head.append(chartStyle, style);

/** Whether an alarm of that kind was shown before: one toast says to look at the samples, the side bar lists them all. */
const saidAlike = ({ run, alarm }) => alarm && getRun(run).messages.filter((message) => message.alarm === alarm).length > 1;

function onEvent(kind, event) {
  receive(kind, event);
  if (kind === "start") clearMarks();
  if (kind === "error") markFailed(event.node);
  if (kind === "message" && !saidAlike(event)) toast(severity(event.level), event.run, messageWords(event));
  if (kind === "end") tellDone(event);
  // an error has ComfyUI's own dialog
  const told = kind === "end" && event.text && !["error", "paused"].includes(event.status);
  if (told) toast(severity(event.status), event.run, serverWords(event.text));
}

function openRun(run) {
  selectRun(run);
  if (app.extensionManager.sidebarTab.activeSidebarTabId !== TAB) app.extensionManager.sidebarTab.toggleSidebarTab(TAB);
}

/** Pages that draw nodes with Vue show three decimals where they are not told otherwise: 0.0002 as 0. */
function showAllDecimals(node) {
  for (const { options } of node.widgets ?? []) if (options?.precision > 3) options.maxFractionDigits ??= options.precision;
}

app.registerExtension({
  name: "posttrain.page",
  settings: DONE_SETTINGS,
  commands: [{ id: "posttrain.runs", label: "PostTrain: runs", icon: "pi pi-chart-line",
    function: () => app.extensionManager.sidebarTab.toggleSidebarTab(TAB) }],

  async setup() {
    app.extensionManager.registerSidebarTab({ id: TAB, icon: "pi pi-chart-line", title: "PostTrain",
      tooltip: words("tab"), type: "custom", render: renderSidebar, destroy: destroySidebar });
    await loadWords();
    listen(onEvent, loadAnew);
    listenForQuestions(loadQuestions);
    listenForRunQuestions(loadRunQuestions);
    listenForForeignAddresses();
    listenInApps();
    // a slow clock: names that were edited, "3 min ago", a training that has gone silent
    setInterval(() => {
      askTheSilent();
      introduce();
      sayRefusals();
      if (!document.hidden) changed();
    }, TICK_MS);
    await Promise.all([introduce(), loadAll(), loadQuestions(), loadRunQuestions()]);
  },

  addCustomNodeDefs: translateDefinitions,

  beforeConfigureGraph: openAsGraphOnEarlyPages,

  afterConfigureGraph() {
    introduceApp(app.graph);
    return sayTemplate(app.graph);
  },

  nodeCreated(node) {
    if (node.comfyClass?.startsWith("PT")) showAllDecimals(node);
    addTooltips(node);
    introduceBlock(node);
    translateNode(node);
    translateMenus(node);
    if (drivesRun(node)) addRunView(node, openRun);
    else if (node.comfyClass?.startsWith("PT")) addTextView(node);
  },
});

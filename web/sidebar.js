// The side bar tab: every run there is, and one of them in full.
import { meanOf } from "./charts.js";
import { element, say, show } from "./dom.js";
import { createRunView } from "./run_view.js";
import { allRuns, getRun, load, loadAll, trouble, watch } from "./runs.js";
import { createSamples } from "./samples.js";
import { ago, messageWords, number, statusWords, words } from "./words.js";

let selected = null; // what the user picked; null: the newest
let current = null;

function runButton(pick) {
  const dot = element("span", "pt-dot");
  const name = element("span", "pt-name");
  const when = element("span", "pt-left");
  const line = element("div", "pt-hint pt-line");
  const root = element("button", "pt-run-button", element("div", "pt-row", dot, name, when), line);
  let shown = null;
  root.addEventListener("click", () => pick(shown));
  return {
    root,
    set(run, picked) {
      shown = run.run;
      dot.dataset.status = run.status;
      say(name, run.run);
      say(when, run.status === "running" ? "" : ago(run.modified));
      const now = run.points?.length ? meanOf(run.points, "reward_mean", true) : run.reward;
      const reward = Number.isFinite(now) ? ` · ${words("rewardNow", { now: number(now) })}` : "";
      say(line, statusWords(run) + reward);
      root.classList.toggle("pt-selected", picked);
    },
  };
}

function runList(pick) {
  const buttons = [];
  const root = element("div", "pt-list");
  return {
    root,
    set(runs, current) {
      while (buttons.length > runs.length) buttons.pop().root.remove();
      while (buttons.length < runs.length) {
        buttons.push(runButton(pick));
        root.append(buttons.at(-1).root);
      }
      runs.forEach((run, i) => buttons[i].set(run, run === current));
    },
  };
}

function messageList() {
  const title = element("div", "pt-title");
  const list = element("div", "pt-messages");
  const root = element("div", "", title, list);
  let shown = "";
  return {
    root,
    set(messages) {
      say(title, words("messages"));
      show(root, messages.length > 0);
      const key = messages.map((message) => message.text).join("\n");
      if (key === shown) return;
      shown = key;
      list.replaceChildren(...messages.toReversed()
        .map((message) => element("div", `pt-message pt-${message.level}`, messageWords(message))));
    },
  };
}

/** Fills the tab. ComfyUI calls it anew each time that the tab opens. */
export function renderSidebar(parent) {
  destroySidebar();
  const hint = element("div", "pt-empty");
  const title = element("div", "pt-title");
  const view = createRunView();
  const samples = createSamples({ slider: true });
  const messages = messageList();
  const list = runList(selectRun);
  const summary = element("div", "pt-hint");
  const detail = element("div", "pt-detail", view.root, summary, samples.root, messages.root);
  parent.replaceChildren(element("div", "pt-sidebar", hint, title, list.root, detail));

  const draw = () => {
    const runs = allRuns();
    const run = getRun(selected) ?? runs[0];
    if (run && !run.points) load(run.run);
    say(title, words("runs"));
    say(hint, trouble ? words("failed", { reason: trouble }) : words("none"));
    show(hint, Boolean(trouble) || !runs.length);
    show(title, runs.length > 0);
    show(detail, Boolean(run));
    list.set(runs, run);
    if (!run) return;
    say(summary, run.summary);
    view.set(run);
    samples.set(run);
    messages.set(run.messages);
  };
  current = { draw, stop: watch(draw), view };
  draw();
  loadAll();
}

export function destroySidebar() {
  current?.stop();
  current?.view.destroy();
  current = null;
}

/** Shows this run the next time that the tab is drawn. */
export function selectRun(run) {
  selected = run;
  current?.draw();
}

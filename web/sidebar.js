// The side bar tab: every run there is, and one of them in full.
import { ownPage } from "./api.js";
import { meanOf } from "./charts.js";
import { element, say, show } from "./dom.js";
import { createReport } from "./report.js";
import { createRunView } from "./run_view.js";
import { allRuns, getRun, load, loadAll, trouble, watch } from "./runs.js";
import { createSamples } from "./samples.js";
import { createShelf, hasGraph } from "./shelf.js";
import { createSteering } from "./steer.js";
import { ago, messageWords, number, serverWords, statusWords, words } from "./words.js";

let selected = null; // what the user picked; null: the newest
let current = null;
const overlaid = new Set(); // names of runs that are drawn behind the one that is shown

function runButton(pick) {
  const dot = element("span", "pt-dot");
  const name = element("span", "pt-name");
  const when = element("span", "pt-left");
  const line = element("div", "pt-hint pt-line");
  const button = element("button", "pt-run-button", element("div", "pt-row", dot, name, when), line);
  const beside = Object.assign(element("input", "pt-beside"), { type: "checkbox" });
  const root = element("div", "pt-run-row", button, beside);
  let shown = null;
  button.addEventListener("click", () => pick(shown));
  beside.addEventListener("change", () => {
    if (beside.checked) overlaid.add(shown);
    else overlaid.delete(shown);
    current?.draw();
  });
  return {
    root,
    set(run, picked) {
      shown = run.run;
      dot.dataset.status = run.status;
      say(name, run.pinned ? `📌 ${run.run}` : run.run);
      say(when, run.status === "running" ? "" : ago(run.modified));
      const now = run.points?.length ? meanOf(run.points, "reward_mean", true) : run.reward;
      const reward = Number.isFinite(now) ? ` · ${words("rewardNow", { now: number(now) })}` : "";
      say(line, statusWords(run) + reward);
      button.title = [run.run, line.textContent, run.note].filter(Boolean).join("\n");
      button.classList.toggle("pt-selected", picked);
      button.setAttribute("aria-current", picked);
      beside.checked = overlaid.has(run.run);
      beside.title = words("overlay", run);
      beside.setAttribute("aria-label", beside.title);
      beside.style.visibility = picked ? "hidden" : "";
    },
  };
}

/** Whether every word of the search is in the run's name or note. */
const found = (run, search) => search.toLowerCase().split(/\s+/).every((word) => `${run.run} ${run.note}`.toLowerCase().includes(word));

function runList(pick) {
  const buttons = [];
  const search = Object.assign(element("input", "pt-search"), { type: "search" });
  const list = element("div", "pt-list");
  const root = element("div", "pt-runs", search, list);
  search.addEventListener("input", () => current?.draw());
  return {
    root,
    set(all, selectedRun) {
      search.placeholder = words("search");
      search.setAttribute("aria-label", words("search"));
      show(search, all.length > 5 || Boolean(search.value));
      const runs = all.filter((run) => found(run, search.value)).sort((a, b) => b.pinned - a.pinned);
      while (buttons.length > runs.length) buttons.pop().root.remove();
      while (buttons.length < runs.length) {
        buttons.push(runButton(pick));
        list.append(buttons.at(-1).root);
      }
      runs.forEach((run, i) => buttons[i].set(run, run === selectedRun));
    },
  };
}

/** Says what becomes of a run to whoever listens instead of looking: its state, not every iteration. */
function announcer() {
  const root = element("div", "pt-unseen");
  root.setAttribute("role", "status");
  let said = "";
  return {
    root,
    set(run) {
      const key = `${run.run} ${run.status}`;
      if (said && said !== key) say(root, `${run.run}: ${statusWords(run)}`);
      said = key;
    },
  };
}

function messageList() {
  const title = element("div", "pt-title");
  const list = element("div", "pt-messages");
  list.setAttribute("role", "log");
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
        .map((message) => element("div", `pt-message pt-${message.level}`,
          (message.iteration > 0 ? `${message.iteration}: ` : "") + messageWords(message))));
    },
  };
}

/** Fills the tab. ComfyUI calls it anew each time that the tab opens. */
export function renderSidebar(parent) {
  destroySidebar();
  const hint = element("div", "pt-empty");
  const title = element("div", "pt-title");
  const view = createRunView({ tools: true });
  const steering = createSteering();
  const shelf = createShelf(selectRun);
  const report = createReport();
  const announced = announcer();
  const samples = createSamples({ slider: true });
  const messages = messageList();
  const list = runList(selectRun);
  const own = hasGraph() ? Object.assign(element("a", "pt-own"), { href: ownPage(), target: "_blank" }) : null;
  const summary = element("div", "pt-hint");
  const detail = element("div", "pt-detail", steering.root, view.root, summary, samples.root, report.root, messages.root, shelf.root);
  const root = element("div", "pt-sidebar", announced.root, hint, title, own, list.root, detail);
  parent.replaceChildren(root);

  const draw = () => {
    const { top, left } = parent.getBoundingClientRect(); // for a phone, where it leaves its place
    root.style.setProperty("--pt-top", `${Math.max(0, top)}px`);
    root.style.setProperty("--pt-left", `${left}px`);
    const runs = allRuns();
    const run = getRun(selected) ?? runs[0];
    if (run && !run.points) load(run.run);
    say(title, words("runs"));
    if (own) say(own, words("ownPage"));
    say(hint, trouble ? words("failed", { reason: trouble }) : words("none"));
    show(hint, Boolean(trouble) || !runs.length);
    show(title, runs.length > 0);
    show(detail, Boolean(run));
    list.set(runs, run);
    if (!run) return;
    say(summary, serverWords(run.summary));
    const others = [...overlaid].filter((name) => name !== run.run).map(getRun).filter(Boolean);
    for (const one of others) if (!one.points) load(one.run);
    view.set(run, others);
    steering.set(run);
    shelf.set(run);
    report.set(run);
    announced.set(run);
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

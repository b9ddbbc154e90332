// What a run came to: held-out before and after, rewards, variety, distances, blind comparisons; and a new blind comparison.
import { compareBlind, fetchReport, listenForQuestions } from "./api.js";
import { toast } from "./dialogs.js";
import { element, offer, say, show } from "./dom.js";
import { bringBack } from "./rate.js";
import { metricName, number, words } from "./words.js";

let shown = null; // the view that is open

listenForQuestions(() => shown?.read()); // a comparison has ended

const share = (value) => `${Math.round(100 * value)} %`;
const shares = (found) => ({ share: share(found.share), low: share(found.low), high: share(found.high) });

const line = (text, verdict) => {
  const made = element("div", "pt-report-line", text);
  if (verdict) made.append(" ", element("strong", `pt-verdict pt-${verdict}`, words(`verdict_${verdict}`)));
  return made;
};

function table(rows) {
  const cell = (tag, text) => element(tag, "", text);
  const head = element("tr", "", ...["reportNumber", "reportBefore", "reportAfter"].map((key) => cell("th", words(key))));
  const body = rows.map((row) => element("tr", "", cell("td", metricName(row.name)), cell("td", number(row.before)), cell("td", number(row.after))));
  return element("table", "pt-table", head, ...body);
}

function heldOut(found) {
  const values = Object.fromEntries(["before", "after", "gain", "low", "high"].map((key) => [key, number(found[key])]));
  const lines = [line(words("reportHeldOut", { ...values, images: found.images ?? "?", iteration: found.iteration }), found.verdict)];
  if (found.best) lines.push(line(words("reportBest", { mean: number(found.best.mean), iteration: found.best.iteration })));
  return lines;
}

function blindLine(found) {
  const against = found.against.iteration ? words("blindRun", found.against) : words("blindBase");
  return line(words("blindResult", { iteration: found.iteration, against, wins: found.wins, losses: found.losses, ties: found.ties,
    ...shares(found) }), found.verdict);
}

function gateLine(found) {
  return line(words("blindGate", { iteration: found.iteration, pairs: found.pairs, ...shares(found) }), found.verdict);
}

function content(report) {
  const parts = report.held_out ? heldOut(report.held_out) : [line(words("reportNothingHeldOut"))];
  const numbers = [...report.rewards, ...(report.diversity ? [{ name: "picture_variety", ...report.diversity }] : []), ...report.distances];
  if (numbers.length) parts.push(table(numbers));
  if (report.gate) parts.push(gateLine(report.gate));
  parts.push(...report.blind.map(blindLine));
  if (report.warnings) parts.push(line(words("reportWarnings", { n: report.warnings })));
  return parts;
}

/** -> {root, set(run)}. It is read when it is opened, and again when the run has gone on. */
export function createReport() {
  let run = null;
  let known = ""; // what was read last: of which run, and how far it was
  const summary = element("summary", "pt-report-title");
  const lines = element("div", "pt-report-lines");
  const against = element("select", "pt-kind");
  const begin = element("button", "pt-act");
  const hint = element("div", "pt-hint");
  const asking = element("div", "pt-row pt-wrap", begin, against);
  const root = element("details", "pt-report", summary, lines, asking, hint);
  const view = { read };
  root.addEventListener("toggle", () => {
    if (!root.open) return;
    shown = view;
    read();
  });
  begin.addEventListener("click", compare);

  async function read() {
    const asked = run?.run;
    if (!root.isConnected || !root.open || !asked) return;
    try {
      const report = await fetchReport(asked);
      if (asked !== run.run) return;
      lines.replaceChildren(...content(report));
      offer(against, report.others.map((name) => [name, name === report.run ? words("blindBase") : name]));
      against.setAttribute("aria-label", words("blindAgainst"));
      show(asking, report.others.length > 0);
      say(hint, words(report.others.length ? "blindHint" : "blindNothing"));
    } catch (error) {
      lines.replaceChildren(line(words("failed", { reason: error.message })));
    }
  }

  async function compare() {
    begin.disabled = true;
    try {
      await compareBlind(run.run, against.value);
      bringBack();
    } catch (error) {
      toast("error", run.run, error.message);
    } finally {
      begin.disabled = false;
    }
  }

  return {
    root,
    set(next) {
      run = next;
      say(summary, words("report"));
      say(begin, words("blindBegin"));
      against.setAttribute("aria-label", words("blindBegin"));
      const now = `${run.run} ${run.id} ${run.status} ${run.held_out.length} ${words("report")}`;
      if (now === known) return;
      known = now;
      read();
    },
  };
}

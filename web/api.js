// The pack's routes and events, as plain functions.
import { api } from "../../scripts/api.js";
import { serverWords } from "./words.js";

export const KINDS = ["start", "iteration", "samples", "message", "state", "error", "end"];

const postJson = (route, body) => getJson(route, { method: "POST", body: JSON.stringify(body),
  headers: { "Content-Type": "application/json" } });

async function getJson(route, options = {}) {
  const answer = await api.fetchApi(route, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(serverWords(body.error ?? answer.statusText));
  return body;
}

const path = (run) => `/posttrain/runs/${encodeURIComponent(run)}`;

/** Every run, newest first, without its points. */
export const fetchRuns = () => getJson("/posttrain/runs");

/** One run with the points after iteration `since`. */
export const fetchRun = (run, since = 0) => getJson(`${path(run)}?since=${since}`);

/** What can be asked of a run while it trains: {paused, asked, numbers}; null where it does not. */
export const fetchSteering = (run) => getJson(`${path(run)}/steer`);

/** Asks something of a run that trains; value: of a number. -> as fetchSteering */
export const order = (run, what, value) => postJson(`${path(run)}/steer`, { do: what, value });

/** Renames, pins, notes on, opens the folder of or deletes a run: how is the route's last word. -> {run: its name now} */
export const moveRun = (run, how, body) => postJson(`${path(run)}/${how}`, body);

/** The workflow that a run was trained with. */
export const fetchWorkflow = (run) => getJson(`${path(run)}/workflow`);

/** What a run came to, and the runs that it can be compared with. */
export const fetchReport = (run) => getJson(`${path(run)}/report`);

/** Shows the run's held-out pictures beside another run's, on hidden sides; beside its own before training where both are one. */
export const compareBlind = (run, against) => postJson(`${path(run)}/blind`, { against });

/** Address of a run's numbers as a table. */
export const csvUrl = (run) => api.apiURL(`${path(run)}/metrics.csv`);

/** Address of the page at /posttrain. */
export const ownPage = () => api.fileURL("/posttrain");

/** The texts of every pack's locales/ folder, by language. */
export const fetchTranslations = () => getJson("/i18n");

/** Address of a sample; `id` tells runs of the same name apart, since the browser keeps pictures. */
export const sampleUrl = (run, file, id) => api.apiURL(`${path(run)}/samples/${file}?v=${id ?? ""}`);

/** Tells the server that workflows of this id are queued by a page that can be asked. */
export const sayHello = (client) => postJson("/posttrain/pages", { client });

/** The id that this page's workflows are queued with. */
export const clientId = () => api.clientId;

/** The questions on runs whose settings have changed: {questions: [{id, run, changes, answers}]}. */
export const fetchRunQuestions = () => getJson("/posttrain/questions");

export const answerRunQuestion = (id, answer) => postJson(`/posttrain/questions/${id}`, { answer });

/** Calls handle() whenever such a question comes or goes, and when the server is back. */
export function listenForRunQuestions(handle) {
  api.addEventListener("posttrain.question", handle);
  api.addEventListener("reconnected", handle);
}

const question = (id) => `/posttrain/ratings/${id}`;

/** The questions that wait for somebody's votes. */
export const fetchQuestions = () => getJson("/posttrain/ratings");

/** Address of an image of a question. */
export const ratedUrl = (id, row) => api.apiURL(`${question(id)}/images/${row}`);

/** Gives votes: row -> 1 (up), -1 (down) or 0 (none). client: who rates. */
export const sendVotes = (id, votes, client) => postJson(`${question(id)}/votes`, { votes, client });

/** Says that of a sheet's two images neither is better; sheet: its number. */
export const sendTie = (id, sheet, client) => postJson(`${question(id)}/votes`, { tie: sheet, client });

/** The sheet that a client is to rate now; done: the one that it has finished. -> {sheet, trail, left, elsewhere} */
export const takeSheet = (id, client, done) => postJson(`${question(id)}/take`, { client, done });

/** Ends a question; how: "done", or "pause" to stop the training until the workflow is queued again. */
export const endQuestion = (id, how) => postJson(`${question(id)}/end`, { how });

/** The user's yes to sending pictures to another machine. */
export const allowAddress = (address) => postJson("/posttrain/addresses", { address });

const FAILED_MS = 2000; // in which the host hears that the workflow has failed
const DRAWN_MS = 600; // in which its own dialog on that is there

/** Calls handle(address) when a workflow wants to send pictures to another machine: once the host's words on the failed node are
 * there, since they would lie over a question that was asked before. */
export function listenForAddresses(handle) {
  api.addEventListener("posttrain.address", (event) => {
    let asked = false;
    const ask = () => {
      if (asked) return;
      asked = true;
      setTimeout(() => handle(event.detail.address), DRAWN_MS);
    };
    api.addEventListener("execution_error", ask, { once: true });
    setTimeout(ask, FAILED_MS);
  });
}

/** Calls onQueueing() before a workflow of this page is queued, and onError(detail) when a node of it fails. */
export function listenForFailures(onQueueing, onError) {
  api.addEventListener("promptQueueing", onQueueing);
  api.addEventListener("execution_error", (event) => onError(event.detail));
}

/** Calls handle() whenever a question comes or goes, and when the server is back. */
export function listenForQuestions(handle) {
  api.addEventListener("posttrain.rating", handle);
  api.addEventListener("reconnected", handle);
}

/** Calls handle(kind, detail) for each event of the pack, and onReconnect() when the server is back. */
export function listen(handle, onReconnect) {
  for (const kind of KINDS) api.addEventListener(`posttrain.${kind}`, (event) => handle(kind, event.detail));
  api.addEventListener("reconnected", onReconnect);
}

// The pack's routes and events, as plain functions.
import { api } from "../../scripts/api.js";

export const KINDS = ["start", "iteration", "samples", "message", "error", "end"];

async function getJson(route) {
  const answer = await api.fetchApi(route);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? answer.statusText);
  return body;
}

const path = (run) => `/posttrain/runs/${encodeURIComponent(run)}`;

/** Every run, newest first, without its points. */
export const fetchRuns = () => getJson("/posttrain/runs");

/** One run with the points after iteration `since`. */
export const fetchRun = (run, since = 0) => getJson(`${path(run)}?since=${since}`);

/** The texts of every pack's locales/ folder, by language. */
export const fetchTranslations = () => getJson("/i18n");

/** Address of a sample; `id` tells runs of the same name apart, since the browser keeps pictures. */
export const sampleUrl = (run, file, id) => api.apiURL(`${path(run)}/samples/${file}?v=${id ?? ""}`);

/** Calls handle(kind, detail) for each event of the pack, and onReconnect() when the server is back. */
export function listen(handle, onReconnect) {
  for (const kind of KINDS) api.addEventListener(`posttrain.${kind}`, (event) => handle(kind, event.detail));
  api.addEventListener("reconnected", onReconnect);
}

// The page at /posttrain: the side bar and the rating, for a second screen or a phone. ComfyUI's own page loads every script of
// the pack, this one too, which does nothing there.
import { api } from "../../../scripts/api.js";
import { listen, listenForQuestions } from "../api.js";
import { loadQuestions } from "../rate.js";
import { askTheSilent, changed, loadAll, loadAnew, receive } from "../runs.js";
import { renderSidebar } from "../sidebar.js";
import { loadWords } from "../words.js";
import { readSettings } from "./app.js";

const TICK_MS = 1000;

async function start(place) {
  await readSettings();
  await loadWords();
  listen(receive, loadAnew);
  listenForQuestions(loadQuestions);
  api.hear();
  renderSidebar(place);
  setInterval(() => {
    askTheSilent();
    if (!document.hidden) changed();
  }, TICK_MS);
  await Promise.all([loadAll(), loadQuestions()]);
}

const place = document.getElementById("posttrain-alone");
if (place) start(place);

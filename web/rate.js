// Rating by hand: a question of the server as a dialog, the images of one prompt at a time. Every choice is kept at once.
import { endQuestion, fetchQuestions, ratedUrl, sendVotes } from "./api.js";
import { element, say, show } from "./dom.js";
import { words } from "./words.js";

const THUMBS = "thumbs";
const PAUSE_MS = 350; // the choice is seen before the next prompt comes

let question = null;
let at = 0; // the sheet that is shown
let put = false; // the user has put the dialog away
let moving = 0;
let sending = Promise.resolve(); // the last vote on its way
let parts = null;

/** Asks the server what waits for votes, and shows it or closes what does not wait any more. */
export async function loadQuestions() {
  try {
    const [first] = (await fetchQuestions()).questions;
    if (first?.id === question?.id) return;
    question = first ?? null;
    at = question ? Math.max(0, question.sheets.findIndex((sheet) => !judged(sheet))) : 0;
  } catch (error) {
    console.debug("PostTrain:", error.message);
    return;
  }
  clearTimeout(moving);
  moving = 0;
  parts ??= build();
  draw();
}

const voteOn = (row) => question.votes[row] ?? 0;
const rowOf = (sheet, vote) => sheet.rows.find((row) => voteOn(row) === vote);

/** Whether a sheet has all the votes that it can have. */
function judged(sheet) {
  const given = sheet.rows.filter((row) => voteOn(row)).length;
  return question.mode === THUMBS ? given === sheet.rows.length : given === 2;
}

/** What choosing an image means: the votes that change. */
function choice(sheet, row) {
  if (question.mode === THUMBS) return { [row]: { 0: 1, 1: -1, "-1": 0 }[voteOn(row)] };
  const best = rowOf(sheet, 1);
  if (best === row) return { [row]: 0 };
  if (sheet.rows.length === 2) return { [row]: 1, [sheet.rows.find((other) => other !== row)]: -1 };
  if (best === undefined) return { [row]: 1 };
  if (rowOf(sheet, -1) === undefined) return { [row]: -1 };
  return { ...Object.fromEntries(sheet.rows.filter(voteOn).map((other) => [other, 0])), [row]: 1 };
}

async function choose(row) {
  if (moving || row === undefined) return;
  const asked = question;
  const sheet = question.sheets[at];
  const votes = choice(sheet, row);
  Object.assign(question.votes, votes);
  complain("");
  draw();
  const goesOn = question.mode !== THUMBS && judged(sheet);
  if (goesOn) moving = setTimeout(() => { moving = 0; move(1); }, PAUSE_MS);
  sending = sending.catch(() => null).then(() => sendVotes(asked.id, votes)); // in the order in which they were given
  try {
    await sending;
  } catch (error) {
    await notSaved(asked, sheet, error.message);
  }
}

/** Back to the sheet, with the votes that the server has. */
async function notSaved(asked, sheet, reason) {
  clearTimeout(moving);
  moving = 0;
  sending = Promise.resolve();
  const known = await fetchQuestions().catch(() => ({ questions: [] }));
  asked.votes = known.questions.find((one) => one.id === asked.id)?.votes ?? asked.votes;
  if (question !== asked) return;
  at = asked.sheets.indexOf(sheet);
  complain(reason);
  draw();
}

function move(by) {
  if (moving) return; // it goes on by itself
  if (by > 0 && at === question.sheets.length - 1) {
    end("done");
    return;
  }
  at = Math.max(0, at + by);
  draw();
}

async function end(how) {
  const { id } = question; // when the last votes have arrived there may be another one
  try {
    await sending;
    await endQuestion(id, how);
  } catch (error) {
    complain(error.message);
  }
  await loadQuestions(); // in case the event is lost
}

function complain(reason) {
  show(parts.trouble, Boolean(reason));
  say(parts.trouble, reason ? words("rateFailed", { reason }) : "");
}

function putAway(yes) {
  put = yes;
  draw();
}

const KEYS = { Enter: () => move(1), ArrowRight: () => move(1), Backspace: () => move(-1), ArrowLeft: () => move(-1) };

function onKey(event) {
  event.stopPropagation(); // ComfyUI has shortcuts of its own
  if (event.key === "Enter" && event.target.matches(".pt-button")) return;
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
  if (digit) choose(question.sheets[at].rows[digit - 1]);
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
}

function button(act, className = "pt-button") {
  const made = element("button", className);
  made.addEventListener("click", act);
  return made;
}

function build() {
  const made = { prompt: element("div", "pt-rate-prompt"), where: element("div", "pt-hint"), hint: element("div", "pt-rate-hint"),
    grid: element("div", "pt-rate-grid"), trouble: element("div", "pt-message pt-error pt-hidden"),
    back: button(() => move(-1)), next: button(() => move(1)), later: button(() => putAway(true)), pause: button(() => end("pause")),
    pill: button(() => putAway(false), "pt-rate-pill"), cards: [] };
  made.dialog = element("dialog", "pt-rate", made.where, made.prompt, made.hint, made.grid, made.trouble,
    element("div", "pt-row", made.back, made.next, element("span", "pt-name"), made.later, made.pause));
  made.dialog.tabIndex = -1;
  made.dialog.addEventListener("keydown", onKey);
  made.dialog.addEventListener("cancel", (event) => { // Escape
    event.preventDefault();
    putAway(true);
  });
  document.body.append(made.dialog, made.pill);
  return made;
}

function card(index) {
  const image = element("img", "pt-rate-image");
  const mark = element("span", "pt-rate-mark");
  const root = button(() => choose(question.sheets[at].rows[index]), "pt-rate-card");
  root.append(image, element("span", "pt-rate-key", String(index + 1)), mark);
  image.draggable = false;
  image.addEventListener("load", () => image.classList.toggle("pt-pixels", image.naturalWidth < image.clientWidth / 2));
  return { root, image, mark };
}

function draw() {
  const open = question !== null && !put;
  show(parts.pill, question !== null && put);
  if (open && !parts.dialog.open) parts.dialog.showModal();
  if (!open && parts.dialog.open) parts.dialog.close();
  if (!question) return;
  const sheet = question.sheets[at];
  const thumbs = question.mode === THUMBS;
  say(parts.pill, words("rate", { n: question.sheets.reduce((sum, one) => sum + one.rows.length, 0) }));
  say(parts.where, words("rateOf", { at: at + 1, all: question.sheets.length, title: question.title }));
  say(parts.prompt, sheet.prompt);
  say(parts.hint, words(thumbs ? "rateThumbs" : judged(sheet) ? "rateJudged" : rowOf(sheet, 1) === undefined ? "rateBest" : "rateWorst"));
  say(parts.back, words("back"));
  say(parts.next, words(at === question.sheets.length - 1 ? "finish" : thumbs || judged(sheet) ? "next" : "skip"));
  say(parts.later, words("later"));
  say(parts.pause, words("pause"));
  parts.pause.title = words("pauseHint");
  parts.back.disabled = at === 0;
  drawCards(sheet, thumbs);
  // a button that is disabled or hidden will lose the focus, and the keys would go to ComfyUI
  const active = document.activeElement;
  if (open && (!parts.dialog.contains(active) || active.matches(":disabled, .pt-hidden"))) parts.dialog.focus();
}

function drawCards(sheet, thumbs) {
  while (parts.cards.length < sheet.rows.length) {
    parts.cards.push(card(parts.cards.length));
    parts.grid.append(parts.cards.at(-1).root);
  }
  const columns = Math.ceil(Math.sqrt(sheet.rows.length));
  parts.grid.style.setProperty("--columns", columns);
  parts.grid.style.setProperty("--rows", Math.ceil(sheet.rows.length / columns));
  const names = thumbs ? { 1: words("up"), "-1": words("down") } : { 1: words("best"), "-1": words("worst") };
  parts.cards.forEach(({ root, image, mark }, i) => {
    const row = sheet.rows[i];
    show(root, row !== undefined);
    if (row === undefined) return;
    const url = ratedUrl(question.id, row);
    if (image.getAttribute("src") !== url) image.src = url;
    image.alt = String(i + 1);
    root.dataset.vote = voteOn(row);
    say(mark, names[voteOn(row)] ?? "");
  });
}

// Rating by hand: a question of the server as a dialog, the images of one prompt at a time. Every choice is kept at once. Several
// pages share one question: the server lends each a sheet that no other has.
import { endQuestion, fetchQuestions, sendTie, sendVotes, takeSheet } from "./api.js";
import { createRateView } from "./rate_view.js";
import { THUMBS, canTie, choice, choiceOfBoth, judged } from "./sheet.js";

const HEARD_MS = 10_000; // between two signs of life, by which the sheet stays ours
const WAIT_MS = 2000; // between two looks at whether others have finished
const CLIENT = "posttrain.rater";
const PAUSE_MS = 350; // the choice is seen before the next prompt comes

let question = null;
let trail = []; // the sheets that are ours, by number: those before, and last the one that waits
let turn = null; // what the server said last
let at = 0; // the place in the trail that is shown; behind its end: others rate the rest
let put = false; // the user has put the dialog away
let moving = 0;
let sending = Promise.resolve(); // the last vote on its way
let view = null;

/** Who rates here: kept over a reload, but not by a copy of the tab, which would get the same sheets. */
const client = sessionStorage.getItem(CLIENT) ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
sessionStorage.removeItem(CLIENT);
addEventListener("pagehide", () => sessionStorage.setItem(CLIENT, client));
addEventListener("pageshow", () => sessionStorage.removeItem(CLIENT));

/** Asks the server what waits for votes, and shows it or closes what does not wait any more. */
export async function loadQuestions() {
  try {
    const [first] = (await fetchQuestions()).questions;
    if (first?.id === question?.id) return;
    const known = first ? await takeSheet(first.id, client) : null;
    question = first ?? null;
    take(known);
  } catch (error) {
    console.debug("PostTrain:", error.message);
    return;
  }
  clearTimeout(moving);
  moving = 0;
  // where all is judged since yesterday it is shown once more, to be changed or ended
  at = turn && turn.sheet === null && !turn.elsewhere ? Math.max(0, trail.length - 1) : trail.indexOf(turn?.sheet);
  if (at < 0) at = trail.length;
  view ??= begin();
  draw();
}

/** What the server lends, as the trail. */
function take(answer) {
  turn = answer;
  trail = answer === null ? [] : [...answer.trail, ...(answer.sheet === null ? [] : [answer.sheet])];
}

const sheetNow = () => question.sheets[trail[at]];

/** The next sheet, or the end where nobody has one any more. */
async function goOn(done) {
  const asked = question;
  moving = -1; // nothing else meanwhile
  let ended = false;
  try {
    await sending;
    const answer = await takeSheet(asked.id, client, done);
    if (question !== asked) return;
    take(answer);
    at = answer.sheet === null ? trail.length : trail.indexOf(answer.sheet);
    ended = answer.sheet === null && !answer.elsewhere;
    if (ended) at = trail.length - 1;
  } catch (error) {
    complain(error.message);
  } finally {
    if (question === asked) moving = 0;
  }
  if (ended) await end("done");
  else if (question === asked) draw();
}

/** Keeps what is ours, and looks whether what others had is done or free. */
async function signOfLife() {
  if (!question || put || moving) return;
  const [asked, shown] = [question, trail[at]];
  try {
    const answer = await takeSheet(asked.id, client);
    if (question !== asked || moving) return;
    if (shown === undefined && answer.sheet === null && !answer.elsewhere) {
      await end("done");
      return;
    }
    take(answer);
    at = trail.indexOf(shown ?? turn.sheet);
    if (at < 0) at = turn.sheet === null ? trail.length : trail.indexOf(turn.sheet); // it was lost while we slept
    draw();
  } catch (error) {
    console.debug("PostTrain:", error.message);
  }
}

function keepAlive() {
  setTimeout(() => signOfLife().finally(keepAlive), question && trail[at] === undefined ? WAIT_MS : HEARD_MS);
}

function choose(place) {
  const row = sheetNow()?.rows[place];
  if (!moving && row !== undefined) give(choice(question, sheetNow(), row));
}

/** "tie": as good as each other; "bad": both. Of two images only. */
function chooseBoth(what) {
  const sheet = sheetNow();
  if (moving || !canTie(question, sheet)) return;
  view.focus();
  give(choiceOfBoth(sheet, what), what === "tie");
}

async function give(votes, tie = false) {
  const asked = question;
  const sheet = sheetNow();
  const number = asked.sheets.indexOf(sheet);
  Object.assign(question.votes, votes);
  question.ties = [...question.ties.filter((one) => one !== number), ...(tie ? [number] : [])];
  complain("");
  draw();
  const goesOn = question.mode !== THUMBS && judged(asked, sheet);
  if (goesOn) moving = setTimeout(() => { moving = 0; move(1); }, PAUSE_MS);
  const send = () => (tie ? sendTie(asked.id, number, client) : sendVotes(asked.id, votes, client));
  sending = sending.catch(() => null).then(send); // in the order in which they were given
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
  const { votes, ties } = known.questions.find((one) => one.id === asked.id) ?? asked;
  Object.assign(asked, { votes, ties });
  if (question !== asked) return;
  at = Math.max(0, trail.indexOf(asked.sheets.indexOf(sheet)));
  complain(reason);
  draw();
}

function move(by) {
  if (moving) return; // it goes on by itself
  if (by > 0 && at >= trail.length - 1) {
    if (at < trail.length) goOn(trail[at]);
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

const complain = (reason) => view.complain(reason);

function putAway(yes) {
  put = yes;
  draw();
  if (!put) signOfLife(); // somebody else may have it by now
}

/** Shows a question again that was put away; whoever asks for it wants to see it. */
export function bringBack() {
  if (question && put) putAway(false);
}

function begin() {
  keepAlive();
  const stop = () => end(question.blind ? "done" : "pause");
  return createRateView({ choose, chooseBoth, move, stop, putAway });
}

function draw() {
  view.draw({ question, put, sheet: question && sheetNow(), at: trail[at] + 1, first: at === 0,
    last: at === trail.length - 1 && !turn?.left && !turn?.elsewhere, elsewhere: turn?.elsewhere });
}

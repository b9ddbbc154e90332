// The dialog of a question: the images of one prompt, their marks, and the buttons.
import { ratedUrl } from "./api.js";
import { element, say, show } from "./dom.js";
import { THUMBS, bothBad, canTie, isTie, judged, rowOf, voteOn } from "./sheet.js";
import { words } from "./words.js";
import { createZoom } from "./zoom.js";

/** The mouse leaves the focus where it is: Enter goes on, and must not press once more what was clicked. */
function button(act, className = "pt-button") {
  const made = element("button", className);
  made.addEventListener("mousedown", (event) => event.preventDefault());
  made.addEventListener("click", act);
  return made;
}

function build(acts) {
  const made = { prompt: element("div", "pt-rate-prompt"), where: element("div", "pt-hint"), hint: element("div", "pt-rate-hint"), before: element("img", "pt-rate-before pt-hidden"),
    own: element("span", "pt-name pt-caption"), zoom: button(() => acts.zoom()), grid: element("div", "pt-rate-grid"), trouble: element("div", "pt-message pt-error pt-hidden"),
    back: button(() => acts.move(-1)), next: button(() => acts.move(1)), later: button(() => acts.putAway(true)),
    pause: button(() => acts.stop()), tie: button(() => acts.chooseBoth("tie")), bad: button(() => acts.chooseBoth("bad")),
    pill: button(() => acts.putAway(false), "pt-rate-pill") };
  made.dialog = element("dialog", "pt-rate", made.where, made.prompt, made.before, made.hint, made.grid, made.trouble,
    element("div", "pt-row pt-wrap", made.back, made.next, made.tie, made.bad, made.zoom, made.own, made.later, made.pause));
  made.dialog.tabIndex = -1;
  made.trouble.setAttribute("role", "alert");
  document.body.append(made.dialog, made.pill);
  return made;
}

function onKey(event, acts) {
  event.stopPropagation(); // ComfyUI has shortcuts of its own
  if (event.key === "Enter" && event.target.matches(".pt-button")) return; // somebody has gone there by Tab
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
  const keys = { Enter: () => acts.move(1), ArrowRight: () => acts.move(1), Backspace: () => acts.move(-1), ArrowLeft: () => acts.move(-1),
    0: () => acts.chooseBoth("tie"), "-": () => acts.chooseBoth("bad"), z: acts.zoom };
  if (digit) acts.choose(digit - 1);
  else if (!acts.look(event.key)) {
    if (!keys[event.key]) return;
    keys[event.key]();
  }
  event.preventDefault();
}

function card(index, acts) {
  const image = element("img", "pt-rate-image");
  const mark = element("span", "pt-rate-mark");
  const root = button(() => acts.choose(index), "pt-rate-card");
  root.append(image, element("span", "pt-rate-key", String(index + 1)), mark);
  image.draggable = false;
  image.addEventListener("load", () => image.classList.toggle("pt-pixels", image.naturalWidth < image.clientWidth / 2));
  return { root, image, mark };
}

/** acts: {choose(place), chooseBoth("tie" or "bad"), move(by), putAway(yes), stop()}.
 *  -> {draw(state), complain(reason)}; state: {question, put, sheet (undefined while others rate the rest), at, first, last, elsewhere}. */
export function createRateView(given) {
  const acts = { ...given, zoom: () => zoom.turn(), look: (key) => zoom.look(key) };
  const parts = build(acts);
  const cards = [];
  const zoom = createZoom(parts.grid, parts.zoom);
  parts.dialog.addEventListener("keydown", (event) => onKey(event, acts));
  parts.dialog.addEventListener("cancel", (event) => { // Escape
    event.preventDefault();
    acts.putAway(true);
  });

  function drawSheet({ question, sheet, at, last }) {
    const [thumbs, done] = [question.mode === THUMBS, judged(question, sheet)];
    say(parts.where, words(question.blind ? "blindOf" : "rateOf", { at, all: question.sheets.length, title: question.title }));
    say(parts.prompt, sheet.prompt);
    const open = question.blind ? "blindWhich" : rowOf(question, sheet, 1) === undefined ? "rateBest" : "rateWorst";
    say(parts.hint, words(thumbs ? "rateThumbs" : done ? "rateJudged" : open));
    say(parts.next, words(last ? "finish" : thumbs || done ? "next" : "skip"));
    drawBefore(question, sheet);
    drawCards(question, sheet, thumbs);
  }

  function drawBefore(question, sheet) {
    const shown = Number.isInteger(sheet.before);
    show(parts.before, shown);
    if (!shown) return;
    const url = ratedUrl(question.id, sheet.before);
    if (parts.before.getAttribute("src") !== url) parts.before.src = url;
    parts.before.alt = parts.before.title = words("rateBefore");
  }

  function drawWaiting({ question, elsewhere }) {
    say(parts.where, question.title);
    say(parts.prompt, "");
    show(parts.before, false);
    say(parts.hint, words("rateElsewhere", { n: elsewhere }));
  }

  function drawCards(question, sheet, thumbs) {
    while (cards.length < sheet.rows.length) {
      cards.push(card(cards.length, acts));
      parts.grid.append(cards.at(-1).root);
    }
    const columns = Math.ceil(Math.sqrt(sheet.rows.length));
    parts.grid.style.setProperty("--columns", columns);
    parts.grid.style.setProperty("--rows", Math.ceil(sheet.rows.length / columns));
    const both = thumbs || bothBad(question, sheet);
    const names = both ? { 1: "up", "-1": "down" } : question.blind ? { 1: "blindBetter", "-1": "" } : { 1: "best", "-1": "worst" };
    cards.forEach(({ root, image, mark }, i) => {
      const row = sheet.rows[i];
      show(root, row !== undefined);
      if (row === undefined) return;
      const url = ratedUrl(question.id, row);
      if (image.getAttribute("src") !== url) image.src = url;
      image.alt = String(i + 1);
      const vote = voteOn(question, row);
      root.dataset.vote = vote;
      say(mark, vote && names[vote] ? words(names[vote]) : "");
    });
  }

  function drawBoth(question, sheet) {
    const pressed = { tie: isTie, bad: bothBad };
    for (const [what, key, name] of [["tie", "0", "rateTie"], ["bad", "-", "rateBothBad"]]) {
      show(parts[what], canTie(question, sheet));
      say(parts[what], words(name));
      parts[what].title = words("rateKey", { key });
      parts[what].setAttribute("aria-pressed", Boolean(sheet) && pressed[what](question, sheet));
    }
  }

  return {
    draw(state) {
      const { question, sheet, put } = state;
      const open = question !== null && !put;
      show(parts.pill, question !== null && put);
      if (open && !parts.dialog.open) parts.dialog.showModal();
      if (!open && parts.dialog.open) parts.dialog.close();
      if (!question) return;
      const images = question.sheets.reduce((sum, one) => sum + one.rows.length, 0);
      say(parts.pill, question.blind ? words("blindPill", { n: question.sheets.length }) : words("rate", { n: images }));
      for (const part of [parts.next, parts.grid]) show(part, Boolean(sheet));
      drawBoth(question, sheet);
      for (const key of ["later", "back"]) say(parts[key], words(key));
      say(parts.pause, words(question.blind ? "blindEnd" : "pause"));
      zoom.say();
      say(parts.own, question.consistency?.of ? words("rateConsistency", question.consistency) : "");
      parts.pause.title = words(question.blind ? "blindEndHint" : "pauseHint");
      parts.back.disabled = state.first;
      if (sheet) drawSheet(state);
      else drawWaiting(state);
      // a button that is disabled or hidden will lose the focus, and the keys would go to ComfyUI
      const active = document.activeElement;
      if (open && (!parts.dialog.contains(active) || active.matches(":disabled, .pt-hidden"))) parts.dialog.focus();
    },
    complain(reason) {
      show(parts.trouble, Boolean(reason));
      say(parts.trouble, reason ? words("rateFailed", { reason }) : "");
    },
    /** The next key is for the images, whatever button was pressed before. */
    focus: () => parts.dialog.focus(),
  };
}

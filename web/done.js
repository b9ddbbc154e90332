// A training has ended: a sound, a word in the page's title, a notification of the browser; each by choice, in the settings.
import { app } from "../../scripts/app.js";
import { words } from "./words.js";

const ENDS = new Set(["done", "error", "paused"]);
const NOTES_HZ = { done: [660, 880], error: [440, 330], paused: [550, 550] };
const NOTE_SECONDS = 0.18;
const AGAIN_MS = 1000; // the page writes its own title after the last event of a workflow
let before = null; // the page's own title

const chosen = (what) => app.extensionManager.setting.get(`PostTrain.Done.${what}`) === true;

/** For registerExtension. The browser asks for its leave when notifications are switched on. */
export const DONE_SETTINGS = ["sound", "title", "notification"].map((what) => ({
  id: `PostTrain.Done.${what}`, category: ["PostTrain", "Done", what], type: "boolean", defaultValue: false,
  name: words(`done_${what}`),
  onChange: (on) => {
    if (what === "notification" && on && globalThis.Notification?.permission === "default") Notification.requestPermission();
  },
}));

function play(frequencies) {
  const context = new AudioContext();
  frequencies.forEach((frequency, i) => {
    const [note, volume] = [context.createOscillator(), context.createGain()];
    note.frequency.value = frequency;
    volume.gain.value = 0.1;
    note.connect(volume).connect(context.destination);
    note.start(context.currentTime + i * NOTE_SECONDS);
    note.stop(context.currentTime + (i + 0.9) * NOTE_SECONDS);
  });
  setTimeout(() => context.close(), 1000 * (frequencies.length + 1) * NOTE_SECONDS);
}

function writeTitle(text) {
  if (!document.hidden && document.hasFocus()) return;
  before ??= document.title;
  document.title = text;
}

globalThis.addEventListener("focus", () => {
  if (before !== null) document.title = before;
  before = null;
});

/** Tells that a run has ended, in the ways that the user has chosen. */
export function tellDone({ run, status, text }) {
  if (!ENDS.has(status)) return;
  if (chosen("sound")) play(NOTES_HZ[status]);
  if (chosen("title")) for (const wait of [0, AGAIN_MS]) setTimeout(writeTitle, wait, `● ${run}`);
  if (chosen("notification") && globalThis.Notification?.permission === "granted") new Notification(run, { body: text });
}

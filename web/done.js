// A training has ended: a sound, a word in the page's title, a notification of the browser; each by choice, in the settings.
import { app } from "../../scripts/app.js";
import { serverWords, words } from "./words.js";

const ENDS = new Set(["done", "error", "paused"]);
const NOTES_HZ = { done: [660, 880], error: [440, 330], paused: [550, 550] };
const NOTE_SECONDS = 0.18;
const RATE = 8000; // samples a second
const AGAIN_MS = 1000; // the page writes its own title after the last event of a workflow
let before = null; // the page's own title

const chosen = (what) => app.extensionManager.setting.get(`PostTrain.Done.${what}`) === true;

/** For registerExtension. The browser asks for its leave when notifications are switched on. */
export const DONE_SETTINGS = ["Sound", "Title", "Notification"].map((what) => ({
  id: `PostTrain.Done.${what}`, category: ["PostTrain", "Done", what], type: "boolean", defaultValue: false,
  name: words(`done${what}`),
  onChange: (on) => {
    if (what === "Notification" && on && globalThis.Notification?.permission === "default") Notification.requestPermission();
  },
}));

/** Tones after each other as a WAV file: one channel of 8 bits. */
function wave(frequencies) {
  const length = Math.round(RATE * NOTE_SECONDS);
  const bytes = new Uint8Array(44 + length * frequencies.length);
  const view = new DataView(bytes.buffer);
  const text = (at, letters) => [...letters].forEach((letter, i) => { bytes[at + i] = letter.charCodeAt(0); });
  text(0, "RIFF");
  view.setUint32(4, bytes.length - 8, true);
  text(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, 1, 2], [24, RATE, 4], [28, RATE, 4], [32, 1, 2], [34, 8, 2], [40, bytes.length - 44, 4]]
    .forEach(([at, value, size]) => (size === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true)));
  text(36, "data");
  frequencies.forEach((frequency, n) => {
    for (let i = 0; i < length; i++) {
      const fading = 1 - i / length;
      bytes[44 + n * length + i] = 128 + 30 * fading * Math.sin((2 * Math.PI * frequency * i) / RATE);
    }
  });
  return bytes;
}

async function play(frequencies) {
  const url = URL.createObjectURL(new Blob([wave(frequencies)], { type: "audio/wav" }));
  try {
    const sound = new Audio(url);
    sound.addEventListener("ended", () => URL.revokeObjectURL(url));
    await sound.play();
  } catch (error) { // before the first click on it a page may not
    console.debug("PostTrain:", error.message);
  }
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
  if (chosen("Sound")) play(NOTES_HZ[status]);
  if (chosen("Title")) for (const wait of [0, AGAIN_MS]) setTimeout(writeTitle, wait, `● ${run}`);
  if (!chosen("Notification") || globalThis.Notification?.permission !== "granted") return;
  new Notification(run, { body: serverWords(text) });
}

// Some browsers call their language "C", which is none, and uPlot asks for numbers as they are written in it while it is loaded.
// Charts import this before uPlot and give the browser's own word back once it is there.

function isLanguage(word) {
  try {
    return !!new Intl.NumberFormat(word);
  } catch {
    return false;
  }
}

const stands = !isLanguage(navigator.language);
if (stands) Object.defineProperty(navigator, "language", { value: "en-US", configurable: true });

export function giveBackLanguage() {
  if (stands) delete navigator.language;
}

// The sample grids of a run: the newest one, or any through a slider.
import { sampleUrl } from "./api.js";
import { element, say, show } from "./dom.js";
import { words } from "./words.js";

/** -> {root, set(run)}. With a slider, the newest is followed until an older one is chosen. */
export function createSamples({ slider }) {
  let run = null;
  let picked = null; // iteration, or null for the newest
  const image = element("img", "pt-image");
  const caption = element("span", "pt-caption");
  const range = Object.assign(element("input", "pt-range"), { type: "range", min: 0 });
  const newest = element("button", "pt-button");
  const controls = element("div", "pt-row", range, newest);
  const root = element("div", "pt-samples", element("div", "pt-row", caption), slider ? controls : null, image);
  image.draggable = false;
  image.addEventListener("load", () => image.classList.toggle("pt-pixels", image.naturalWidth < image.clientWidth));

  range.addEventListener("input", () => {
    const index = Number(range.value);
    picked = index === run.samples.length - 1 ? null : run.samples[index].iteration;
    draw();
  });
  newest.addEventListener("click", () => {
    picked = null;
    draw();
  });

  function draw() {
    const samples = run?.samples ?? [];
    show(root, samples.length > 0);
    if (!samples.length) return;
    const found = picked === null ? -1 : samples.findIndex((sample) => sample.iteration === picked);
    const index = found < 0 ? samples.length - 1 : found;
    const url = sampleUrl(run.run, samples[index].file, run.id);
    if (image.getAttribute("src") !== url) image.src = url;
    image.alt = words("sample", { iteration: samples[index].iteration });
    say(caption, image.alt);
    range.max = samples.length - 1;
    range.value = index;
    say(newest, words("newest"));
    newest.disabled = index === samples.length - 1;
    show(controls, samples.length > 1);
  }

  return {
    root,
    set(shown) {
      if (run?.run !== shown?.run || run?.id !== shown?.id) picked = null;
      run = shown && { run: shown.run, id: shown.id, samples: shown.samples };
      draw();
    },
  };
}

// The sample grids of a run: the newest one, or any through a slider.
import { sampleUrl } from "./api.js";
import { element, say, show } from "./dom.js";
import { picturesName, words } from "./words.js";

/** Which pictures are shown: those of the training, or of held-out prompts where a run has some. */
function kindSelect(changed) {
  const select = element("select", "pt-kind");
  select.addEventListener("change", changed);
  for (const kind of ["samples", "held_out"]) {
    select.append(Object.assign(element("option", "", picturesName(kind)), { value: kind }));
  }
  return select;
}

/** -> {root, set(run)}. With a slider, the newest is followed until an older one is chosen. */
export function createSamples({ slider }) {
  let run = null;
  let picked = null; // iteration, or null for the newest
  let before = false; // while the picture is pressed
  const image = element("img", "pt-image");
  const caption = element("span", "pt-caption");
  const range = Object.assign(element("input", "pt-range"), { type: "range", min: 0 });
  const newest = element("button", "pt-button");
  const controls = element("div", "pt-row", range, newest);
  const kind = kindSelect(() => pick(null));
  const root = element("div", "pt-samples", kind, element("div", "pt-row", caption), slider ? controls : null, image);
  image.draggable = false;
  image.addEventListener("load", () => image.classList.toggle("pt-pixels", image.naturalWidth < image.clientWidth));
  image.addEventListener("pointerdown", () => press(true));
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) image.addEventListener(end, () => press(false));
  range.addEventListener("input", () => pick(Number(range.value)));
  newest.addEventListener("click", () => pick(null));

  const shown = () => {
    const all = run?.[kind.value] ?? [];
    return kind.value === "held_out" ? all.filter((sample) => sample.iteration > 0) : all;
  };
  const base = () => (kind.value === "held_out" ? run?.held_out.find((sample) => sample.iteration === 0) : undefined);

  function pick(index) {
    const samples = shown();
    picked = index === null || index === samples.length - 1 ? null : samples[index].iteration;
    draw();
  }

  function press(down) {
    if (before === down || (down && !base())) return;
    before = down;
    draw();
  }

  function draw() {
    const measured = Boolean(run?.held_out.length);
    if (!measured) kind.value = "samples";
    show(kind, measured);
    const samples = shown();
    show(root, samples.length > 0 || measured);
    if (!samples.length) return;
    const found = picked === null ? -1 : samples.findIndex((sample) => sample.iteration === picked);
    const index = found < 0 ? samples.length - 1 : found;
    const sample = before ? base() : samples[index];
    const url = sampleUrl(run.run, sample.file, run.id);
    if (image.getAttribute("src") !== url) image.src = url;
    image.alt = words(before ? "heldOutBase" : kind.value === "held_out" ? "heldOut" : "sample", { iteration: sample.iteration });
    say(caption, image.alt);
    range.max = samples.length - 1;
    range.value = index;
    say(newest, words("newest"));
    newest.disabled = index === samples.length - 1;
    show(controls, samples.length > 1);
  }

  return {
    root,
    set(next) {
      if (run?.run !== next?.run || run?.id !== next?.id) picked = null;
      run = next && { run: next.run, id: next.id, samples: next.samples, held_out: next.held_out };
      draw();
    },
  };
}

// A closer look at pictures that are compared: all of them at their own size or more, at the same place, which follows the mouse,
// a finger or the arrow keys.
import { say } from "./dom.js";
import { words } from "./words.js";

const LEAST = 2; // times larger
const STEP = 10; // percent, of an arrow key
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
const inside = (share) => Math.min(100, Math.max(0, share));

/** How much larger a picture gets: to one pixel for one of the screen, and twice at least. */
function scaleOf(image) {
  const fitted = Math.min(image.clientWidth / image.naturalWidth, image.clientHeight / image.naturalHeight);
  return Number.isFinite(fitted) && fitted > 0 ? Math.max(LEAST, 1 / (fitted * devicePixelRatio)) : LEAST;
}

/** grid: of the pictures. button: turns it on and off. -> {turn(), say(), look(key): whether the key was one of its own} */
export function createZoom(grid, button) {
  let on = false;
  let [x, y] = [50, 50];

  function place() {
    for (const image of grid.querySelectorAll("img")) {
      image.style.transformOrigin = `${x}% ${y}%`;
      image.style.transform = on ? `scale(${scaleOf(image)})` : "";
    }
  }

  function follow(event) {
    const card = event.target.closest?.(".pt-rate-card");
    if (!on || !card) return;
    const box = card.getBoundingClientRect();
    [x, y] = [inside((100 * (event.clientX - box.left)) / box.width), inside((100 * (event.clientY - box.top)) / box.height)];
    place();
  }

  const tell = () => {
    grid.classList.toggle("pt-zoomed", on);
    button.setAttribute("aria-pressed", on);
    say(button, words("rateZoom"));
    button.title = words("rateZoomHint");
  };
  grid.addEventListener("pointermove", follow);
  grid.addEventListener("load", place, true); // the next images

  return {
    turn() {
      on = !on;
      tell();
      place();
    },
    say: tell,
    look(key) {
      if (!on || !ARROWS[key]) return false;
      [x, y] = [inside(x + ARROWS[key][0]), inside(y + ARROWS[key][1])];
      place();
      return true;
    },
  };
}

// Buttons by which a run is steered while it trains; what they ask for is done between two iterations.
import { fetchSteering, order } from "./api.js";
import { element, say, show } from "./dom.js";
import { number, numberName, words } from "./words.js";

const ORDERS = [["pause", "steerPause"], ["go on", "steerGoOn"], ["sample", "steerSample"], ["checkpoint", "steerCheckpoint"],
  ["stop", "steerStop"], ["cancel", "steerCancel"]];

/** A number that can be changed while it trains. change(value) -> a promise. */
function numberField(name, change) {
  const label = element("span", "pt-field-name");
  const input = Object.assign(element("input", "pt-field"), { type: "text", inputMode: "decimal" });
  const root = element("label", "pt-row", label, input);
  let known = "";
  const send = () => {
    const value = Number(input.value.replace(",", "."));
    if (input.value !== known && input.value.trim() && Number.isFinite(value)) change(value);
    else input.value = known;
  };
  input.addEventListener("change", send);
  return {
    root,
    set(value) {
      say(label, numberName(name));
      const text = number(value);
      if (known !== text && document.activeElement !== input) input.value = text;
      known = text;
    },
  };
}

/** -> {root, set(run)}. Seen while this ComfyUI trains the run. */
export function createSteering() {
  let run = null;
  const fields = new Map();
  const buttons = new Map(ORDERS.map(([what, key]) => [what, Object.assign(element("button", "pt-act"), { key })]));
  const told = element("div", "pt-hint pt-error-words");
  told.setAttribute("role", "alert");
  const asked = element("div", "pt-hint");
  const row = element("div", "pt-row pt-wrap", ...buttons.values());
  const numbers = element("div", "pt-fields");
  const root = element("div", "pt-steering", row, numbers, asked, told);
  row.setAttribute("role", "toolbar");
  for (const [what, button] of buttons) button.addEventListener("click", () => ask(what));

  async function ask(what, value) {
    const { run: name } = run;
    say(told, "");
    try {
      const state = await order(name, what, value);
      if (run?.run === name) run.steering = state;
    } catch (error) {
      say(told, error.message);
      const known = run?.steering; // a server that is out of reach says nothing about the training
      const now = await fetchSteering(name).catch(() => known);
      if (run?.run === name) run.steering = now;
    }
    draw();
  }

  function draw() {
    const state = run?.steering;
    const alive = Boolean(state) && ["running", "paused"].includes(run.status);
    show(root, alive);
    if (!alive) return;
    const paused = run.status === "paused";
    const waits = new Set(state.asked);
    row.setAttribute("aria-label", words("steer"));
    for (const [what, button] of buttons) {
      say(button, words(button.key));
      button.title = words(`${button.key}Hint`);
      button.disabled = waits.has(what) && !(paused && what === "stop");
    }
    show(buttons.get("pause"), !paused && !waits.has("pause"));
    show(buttons.get("cancel"), Boolean(state.far)); // elsewhere ComfyUI's own Cancel reaches nobody
    show(buttons.get("go on"), paused || waits.has("pause"));
    say(asked, waits.size && !paused ? words("steerWaits") : "");
    for (const [name, value] of Object.entries(state.numbers)) {
      if (!fields.has(name)) {
        fields.set(name, numberField(name, (wanted) => ask(name, wanted)));
        numbers.append(fields.get(name).root);
      }
      fields.get(name).set(value);
    }
    for (const [name, field] of fields) show(field.root, name in state.numbers);
  }

  return {
    root,
    set(next) {
      if (run?.run !== next?.run) say(told, "");
      run = next;
      draw();
    },
  };
}

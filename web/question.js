// A run's settings have changed: what shall happen is asked with buttons, and the training goes on with the answer.
import { answerRunQuestion, clientId, fetchRunQuestions, sayHello } from "./api.js";
import { element } from "./dom.js";
import { answerName, words } from "./words.js";

const MOST_SHOWN = 12;
let told = null; // the id that the server knows this page by
let dialog = null;
let shown = null;

/** For a slow clock: the id comes with the connection, and may be another one after the next. */
export async function introduce() {
  const id = clientId();
  if (!id || id === told) return;
  told = id;
  await sayHello(id).catch(() => { told = null; });
}

/** Asks the server what waits for an answer, and shows it or closes what does not wait any more. */
export async function loadRunQuestions() {
  const { questions: [first] } = await fetchRunQuestions().catch(() => ({ questions: [] }));
  if (first?.id === shown) return;
  shown = first?.id ?? null;
  dialog?.remove();
  dialog = null;
  if (first) open(first);
}

function changeRow({ name, old, new: now }) {
  return element("tr", "", element("td", "", name), element("td", "", old), element("td", "", now));
}

function open(question) {
  const title = element("div", "pt-rate-prompt", words("questionTitle", question));
  const head = element("tr", "", ...["", words("was"), words("nowIs")].map((word) => element("th", "", word)));
  const table = element("table", "pt-table", element("thead", "", head),
    element("tbody", "", ...question.changes.slice(0, MOST_SHOWN).map(changeRow)));
  const trouble = element("div", "pt-error-words");
  trouble.setAttribute("role", "alert");
  const buttons = question.answers.map((answer) => {
    const button = element("button", "pt-act", answerName(answer));
    button.addEventListener("click", async () => {
      try {
        await answerRunQuestion(question.id, answer);
      } catch (error) {
        trouble.textContent = error.message;
      }
    });
    return button;
  });
  dialog = element("dialog", "pt-rate pt-question", title, table, element("div", "", words("questionBody")),
    element("div", "pt-row pt-wrap", ...buttons), trouble);
  dialog.setAttribute("aria-label", title.textContent);
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // it waits for one of its answers
  document.body.append(dialog);
  dialog.showModal();
}

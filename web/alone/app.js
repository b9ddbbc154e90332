// Stands in for ComfyUI's own page: the language that is set there, and short messages. There is no graph here.
import { api } from "./api.js";

const LOCALE = "Comfy.Locale";
const settings = new Map();

function addToast({ severity, summary, detail, life }) {
  const toast = document.createElement("div");
  toast.className = `pt-toast pt-message pt-${severity === "warn" ? "warning" : severity}`;
  toast.setAttribute("role", "status");
  toast.textContent = [summary, detail].filter(Boolean).join(": ");
  document.body.append(toast);
  setTimeout(() => toast.remove(), life);
}

export const app = {
  extensionManager: { setting: { get: (id) => settings.get(id) }, toast: { add: addToast } },
};

/** Reads what the user has chosen in ComfyUI; where that is nothing, the browser's language. */
export async function readSettings() {
  const answer = await api.fetchApi(`/settings/${LOCALE}`).catch(() => null);
  const chosen = answer?.ok ? await answer.json().catch(() => null) : null;
  settings.set(LOCALE, chosen || navigator.language);
  document.documentElement.lang = app.extensionManager.setting.get(LOCALE);
}

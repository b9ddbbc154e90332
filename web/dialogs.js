// The page's own short messages and questions. Pages of 2024 have no dialogs of their own: there the browser asks.
import { app } from "../../scripts/app.js";

const TOAST_MS = 8000;

/** severity: "success", "info", "warn" or "error". */
export function toast(severity, summary, detail) {
  app.extensionManager.toast.add({ severity, summary, detail, life: TOAST_MS });
}

/** An error that stays until it is closed. -> call it to take the error back */
export function errorThatStays(summary, detail) {
  const { toast } = app.extensionManager;
  if (!toast.remove) { // pages since 1.54 or so
    const id = toast.error(summary, { description: detail });
    return () => toast.dismiss(id);
  }
  const message = { severity: "error", summary, detail };
  toast.add(message);
  return () => toast.remove(message);
}

/** A question with a text for an answer; null where there is none. */
export function prompted(title, message, value) {
  const { dialog } = app.extensionManager;
  return dialog?.prompt ? dialog.prompt({ title, message, defaultValue: value }) : window.prompt(message, value);
}

/** A question with yes or no for an answer. */
export function confirmed(title, message) {
  const { dialog } = app.extensionManager;
  return dialog?.confirm ? dialog.confirm({ title, message }) : window.confirm(message);
}

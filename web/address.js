// A workflow wants to send pictures to another machine: the user is asked once for each address.
import { app } from "../../scripts/app.js";
import { allowAddress, listenForAddresses } from "./api.js";
import { words } from "./words.js";

const TOAST_MS = 8000;
const open = new Set(); // addresses that are asked about at this moment

function toast(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "PostTrain", detail, life: TOAST_MS });
}

async function askAbout(address) {
  if (open.has(address)) return;
  open.add(address);
  try {
    const [title, message] = [words("askAddressTitle"), words("askAddress", { address })];
    const { dialog } = app.extensionManager; // pages of 2024 have none
    if (!(dialog?.confirm ? await dialog.confirm({ title, message }) : window.confirm(message))) return;
    await allowAddress(address);
    toast("success", words("addressAllowed", { address }));
  } catch (error) {
    toast("error", error.message);
  } finally {
    open.delete(address);
  }
}

export const listenForForeignAddresses = () => listenForAddresses(askAbout);

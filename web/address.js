// A workflow wants to send pictures to another machine: the user is asked once for each address.
import { allowAddress, listenForAddresses } from "./api.js";
import { confirmed, toast } from "./dialogs.js";
import { words } from "./words.js";

const TITLE = "PostTrain";
const open = new Set(); // addresses that are asked about at this moment

async function askAbout(address) {
  if (open.has(address)) return;
  open.add(address);
  try {
    if (!await confirmed(words("askAddressTitle"), words("askAddress", { address }))) return;
    await allowAddress(address);
    toast("success", TITLE, words("addressAllowed", { address }));
  } catch (error) {
    toast("error", TITLE, error.message);
  } finally {
    open.delete(address);
  }
}

export const listenForForeignAddresses = () => listenForAddresses(askAbout);

// Stands in for the connection of ComfyUI's own page: the routes below the server's path, and its events over a socket.
const AGAIN_MS = 1000;

class Api extends EventTarget {
  clientId = null; // no workflow is queued from here

  /** What stands before every route: ComfyUI may be served below a path. */
  get base() {
    return location.pathname.replace(/\/[^/]*$/, "");
  }

  apiURL = (route) => this.base + route;

  fetchApi = (route, options) => fetch(this.apiURL(route), options);

  /** Listens for ever. "reconnected" is told when the server is back. */
  hear(isBack = false) {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${this.base}/ws`);
    socket.addEventListener("open", () => isBack && this.dispatchEvent(new CustomEvent("reconnected")));
    socket.addEventListener("close", () => setTimeout(() => this.hear(true), AGAIN_MS));
    socket.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") return; // pictures of a sampling
      const { type, data: detail } = JSON.parse(data);
      this.dispatchEvent(new CustomEvent(type, { detail }));
    });
  }
}

export const api = new Api();

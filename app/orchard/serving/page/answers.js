// Who answers: the model on this device, or else the server.

const TOP = 5;
const TRIES = 4;
const LONGEST_WAIT = 5; // seconds

/** Why there is no answer; `reason` is one of the server's, or busy, offline, failed. */
export class NoAnswer extends Error {
  constructor(reason, detail) {
    super(detail ?? reason);
    this.reason = reason;
  }
}

export class Answers extends EventTarget {
  #worker;
  #ready = false;
  #pending = new Map();
  #last = 0;

  /** Start loading the model. Its progress comes as `state` events, with what the worker says as their detail. */
  start() {
    try {
      this.#worker = new Worker("/assets/worker.js", { type: "module" });
    } catch {
      this.#tell({ type: "unavailable", why: "browser" });
      return;
    }
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#ready = false;
      for (const { reject } of this.#pending.values()) reject(new NoAnswer("failed", event.message));
      this.#pending.clear();
      this.#tell({ type: "unavailable", why: "browser" });
    };
    const start = () => this.#ready || this.#worker.postMessage({ type: "start" });
    addEventListener("online", start);
    start();
  }

  /**
   * Answer a photo: {by: "device" or "server", sure, top: [{label, confidence}], milliseconds}. Throws NoAnswer.
   *
   * `onBusy` is called when the server asks for patience.
   */
  async answer(blob, name, onBusy) {
    if (!this.#ready) return fromServer(blob, name, onBusy);
    try {
      return await this.#fromDevice(blob);
    } catch (here) {
      try {
        return await fromServer(blob, name, onBusy);
      } catch (there) {
        if (there.reason !== "offline") throw there;
        throw here.reason === "unreadable" || here.reason === "failed" ? there : here;
      }
    }
  }

  #fromDevice(blob) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ type: "answer", id, blob, top: TOP });
    });
  }

  #hear(message) {
    const waiting = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.type === "answer") {
      waiting?.resolve({ by: "device", sure: message.sure, top: message.top, milliseconds: message.milliseconds });
    } else if (message.type === "cannot") {
      waiting?.reject(new NoAnswer(message.reason, message.detail));
    } else {
      if (message.type === "ready") this.#ready = true;
      this.#tell(message);
    }
  }

  #tell(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}

async function fromServer(blob, name, onBusy) {
  const started = performance.now();
  for (let tries = 1; ; tries++) {
    const body = new FormData();
    body.append("file", blob, name);
    let response;
    try {
      response = await fetch(`/v1/predict?top=${TOP}`, { method: "POST", body, headers: { accept: "application/json" } });
    } catch (error) {
      throw new NoAnswer("offline", error.message);
    }
    if (response.status === 503 && tries < TRIES) {
      onBusy?.();
      const seconds = Math.min(Number(response.headers.get("retry-after")) || 1, LONGEST_WAIT);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      continue;
    }
    const found = await response.json().catch(() => ({}));
    if (!response.ok) throw new NoAnswer(found.reason ?? (response.status === 503 ? "busy" : response.status === 413 ? "too_large" : "failed"), found.detail);
    const [prediction] = found.predictions;
    if (prediction.error) throw new NoAnswer(prediction.error.reason, prediction.error.detail);
    return { by: "server", sure: prediction.sure, top: prediction.top, milliseconds: performance.now() - started };
  }
}

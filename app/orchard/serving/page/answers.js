// Who answers: the model on this device, or the server, which is asked only when a caller says so.

const TOP = 5;
const TRIES = 4;
const BUSY = new Set([429, 502, 503, 504]); // of the server, or of what stands before it while it starts
const LONGEST_WAIT = 5; // seconds
const THREADS = 4; // more gain little
// Within which the model starts: on threads, some browsers hang for ever; a slow phone alone takes its time.
const START_SECONDS = 20;
const START_SECONDS_ALONE = 90;
// After which what could not be loaded is asked for again; then twice as many.
const RETRY_SECONDS = 5;
const LONGEST_RETRY = 300;

/** Why there is no answer; `reason` is one of the server's, or busy, offline, failed. */
export class NoAnswer extends Error {
  constructor(reason, detail) {
    super(detail ?? reason);
    this.reason = reason;
  }
}

/**
 * An answer is {by: "device" or "server", answer: "sure", "not_sure" or "unknown", label, kind, confidence, familiarity,
 * top: [{label, confidence}], columns: {name: {value, likeliest, confidence}}, milliseconds}.
 */
export class Answers extends EventTarget {
  #worker;
  #ready = false;
  #threads = THREADS;
  #timer;
  #retry;
  #wait = RETRY_SECONDS;
  #pending = new Map();
  #last = 0;

  /** Start loading the model. Its progress comes as `state` events, with what the worker says as their detail. */
  start() {
    addEventListener("online", () => this.#begin());
    this.#open();
  }

  /** Whether the model runs on this device. */
  get ready() {
    return this.#ready;
  }

  /** Answer a photo on this device. Throws NoAnswer. */
  async onDevice(blob) {
    return { by: "device", ...(await this.#ask("answer", blob)) };
  }

  /** Yield what is where on a photo, by this device: first {map}, rows of 0..1; then {regions}. Throws NoAnswer. */
  async *whereOnDevice(blob) {
    yield await this.#ask("map", blob);
    yield await this.#ask("regions", blob);
  }

  #ask(type, blob) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      if (!this.#worker) throw new NoAnswer("failed");
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ type, id, blob, top: TOP });
    });
  }

  #open() {
    try {
      this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    } catch {
      this.#tell({ type: "unavailable", why: "browser" });
      return;
    }
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#close(event.message);
      this.#tell({ type: "unavailable", why: "browser" });
    };
    this.#begin();
  }

  #begin() {
    clearTimeout(this.#retry);
    if (!this.#ready) this.#worker?.postMessage({ type: "start", threads: this.#threads });
  }

  #hear(message) {
    const waiting = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.type === "cannot") {
      waiting?.reject(new NoAnswer(message.reason, message.detail));
    } else if (message.id) {
      const { type, id, ...found } = message;
      waiting?.resolve(found);
    } else {
      clearTimeout(this.#timer);
      if (message.type === "starting") this.#expectReady();
      if (message.type === "ready") this.#ready = true;
      if (message.type === "unavailable" && ["nothing", "model"].includes(message.why)) this.#beginLater();
      this.#tell(message);
    }
  }

  /** A weak connection breaks without the browser's word that it is back; so does a server that starts again. */
  #beginLater() {
    this.#retry = setTimeout(() => this.#begin(), this.#wait * 1000);
    this.#wait = Math.min(2 * this.#wait, LONGEST_RETRY);
  }

  #expectReady() {
    const seconds = this.#threads > 1 ? START_SECONDS : START_SECONDS_ALONE;
    this.#timer = setTimeout(() => {
      this.#close(`it did not start within ${seconds} s`);
      if (this.#threads === 1) {
        this.#tell({ type: "unavailable", why: "browser" });
      } else {
        this.#threads = 1;
        this.#open();
      }
    }, seconds * 1000);
  }

  #close(why) {
    console.info(`The model does not run here on ${this.#threads} threads: ${why}`);
    clearTimeout(this.#timer);
    this.#worker.terminate();
    this.#worker = undefined;
    this.#ready = false;
    for (const { reject } of this.#pending.values()) reject(new NoAnswer("failed", why));
    this.#pending.clear();
  }

  #tell(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}

/**
 * Send a photo to the server, and return its answer; with `regions` it has {map, regions}, too. `onBusy` is called when
 * the server asks for patience; nothing is sent once `signal` is aborted. Throws NoAnswer.
 */
export async function askServer(blob, name, { signal, onBusy, regions = false } = {}) {
  const started = performance.now();
  for (let tries = 1; ; tries++) {
    const body = new FormData();
    body.append("file", blob, name);
    let response;
    try {
      response = await fetch(new URL(`../v1/predict?top=${TOP}${regions ? "&regions=true" : ""}`, import.meta.url), { method: "POST", body, signal, headers: { accept: "application/json" } });
    } catch (error) {
      throw new NoAnswer("offline", error.message);
    }
    if (BUSY.has(response.status) && tries < TRIES) {
      onBusy?.();
      const seconds = Math.min(Number(response.headers.get("retry-after")) || 1, LONGEST_WAIT);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      continue;
    }
    const found = await response.json().catch(() => ({}));
    if (!response.ok) throw new NoAnswer(reasonFor(response.status, found.reason), found.detail);
    const [prediction] = found.predictions;
    if (prediction.error) throw new NoAnswer(prediction.error.reason, prediction.error.detail);
    return { ...prediction, by: "server", milliseconds: performance.now() - started };
  }
}

/** What is wrong with the file, or else "busy" or "failed". */
function reasonFor(status, reason) {
  if (BUSY.has(status)) return "busy";
  if (status >= 500 || status === 408) return "failed";
  return reason ?? (status === 413 ? "too_large" : "failed");
}

// Runs the model on this device, off the page's thread: loads it, keeps it for offline use, answers photos.

import { decide } from "./decision.js";
import { decode, Rejected } from "./pixels.js";
import { find, shares } from "./regions.js";

const CACHE = "orchard-model";
// All lie beside this file, under whatever path the server is.
const here = (name) => new URL(name, import.meta.url).href;
const RUNTIME = here("./vendor/ort.wasm.bundle.min.mjs");
const WASM = here("./vendor/ort-wasm-simd-threaded.wasm");
const MODEL = here("../model.onnx");
const ABOUT = here("../model.json");
const CARDS = here("../cards.json");
const NO_CARDS = '{"cards": []}';
const LONGEST_WAIT = 30; // seconds between two questions whether the server has made the model

let ort;
let model; // {about, session}
let threads;
let last = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.type === "start") {
    threads = data.threads;
    start();
  }
  // One at a time: a session does not answer two at once.
  if (data.type in ASKED) last = last.then(() => reply(data));
};

/** Start with the model that was kept, if any; then look for a newer one. */
async function start() {
  const kept = await keptModel();
  await keptCards();
  if (kept) await useKept(kept);
  let about;
  try {
    about = await (await fetchOk(ABOUT)).json();
  } catch {
    if (!model) post("unavailable", { why: "nothing" });
    return;
  }
  post("about", { about });
  await loadCards(about.cards);
  // The same model may have been kept when it said less.
  if (model?.about.digest === about.digest && String(model.about.outputs) === String(about.outputs)) return;
  if (!about.runtime) {
    if (!model) post("unavailable", { why: "runtime" });
    return;
  }
  let why = "model"; // what went wrong, if anything does
  try {
    const bytes = await download(about);
    const isKept = await keep(about, bytes);
    await loadRuntime();
    why = "browser";
    await use({ about, bytes }, isKept);
  } catch (error) {
    console.info(`The model does not run here: ${error.message}`);
    if (!model) post("unavailable", { why });
  }
}

async function use({ about, bytes }, kept) {
  await loadRuntime();
  post("starting"); // from here on nothing waits for the network: what takes long is stuck
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  await warmUp(session, about.input.size);
  const former = model;
  model = { about, session };
  post("ready", { about, kept });
  // It may be answering a photo.
  if (former) last = last.then(() => former.session.release()).catch(() => {});
}

/** Use the kept model; if it is damaged it goes, and the next one is loaded anew. */
async function useKept(kept) {
  try {
    await use(kept, true);
  } catch (error) {
    console.info(`The kept model does not run here: ${error.message}`);
    if (ort) await (await caches.open(CACHE)).delete(MODEL);
  }
}

async function loadRuntime() {
  if (ort) return;
  // Loaded first: a browser may remember for good that an import has failed.
  for (const part of [WASM, RUNTIME]) await (await fetchOk(part, "no-cache")).arrayBuffer();
  ort = await import(RUNTIME);
  ort.env.wasm.wasmPaths = { wasm: WASM };
  // Threads share memory, which browsers allow to isolated pages alone.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(threads, navigator.hardwareConcurrency) : 1;
}

// The first answer takes several times as long as the others.
function warmUp(session, size) {
  const tensor = new ort.Tensor("uint8", new Uint8Array(size * size * 3), [1, size, size, 3]);
  return session.run({ image: tensor });
}

// What is told of a photo, by what is asked.
const ASKED = {
  async answer({ about, run }, { blob, top }) {
    const started = performance.now();
    const outputs = await run(await decode(blob, about.input.size, about.input.fit));
    return { ...decide(outputs, about, top), milliseconds: performance.now() - started };
  },
  async map({ about, run }, { blob }) {
    const { class_map: said } = await run(await decode(blob, about.input.size, about.input.fit));
    return { map: shares(said, Math.sqrt(said.length)) };
  },
  async regions({ about, run }, { blob }) {
    return { regions: await find(about, await decode(blob, about.regions.size, about.input.fit), run) };
  },
};

async function reply(asked) {
  const { type, id } = asked;
  if (!model) {
    post("cannot", { id, reason: "unreadable" });
    return;
  }
  try {
    const { about, session } = model;
    post(type, { id, ...(await ASKED[type]({ about, run: (picture) => run(session, picture) }, asked)) });
  } catch (error) {
    post("cannot", { id, reason: error instanceof Rejected ? error.reason : "failed", detail: error.message });
  }
}

/** What the model says of pixels: an array for each of its outputs. */
async function run(session, { width, height, data }) {
  const image = new ort.Tensor("uint8", data, [1, height, width, 3]);
  const found = await session.run({ image });
  return Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data]));
}

/** Load the model, telling how far it is; waits while the server is making it. */
async function download(about) {
  for (;;) {
    const response = await fetch(MODEL, { cache: "no-cache" });
    if (response.status === 503) {
      const seconds = Math.min(Number(response.headers.get("retry-after")) || 2, LONGEST_WAIT);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      continue;
    }
    if (!response.ok) throw new Error(`${MODEL}: ${response.status}`);
    // While servers change to a new model, one may describe it and another send the former one.
    if (!response.headers.get("etag")?.includes(about.digest)) throw new Error("the server changes its model");
    return await read(response);
  }
}

async function read(response) {
  const total = Number(response.headers.get("content-length"));
  const chunks = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    loaded += value.length;
    post("progress", { loaded, total });
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** Tell what there is to know about the labels: it is kept beside the model, and may change while that does not. */
async function loadCards(address) {
  try {
    const text = address ? await (await fetchOk(here(`..${address}`))).text() : NO_CARDS;
    tellCards(JSON.parse(text));
    await (await caches.open(CACHE)).put(CARDS, new Response(text));
  } catch (error) {
    console.info(`What is known of the labels is not as new as it might be: ${error.message}`);
  }
}

async function keptCards() {
  try {
    tellCards(await (await (await caches.open(CACHE)).match(CARDS)).json());
  } catch {
    // none are kept
  }
}

function tellCards({ cards }) {
  post("cards", { cards });
}

async function keptModel() {
  try {
    const cache = await caches.open(CACHE);
    const [about, bytes] = await Promise.all([cache.match(ABOUT), cache.match(MODEL)]);
    const described = await about?.json();
    if (!described || bytes?.headers.get("etag") !== described.digest) return undefined;
    return { about: described, bytes: new Uint8Array(await bytes.arrayBuffer()) };
  } catch {
    return undefined; // no secure context, no storage
  }
}

async function keep(about, bytes) {
  try {
    const cache = await caches.open(CACHE);
    await cache.put(MODEL, new Response(bytes, { headers: { etag: about.digest } }));
    await cache.put(ABOUT, new Response(JSON.stringify(about)));
    return true;
  } catch {
    return false;
  }
}

async function fetchOk(path, cache = "no-store") {
  const response = await fetch(path, { cache });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

function post(type, values = {}) {
  self.postMessage({ type, ...values });
}

// Photos with what people say is on them: kept on this device, given out as an archive of label/photo.

import { text } from "./texts.js";
import { safeName, zip } from "./zip.js";

const DATABASE = "orchard";
const STORE = "corrections";

const section = document.querySelector("#corrections");
const problem = document.querySelector("#corrections-problem");
let count = 0;
let onNone = () => {};

/** Keep a photo with its label, in place of what was kept under `id` if given; returns its id. Throws if it cannot. */
export async function keep(file, name, label, id) {
  const record = { label, name, time: new Date(), ...(id !== undefined && { id }) };
  const put = (photo, type) => use("readwrite", (store) => store.put({ ...record, photo, type }));
  const photo = new Blob([file], { type: file.type });
  // A private window of Safari keeps bytes, and no Blob.
  const kept = await put(photo).catch(async () => put(await photo.arrayBuffer(), photo.type));
  await refresh();
  return kept;
}

/** Make the buttons work, and show how many corrections there are; `whenNone()` is called whenever there are none. */
export async function offerCorrections(whenNone) {
  onNone = whenNone;
  // Another tab may have kept or deleted some.
  document.addEventListener("visibilitychange", () => document.hidden || refresh().catch((error) => console.info(error.message)));
  document.querySelector("#corrections-export").onclick = attempt(download);
  document.querySelector("#corrections-delete").onclick = attempt(async () => {
    if (!confirm(text("corrections_sure", { n: count }))) return;
    await use("readwrite", (store) => store.clear());
    await refresh();
    document.querySelector("#add").focus();
  });
  try {
    await refresh();
  } catch (error) {
    console.info(`Nothing can be kept here: ${error.message}`); // a private window may have no store
  }
}

/** Write the counter in the current language. */
export function showCorrections() {
  section.hidden = count === 0;
  document.querySelector("#corrections-count").textContent = text(count === 1 ? "corrections_one" : "corrections", { n: count });
  problem.hidden = true;
}

function attempt(action) {
  return () =>
    action().catch((error) => {
      console.info(error.message);
      problem.hidden = false;
    });
}

async function refresh() {
  count = await use("readonly", (store) => store.count());
  showCorrections();
  if (count === 0) onNone();
}

async function download() {
  const archive = await zip(inFolders(await use("readonly", (store) => store.getAll())));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(archive);
  link.download = `orchard-corrections-${new Date().toISOString().slice(0, 10)}.zip`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // Safari begins to read it later
}

/** Give each photo its path, label/photo, on every system. */
function inFolders(records) {
  const folders = new Names();
  const inside = new Map(); // the names in each folder
  return records.map(({ id, label, name, photo: stored, type, time }) => {
    const photo = stored instanceof Blob ? stored : new Blob([stored], { type });
    const folder = folders.give(label, safeName(label));
    if (!inside.has(folder)) inside.set(folder, new Names());
    const [, stem, given] = /^(.*?)(\.[a-z0-9]{1,5})?$/isu.exec(name);
    const extension = given ?? `.${(photo.type.split("/")[1] ?? "jpeg").replace("jpeg", "jpg")}`;
    return { path: `${folder}/${inside.get(folder).give(id, safeName(stem), extension)}`, content: photo, time };
  });
}

/** Gives each key a name of its own, also where capitals do not count. */
class Names {
  #given = new Map();
  #taken = new Set();

  give(key, stem, extension = "") {
    for (let number = 1; !this.#given.has(key); number++) {
      const name = `${stem}${number > 1 ? ` (${number})` : ""}${extension}`;
      if (this.#taken.has(name.toLowerCase())) continue;
      this.#taken.add(name.toLowerCase());
      this.#given.set(key, name);
    }
    return this.#given.get(key);
  }
}

/** Make one request of the store, and return its result once the transaction is done. */
async function use(mode, request) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const asked = request(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onabort = () => reject(transaction.error); // a full device fails here
    });
  } finally {
    database.close();
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

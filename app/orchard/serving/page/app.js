// The page: takes photos from wherever they come, and shows what is found.

import { Answers, askServer } from "./answers.js";
import { offerCamera } from "./camera.js";
import { Card, clear, forgetKept, MOST, renderAll, waiting } from "./cards.js";
import { allow, maySend } from "./consent.js";
import { offerCorrections, showCorrections } from "./corrections.js";
import { setFacts } from "./facts.js";
import { currentLanguage, megabytes, setLanguage, text, translate } from "./texts.js";

// A server may be asked again after these.
const AGAIN = new Set(["offline", "busy", "failed"]);
// No image, as its name says: else a film went to the server to be refused there.
const NO_IMAGE = /^(?:video|audio|text)\/|^application\/pdf$/;
const FINAL = new Set(["empty", "truncated"]); // what is wrong with a file whoever reads it

const find = (selector) => document.querySelector(selector);
const state = find("#state");
const progress = find("#progress");
const announcer = find("#announcer");
const answers = new Answers();

let shown = { type: "loading" };
let about;
let worksOffline = false;
let chosen = 0; // photos at once

/** Answer photos, one after the other; the first one given ends up on top. */
async function add(files) {
  chosen = files.length;
  showLeftOut();
  const added = [...files].slice(0, MOST).reverse().map((file) => new Card(file, send, where)).reverse();
  let summary = "";
  for (const card of added) summary = await look(card);
  return summary;
}

/** Answer a photo on this device. The server is asked only by those who said yes. */
async function look(card) {
  if (card.gone.aborted) return "";
  if (NO_IMAGE.test(card.file.type)) return tell(card, { type: "rejected", reason: "unsupported_format" });
  let why = "missing";
  card.show({ type: "working" });
  if (answers.ready) {
    try {
      return tell(card, { type: "answer", ...(await answers.onDevice(card.file)) });
    } catch (error) {
      if (FINAL.has(error.reason)) return tell(card, { type: "rejected", reason: error.reason });
      why = "unreadable";
    }
  }
  return maySend(why) ? ask(card, why) : tell(card, { type: "ask", why });
}

async function ask(card, why) {
  card.show({ type: "working" });
  try {
    return tell(card, { type: "answer", ...(await askServer(card.file, card.name, { signal: card.gone, onBusy: () => card.show({ type: "busy" }) })) });
  } catch ({ reason = "failed" }) {
    return tell(card, AGAIN.has(reason) ? { type: "ask", why, reason } : { type: "rejected", reason });
  }
}

/** Send a photo that may be sent, and all others that this allows. */
async function send(card, forAll) {
  const why = card.waitsFor;
  // Without a model here one yes is for all photos, as each of them would ask the same.
  const others = why === "missing" || forAll;
  if (others) allow(why, forAll);
  for (const each of others ? waiting(why) : [card]) if (each.waitsFor === why) await ask(each, why);
}

/** Yield what is where on a photo, by whoever answered it: what has not gone to the server stays here. */
async function* where(card) {
  if (card.by === "server") yield await askServer(card.file, card.name, { signal: card.gone, regions: true });
  else yield* answers.whereOnDevice(card.file);
}

function tell(card, state) {
  if (card.gone.aborted) return "";
  card.show(state);
  announcer.textContent = card.summary;
  return card.summary;
}

function showState() {
  const { type, why, loaded, total } = shown;
  const key = {
    starting: "starting",
    ready: worksOffline ? "offline" : "ready",
    unavailable: why === "nothing" ? "nothing" : "server",
  }[type] ?? "loading";
  const detail = {
    starting: () => text("state_loading_start"),
    offline: () => text("state_ready_detail"),
    ready: () => text("state_ready_detail"),
    nothing: () => text("state_nothing_detail"),
    server: () => text(why === "model" ? "state_server_detail" : `state_server_${why}`),
    loading: () => (total ? text("state_loading_detail", { loaded: megabytes(loaded), total: megabytes(total) }) : text("state_loading_start")),
  }[key]();
  state.dataset.state = key;
  const line = find("#state-text");
  if (line.textContent !== text(`state_${key}`)) line.textContent = text(`state_${key}`);
  find("#state-detail").textContent = detail;
  progress.hidden = !total || key !== "loading";
  progress.value = total ? loaded / total : 0;
}

function showLeftOut() {
  const line = find("#left-out");
  line.hidden = chosen <= MOST;
  line.textContent = text("left_out", { most: MOST, n: chosen });
}

function showKnown() {
  if (!about) return;
  document.documentElement.dataset.fit = about.input.fit;
  find("#known").hidden = false;
  find("#known-title").textContent = text("known", { n: about.labels.length });
  const items = about.labels.map((label) => Object.assign(document.createElement("li"), { textContent: label }));
  find("#known-labels").replaceChildren(...items);
  const options = about.labels.map((label) => Object.assign(document.createElement("option"), { value: label }));
  find("#labels").replaceChildren(...options);
}

function showLanguage() {
  const [tag, name] = currentLanguage() === "fr" ? ["en", "English"] : ["fr", "Français"];
  document.documentElement.lang = currentLanguage();
  document.title = `${text("title")} · Orchard`;
  Object.assign(find("#language"), { textContent: name, lang: tag });
  translate(document);
  showState();
  showKnown();
  showLeftOut();
  showCorrections();
  renderAll();
}

function hear({ detail }) {
  if (detail.about) {
    about = detail.about;
    showKnown();
  }
  if (detail.type === "about") return;
  if (detail.type === "cards") {
    setFacts(detail.cards);
    renderAll();
    return;
  }
  // A newer model that is being loaded is nothing to wait for.
  if (shown.type === "ready" && ["starting", "progress"].includes(detail.type)) return;
  shown = detail;
  showState();
  if (detail.type !== "ready") return;
  if (detail.kept) checkOffline();
  lookAgain();
}

/** Answer here what waited for the model. */
async function lookAgain() {
  for (const card of waiting("missing")) if (card.waitsFor === "missing") await look(card);
}

/** Say "also without a connection" once the page itself is kept, too. */
async function checkOffline() {
  // Else the browser may drop the model, and what people kept, when it is short of space.
  navigator.storage?.persist?.().catch(() => {});
  await navigator.serviceWorker?.ready;
  worksOffline = Boolean(navigator.serviceWorker);
  showState();
}

function listen() {
  for (const input of [find("#capture"), find("#choose")]) {
    input.onchange = () => {
      add(input.files);
      input.value = ""; // so that the same file can be chosen again
    };
  }
  find("#language").onclick = () => {
    setLanguage(currentLanguage() === "fr" ? "en" : "fr");
    showLanguage();
  };
  find("#clear").onclick = () => {
    clear();
    find("#add").focus();
  };
  document.addEventListener("paste", (event) => event.clipboardData?.files.length && add(event.clipboardData.files));
  let depth = 0; // dragenter and dragleave come for every element under the pointer
  const over = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dropping", depth > 0);
    find(".hint").textContent = text(depth > 0 ? "drop" : "hint");
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    add(event.dataTransfer.files);
  });
  offerCamera(find("#camera-open"), find("#capture"), (blob) => add([blob]));
  offerCorrections(forgetKept);
}

answers.addEventListener("state", hear);
listen();
showLanguage();
navigator.serviceWorker?.register("sw.js", { updateViaCache: "none" }).catch((error) => console.info(error.message));
answers.start();

// The page: takes photos from wherever they come, and shows what is found.

import { Answers } from "./answers.js";
import { offerCamera } from "./camera.js";
import { Card, clear, renderAll } from "./cards.js";
import { currentLanguage, megabytes, setLanguage, text, translate } from "./texts.js";

const find = (selector) => document.querySelector(selector);
const state = find("#state");
const progress = find("#progress");
const announcer = find("#announcer");
const answers = new Answers();

let shown = { type: "loading" };
let about;
let worksOffline = false;

/** Answer photos, one after the other; the first one given ends up on top. */
async function add(files) {
  const photos = [...files].reverse().map((file) => [file, new Card(file, file.name)]).reverse();
  let summary = "";
  for (const [file, card] of photos) summary = await look(file, card);
  return summary;
}

async function look(file, card) {
  try {
    const found = await answers.answer(file, card.name, () => card.show({ kind: "busy" }));
    card.show({ kind: "answer", ...found });
  } catch (error) {
    card.show({ kind: "rejected", reason: error.reason ?? "failed" });
  }
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

function showKnown() {
  if (!about) return;
  find("#known").hidden = false;
  find("#known-title").textContent = text("known", { n: about.labels.length });
  const items = about.labels.map((label) => Object.assign(document.createElement("li"), { textContent: label }));
  find("#known-labels").replaceChildren(...items);
}

function showLanguage() {
  const [tag, name] = currentLanguage() === "fr" ? ["en", "English"] : ["fr", "Français"];
  document.documentElement.lang = currentLanguage();
  document.title = `${text("title")} · Orchard`;
  Object.assign(find("#language"), { textContent: name, lang: tag });
  translate(document);
  showState();
  showKnown();
  renderAll();
}

function hear({ detail }) {
  if (detail.about) {
    about = detail.about;
    showKnown();
  }
  if (detail.type === "about") return;
  // A newer model that is being loaded is nothing to wait for.
  if (shown.type === "ready" && ["starting", "progress"].includes(detail.type)) return;
  shown = detail;
  showState();
  if (detail.type === "ready" && detail.kept) checkOffline();
}

/** Say "also without a connection" once the page itself is kept, too. */
async function checkOffline() {
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
  offerCamera(find("#camera-open"), (blob) => add([blob]));
}

answers.addEventListener("state", hear);
listen();
showLanguage();
navigator.serviceWorker?.register("/sw.js", { updateViaCache: "none" }).catch((error) => console.info(error.message));
answers.start();

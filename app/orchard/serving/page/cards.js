// One card for each photo: what the model sees of it, what was found or why nothing was, and what can be done then.

import { keep } from "./corrections.js";
import { showFact } from "./facts.js";
import { draw, words } from "./looking.js";
import { canShare, share } from "./share.js";
import { percent, text, TEXTS, translate } from "./texts.js";

export const MOST = 50; // cards; each one holds its photo in memory
const LEAST = 0.01; // a likelihood that is worth a row

const list = document.querySelector("#cards");
const section = document.querySelector("#results");
const template = document.querySelector("#card");
const known = document.querySelector("#labels");
const cards = new Set();
let count = 0;

export class Card {
  /** The photo. */
  file;
  #element;
  #url;
  #number = ++count;
  #state = { type: "working" };
  #kept; // {id, label} of its correction
  #where; // {map, regions, failed}, as far as they are known
  #looking = false; // whether it is shown
  #onWhere;
  #gone = new AbortController();

  /**
   * Put a card for a photo on top of the others. `onAllow(card, forAll)` is called when its photo may go to the server;
   * `onWhere(card)` yields parts of {map, regions}.
   */
  constructor(file, onAllow, onWhere) {
    this.file = file;
    this.#onWhere = onWhere;
    this.#element = template.content.firstElementChild.cloneNode(true);
    this.#url = URL.createObjectURL(file);
    const image = this.#find("img");
    image.onerror = () => this.#element.classList.add("no-picture");
    image.src = this.#url;
    this.#find("h3").id = `card-${this.#number}`;
    this.#element.setAttribute("aria-labelledby", `card-${this.#number}`);
    this.#find(".remove").onclick = () => this.#removeAndFocus();
    this.#find(".allow").onclick = () => {
      this.#element.focus(); // the button goes
      onAllow(this, this.#find(".allow-all").checked);
    };
    this.#find(".look").onclick = () => this.#look();
    this.#find(".share-answer").onclick = () => this.#share();
    this.#find(".wrong").onclick = () => this.#correct(true);
    this.#find(".cancel").onclick = () => this.#correct(false);
    this.#find("form").onsubmit = (event) => {
      event.preventDefault();
      this.#keep();
    };
    cards.add(this);
    list.prepend(this.#element);
    section.hidden = false;
    if (cards.size > MOST) cards.values().next().value.remove();
    this.render();
    this.#element.scrollIntoView({ block: "nearest" });
  }

  /**
   * Show {type: "working" | "busy"}, {type: "answer", ...} of Answers, {type: "ask", why} whether the server may be
   * asked, with a `reason` if that has failed, or {type: "rejected", reason}.
   */
  show(state) {
    this.#state = state;
    this.#where = undefined;
    this.#looking = false;
    this.render();
  }

  /** Why the photo waits for someone to say whether the server may be asked, if it does. */
  get waitsFor() {
    return this.#state.type === "ask" && !this.gone.aborted ? this.#state.why : undefined;
  }

  /** Aborted once the card is removed: what was under way for its photo ends. */
  get gone() {
    return this.#gone.signal;
  }

  /** Who has answered, if anyone has. */
  get by() {
    return this.#state.by;
  }

  /** What is said aloud about the card: the photo's name, and the answer. */
  get summary() {
    return `${this.name}: ${this.#words}`;
  }

  get name() {
    return this.file.name ?? text("photo", { n: this.#number });
  }

  /** Write everything in the current language. */
  render() {
    const { type, answer, by, milliseconds, label = null, kind = null, why } = this.#state;
    const rows = answer === "unknown" ? [] : (this.#state.top ?? []).filter(({ confidence }) => confidence >= LEAST);
    translate(this.#element);
    this.#element.dataset.shows = answer ?? type;
    this.#element.setAttribute("aria-busy", type === "working" || type === "busy");
    this.#find("h3").textContent = this.#heading();
    this.#find(".says").textContent = this.#says();
    this.#find("img").alt = text("picture", { name: this.name });
    this.#find(".remove").setAttribute("aria-label", text("remove", { name: this.name }));
    this.#find(".ask").hidden = type !== "ask";
    this.#find(".check").hidden = why === "missing";
    this.#find(".top").setAttribute("aria-label", text("top"));
    this.#find(".top").hidden = rows.length === 0;
    this.#find(".top").replaceChildren(...rows.map(row));
    const columns = answer === "unknown" ? [] : Object.entries(this.#state.columns ?? {});
    this.#find(".columns").hidden = columns.length === 0;
    this.#find(".columns").replaceChildren(...columns.flatMap(column));
    showFact(this.#find(".fact"), { label, kind });
    this.#find(".by").textContent = by ? text(`by_${by}`, { ms: Math.round(milliseconds) }) : ["ask", "rejected"].includes(type) ? this.name : "";
    this.#find(".by").dataset.by = by ?? "";
    this.#find(".actions").hidden = type !== "answer" || !this.#find("form").hidden;
    this.#find(".share-answer").hidden = !canShare;
    this.#renderWhere();
    this.#find(".wrong").textContent = text(this.#kept ? "change" : label || kind ? "wrong" : "tell");
    if (this.#kept) this.#note(text("kept", { label: this.#kept.label }));
  }

  #renderWhere() {
    const [over, said] = [this.#find(".where"), this.#find(".where-words")];
    this.#element.classList.toggle("looking", this.#looking);
    this.#find(".look").setAttribute("aria-pressed", this.#looking);
    this.#find("figcaption").hidden = this.#looking;
    over.hidden = said.hidden = !this.#looking;
    if (!this.#looking) return;
    const { answer, top } = this.#state;
    const known = this.#where ?? {};
    draw(over, this.#find("img"), document.documentElement.dataset.fit, known);
    const line = words(known, answer === "unknown" ? undefined : top[0].label);
    if (said.textContent !== line) said.textContent = line;
  }

  async #look() {
    this.#looking = !this.#looking;
    const state = this.#state;
    const isNew = this.#looking && (!this.#where || this.#where.failed);
    if (isNew) this.#where = {};
    this.#renderWhere();
    // It grew above the button, maybe out of sight.
    if (this.#looking) this.#find(".view").scrollIntoView({ block: "nearest" });
    if (!isNew) return;
    const tell = (found) => {
      if (this.#state !== state) return; // it was answered anew meanwhile
      this.#where = { ...this.#where, ...found };
      this.#renderWhere();
    };
    try {
      for await (const { map, regions } of this.#onWhere(this)) tell({ ...(map && { map }), ...(regions && { regions }) });
    } catch (error) {
      console.info(error.message);
      tell({ failed: true });
    }
  }

  remove() {
    this.#gone.abort();
    URL.revokeObjectURL(this.#url);
    cards.delete(this);
    this.#element.remove();
    section.hidden = cards.size === 0;
  }

  #removeAndFocus() {
    const next = this.#element.nextElementSibling ?? this.#element.previousElementSibling;
    this.remove();
    (next?.querySelector(".remove") ?? document.querySelector("#add")).focus();
  }

  get #words() {
    return [this.#find("h3"), this.#find(".says")].map((part) => part.textContent).join(": ");
  }

  #heading() {
    const { type, answer, label, kind } = this.#state;
    if (type === "answer") return answer === "unknown" ? text("unknown") : (label ?? kind ?? text("not_sure"));
    return text({ rejected: "failed", ask: "ask" }[type] ?? "working");
  }

  #says() {
    const { type, answer, kind, top, reason, why } = this.#state;
    if (type === "busy") return text("busy");
    if (type === "ask" && !reason) return text(`ask_${why}`);
    if (reason) return text(`reason_${reason}` in TEXTS.en ? `reason_${reason}` : "reason_failed");
    if (type !== "answer") return "";
    if (answer === "unknown") return text("unknown_detail");
    const [first, second] = top;
    if (answer === "sure") return text("sure", { percent: percent(first.confidence) });
    const values = { first: first.label, percent: percent(first.confidence) };
    const perhaps =
      second?.confidence >= LEAST
        ? text("perhaps_two", { ...values, second: second.label, percent_second: percent(second.confidence) })
        : text("perhaps_one", values);
    return `${kind ? text("kind_only") : ""} ${perhaps} ${kind ? "" : text("not_sure_tip")}`.trim();
  }

  async #share() {
    const done = await share(this.#words, this.file, this.name);
    if (done !== "cancelled") this.#note(text(`share_${done}`));
  }

  #correct(open) {
    this.#find("form").hidden = !open;
    this.#find(".actions").hidden = open;
    this.#find(open ? "input[list]" : ".wrong").focus();
  }

  async #keep() {
    const typed = this.#find("input[list]").value.normalize("NFC").trim();
    if (!typed) return;
    const labels = [...known.options].map(({ value }) => value);
    const label = labels.find((each) => each === typed) ?? labels.find((each) => each.toLowerCase() === typed.toLowerCase()) ?? typed;
    try {
      this.#kept = { id: await keep(this.file, this.name, label, this.#kept?.id), label };
      this.render();
    } catch (error) {
      console.info(error.message);
      this.#note(text("not_kept"));
    }
    this.#correct(false);
  }

  /** Its correction was deleted. */
  forget() {
    if (!this.#kept) return;
    this.#kept = undefined;
    this.#note("");
    this.render();
  }

  #note(words) {
    this.#find(".note").textContent = words;
  }

  #find(selector) {
    return this.#element.querySelector(selector);
  }
}

/** Let no card say that something is kept. */
export function forgetKept() {
  for (const card of cards) card.forget();
}

/** Remove every card. */
export function clear() {
  for (const card of [...cards]) card.remove();
}

/** Write every card again, as the language has changed, or what is known of the labels. */
export function renderAll() {
  for (const card of cards) card.render();
}

/** The cards whose photos wait for that reason, the oldest first. */
export function waiting(why) {
  return [...cards].filter((card) => card.waitsFor === why);
}

function column([name, { value, likeliest, confidence }]) {
  const [term, said] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name.replaceAll("_", " ");
  said.textContent = value ?? text("perhaps_one", { first: likeliest, percent: percent(confidence) });
  return [term, said];
}

function row({ label, confidence }) {
  const item = document.createElement("li");
  const [name, bar, share] = ["name", "bar", "share"].map((part) => {
    const element = document.createElement(part === "share" ? "data" : "span");
    element.className = part;
    return element;
  });
  name.textContent = label;
  share.value = confidence;
  const fill = document.createElement("span");
  fill.style.width = `${confidence * 100}%`;
  bar.append(fill);
  share.textContent = percent(confidence);
  item.append(name, share, bar);
  return item;
}

// One card for each photo: its preview, and what was found or why nothing was.

import { percent, text, TEXTS } from "./texts.js";

const MOST = 50; // cards; each one holds its photo in memory

const list = document.querySelector("#cards");
const section = document.querySelector("#results");
const template = document.querySelector("#card");
const cards = new Set();
let count = 0;

export class Card {
  #element;
  #url;
  #number = ++count;
  #name;
  #state = { kind: "working" };

  /** Put a card for a photo on top of the others. */
  constructor(blob, name) {
    this.#name = name;
    this.#element = template.content.firstElementChild.cloneNode(true);
    this.#url = URL.createObjectURL(blob);
    const image = this.#find("img");
    image.onerror = () => this.#element.classList.add("no-picture");
    image.src = this.#url;
    this.#find(".remove").onclick = () => this.#removeAndFocus();
    this.#find("h3").id = `card-${this.#number}`;
    this.#element.setAttribute("aria-labelledby", `card-${this.#number}`);
    cards.add(this);
    list.prepend(this.#element);
    section.hidden = false;
    if (cards.size > MOST) cards.values().next().value.remove();
    this.render();
    this.#element.scrollIntoView({ block: "nearest" });
  }

  /** Show {kind: "working" | "busy"}, {kind: "answer", ...} of Answers, or {kind: "rejected", reason}. */
  show(state) {
    this.#state = state;
    this.render();
  }

  /** What is said aloud about the card: the photo's name, and the answer. */
  get summary() {
    return `${this.name}: ${[this.#find("h3"), this.#find(".says")].map((part) => part.textContent).join(", ")}`;
  }

  get name() {
    return this.#name ?? text("photo", { n: this.#number });
  }

  /** Write everything in the current language. */
  render() {
    const { kind, by, top = [], milliseconds } = this.#state;
    this.#element.dataset.kind = kind === "answer" && !this.#state.sure ? "unsure" : kind;
    this.#element.setAttribute("aria-busy", kind === "working" || kind === "busy");
    this.#find("h3").textContent = this.#heading();
    this.#find(".says").textContent = this.#says();
    this.#find("img").alt = text("picture", { name: this.name });
    this.#find(".remove").setAttribute("aria-label", text("remove", { name: this.name }));
    this.#find(".top").setAttribute("aria-label", text("top"));
    this.#find(".top").hidden = top.length === 0;
    this.#find(".top").replaceChildren(...top.map(row));
    const answered = kind === "answer" ? text(`by_${by}`, { ms: Math.round(milliseconds) }) : "";
    this.#find(".by").textContent = kind === "rejected" ? this.name : answered;
    this.#find(".by").dataset.by = by ?? "";
  }

  remove() {
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

  #heading() {
    switch (this.#state.kind) {
      case "answer":
        return this.#state.sure ? this.#state.top[0].label : text("not_sure");
      case "rejected":
        return text("failed");
      default:
        return text("working");
    }
  }

  #says() {
    const { kind, sure, top, reason } = this.#state;
    if (kind === "busy") return text("busy");
    if (kind === "rejected") return text(reasonIsKnown(reason) ? `reason_${reason}` : "reason_failed");
    if (kind !== "answer") return "";
    const [first, second] = top;
    if (sure) return text("sure", { percent: percent(first.confidence) });
    const values = { first: first.label, percent: percent(first.confidence) };
    if (!second) return text("perhaps_one", values);
    const both = { ...values, second: second.label, percent_second: percent(second.confidence) };
    return `${text("perhaps_two", both)} ${text("not_sure_tip")}`;
  }

  #find(selector) {
    return this.#element.querySelector(selector);
  }
}

/** Remove every card. */
export function clear() {
  for (const card of [...cards]) card.remove();
}

/** Write every card again, as the language has changed. */
export function renderAll() {
  for (const card of cards) card.render();
}

function reasonIsKnown(reason) {
  return `reason_${reason}` in TEXTS.en;
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
  fill.style.width = `${Math.max(confidence * 100, 0.5)}%`;
  bar.append(fill);
  share.textContent = percent(confidence);
  item.append(name, share, bar);
  return item;
}

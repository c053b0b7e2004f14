// What there is to know about a label or a kind, as cards.csv of the model has it. Only ever shown as text.

import { currentLanguage, text } from "./texts.js";

const DETAILS = ["season", "storage", "origin"];

let facts = [];

/** Take the content of cards.json. */
export function setFacts(cards) {
  facts = cards;
}

/** Show under `section` what is known of a label, else of its kind; hide it if that is nothing. */
export function showFact(section, { label, kind }) {
  const about = (column, name) => name && inLanguage(facts.filter((each) => each[column] === name));
  // A row that has the kind's name as its label is about it, too.
  const fact = about("label", label) || about("kind", kind) || about("label", kind);
  section.hidden = !fact;
  if (!fact) return;
  section.lang = fact.language;
  const find = (selector) => section.querySelector(selector);
  find("h4").textContent = fact.name;
  show(find(".fact-text"), fact.text);
  const details = DETAILS.filter((name) => fact[name]).flatMap((name) => {
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    Object.assign(term, { textContent: text(name), lang: currentLanguage() });
    value.textContent = fact[name];
    return [term, value];
  });
  find("dl").replaceChildren(...details);
  find("dl").hidden = details.length === 0;
  const address = webAddress(fact.link);
  const link = find("a");
  link.hidden = !address;
  if (address) Object.assign(link, { href: address.href, textContent: text("more", { place: address.hostname }), lang: currentLanguage() });
  show(find(".source"), [fact.source, fact.licence].filter(Boolean).join(" · "));
}

function show(element, content) {
  element.textContent = content ?? "";
  element.hidden = !content;
}

/** The one in the page's language, or in a variety of it; else in English, else in any. */
function inLanguage(cards) {
  const written = (tag) => cards.find(({ language }) => language === tag) ?? cards.find(({ language }) => language.split("-")[0] === tag);
  return written(currentLanguage()) ?? written("en") ?? cards[0];
}

function webAddress(link) {
  try {
    const address = new URL(link);
    return ["http:", "https:"].includes(address.protocol) ? address : undefined;
  } catch {
    return undefined; // none, or not a whole address
  }
}

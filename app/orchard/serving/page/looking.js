// Where the model looked at a photo: a soft shade over its picture, boxes if several things are found, and both in words.

import { square } from "./regions.js";
import { percent, text } from "./texts.js";

const DARKEST = 0.6; // of what says nothing for the answer
const MUCH = 0.5; // of what the cell says that says most

/** Draw {map, regions} of Answers into the element `over` an image: rows of numbers, and what was found. */
export function draw(over, image, fit, { map, regions = [] }) {
  const canvas = document.createElement("canvas");
  const [across, down] = [map?.[0].length ?? 1, map?.length ?? 1];
  Object.assign(canvas, { width: across, height: down });
  place(canvas, square({ width: image.naturalWidth, height: image.naturalHeight }, fit));
  if (map) {
    const pixels = new ImageData(across, down);
    map.flat().forEach((share, at) => (pixels.data[4 * at + 3] = 255 * DARKEST * (1 - share)));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }
  // One thing is what the answer says already.
  const boxes = regions.length < 2 ? [] : regions.map(({ name, box }) => place(Object.assign(document.createElement("span"), { textContent: name }), box));
  over.replaceChildren(canvas, ...boxes);
}

/** What the picture shows, in words: where it is bright, and what was found where. */
export function words({ map, regions, failed }, name) {
  if (failed) return text("where_failed");
  const said = [map ? text(name ? "where_speaks" : "where_looked", { name, place: inWords(middle(map)) }) : text("working")];
  if (regions) {
    const found = regions.map(({ name, confidence, box: [left, top, right, bottom] }) =>
      text("where_thing", { name, percent: percent(confidence), place: inWords([(left + right) / 2, (top + bottom) / 2]) }),
    );
    said.push(found.length ? `${text("where_found")} ${found.join("; ")}.` : text("where_nothing"));
  } else if (map) {
    said.push(text("where_searching"));
  }
  return said.join(" ");
}

function middle(map) {
  let [sum, across, down] = [0, 0, 0];
  map.forEach((row, y) =>
    row.forEach((share, x) => {
      if (share < MUCH) return;
      sum += share;
      across += (share * (x + 0.5)) / row.length;
      down += (share * (y + 0.5)) / map.length;
    }),
  );
  return sum ? [across / sum, down / sum] : [0.5, 0.5];
}

function inWords(at) {
  const [column, row] = at.map((share) => Math.min(2, Math.floor(3 * share)));
  return text(`place_${3 * row + column}`);
}

function place(element, [left, top, right, bottom]) {
  const style = { left, top, width: right - left, height: bottom - top };
  for (const [name, share] of Object.entries(style)) element.style[name] = `${100 * share}%`;
  return element;
}

// Several things on one photo: it is looked at in parts, as orchard.inference.regions does for the server's answers.

import { stretch } from "./pixels.js";

/** What the network sees of a photo: [left, top, right, bottom] as shares of it; beyond 0..1 where it is padded. */
export function square({ width, height }, fit) {
  if (fit !== "crop" && fit !== "pad") return [0, 0, 1, 1];
  const side = fit === "crop" ? Math.min(width, height) : Math.max(width, height);
  const [across, down] = [side / width, side / height];
  return [(1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2];
}

/**
 * Find what is on a photo, the surest first; each kind once, where it shows best.
 *
 * `about` describes the model, `picture` is of pixels.js' decode, and `run` gives the model's outputs for pixels.
 * Returns [{name, confidence, box}], the box as `square` has it.
 */
export async function find(about, picture, run) {
  const { boxes, oblong, part: side, familiarity: familiar, confidence: least } = about.regions;
  const { original, width, height } = picture;
  const shape = about.input.fit === "stretch" ? original : picture;
  const shown = shape.width > oblong * shape.height ? "wide" : shape.height > oblong * shape.width ? "tall" : "square";
  const found = new Map();
  for (const box of boxes[shown]) {
    const edges = box.map((share, edge) => share * (edge % 2 ? height : width));
    const [across, down] = [edges[2] - edges[0], edges[3] - edges[1]].map((length) => Math.max(1, Math.min(side, Math.round(length))));
    const cut = stretch(picture, across, down, edges);
    const outputs = await run({ ...cut, data: Uint8Array.from(cut.data, Math.round) });
    // Of a model of several views: of the whole part alone, as the server looks at it.
    const of = (name) => outputs[`whole.${name}`] ?? outputs[name];
    const shares = (about.kinds && of("kind_probabilities")) ?? of("probabilities");
    const confidence = Math.max(...shares);
    const [familiarity] = of("familiarity") ?? [1];
    const name = (about.kinds?.names ?? about.labels)[shares.indexOf(confidence)];
    const score = confidence * familiarity;
    if (familiarity < familiar || confidence < least || score <= (found.get(name)?.score ?? 0)) continue;
    found.set(name, { name, confidence, score, box: within(square(original, about.input.fit), box) });
  }
  return [...found.values()].sort((a, b) => b.score - a.score).map(({ name, confidence, box }) => ({ name, confidence, box }));
}

/** Rows of numbers as shares of the greatest; what speaks against the answer is 0. */
export function shares(values, across) {
  const most = Math.max(...values);
  const rows = Array.from({ length: values.length / across }, (_, row) => [...values.slice(row * across, (row + 1) * across)]);
  return rows.map((row) => row.map((value) => (most > 0 ? Math.max(0, value) / most : 0)));
}

function within([left, top, right, bottom], box) {
  return box.map((share, edge) => {
    const [from, to] = edge % 2 ? [top, bottom] : [left, right];
    return Math.min(1, Math.max(0, from + (to - from) * share));
  });
}

// From the bytes of an image to the pixels that the network sees, as the server makes them.

import { endsEarly } from "./whole.js";

const STRIP = 1 << 20; // pixels that are looked at at once

/** Why a file cannot be answered on this device; `reason` is one of the server's. */
export class Rejected extends Error {
  constructor(reason, detail) {
    super(detail);
    this.reason = reason;
  }
}

/**
 * Decode an image: upright, transparency on white.
 *
 * An image whose sides are both at most `size` keeps its size; any other is stretched to a square of `size`.
 * Returns {width, height, data}: data is RGB, one byte each, row by row. Throws Rejected.
 */
export async function decode(blob, size) {
  if (blob.size === 0) throw new Rejected("empty", "0 bytes");
  if (await endsEarly(blob)) throw new Rejected("truncated", "the end is missing");
  let bitmap;
  try {
    // Colours as they are stored: neither the pipeline nor the server converts colour profiles.
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch (error) {
    throw new Rejected("unreadable", String(error));
  }
  try {
    const fits = bitmap.width <= size && bitmap.height <= size;
    // Twice the target leaves the last step, which is exact, enough to work with.
    const image = average(bitmap, factor(bitmap.width, size), factor(bitmap.height, size));
    const { width, height, data } = fits ? image : stretch(image, size);
    return { width, height, data: Uint8Array.from(data, Math.round) };
  } finally {
    bitmap.close();
  }
}

function factor(length, size) {
  return Math.max(1, Math.floor(length / (2 * size)));
}

/**
 * Shrink by whole factors, each pixel the mean of those under it, on white. In strips, as phones limit a canvas; not by
 * the canvas itself, which rounds down at every halving: that shifts a likelihood by up to 0.03.
 */
function average(bitmap, across, down) {
  const { width: wide, height: high } = bitmap; // asking the bitmap for them takes longer than a pixel's sums
  const width = Math.ceil(wide / across);
  const height = Math.ceil(high / down);
  const rows = Math.min(high, Math.ceil(STRIP / wide / down) * down);
  const context = new OffscreenCanvas(wide, rows).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  const columns = Int32Array.from({ length: wide }, (_, x) => Math.floor(x / across) * 3);
  const data = new Float32Array(width * height * 3);
  for (let top = 0; top < high; top += rows) {
    const count = Math.min(rows, high - top);
    context.fillRect(0, 0, wide, rows);
    context.drawImage(bitmap, 0, -top);
    const rgba = context.getImageData(0, 0, wide, count).data;
    for (let y = 0, from = 0; y < count; y++) {
      const line = Math.floor((top + y) / down) * width * 3;
      for (let x = 0; x < wide; x++, from += 4) {
        const to = line + columns[x];
        data[to] += rgba[from];
        data[to + 1] += rgba[from + 1];
        data[to + 2] += rgba[from + 2];
      }
    }
  }
  if (across * down === 1) return { width, height, data };
  for (let y = 0, at = 0; y < height; y++) {
    const tall = Math.min(down, high - y * down); // the last ones may have fewer pixels under them
    for (let x = 0; x < width; x++) {
      const pixels = tall * Math.min(across, wide - x * across);
      for (let channel = 0; channel < 3; channel++) data[at++] /= pixels;
    }
  }
  return { width, height, data };
}

/** Stretch to a square of `size` with an antialiased bilinear (triangle) filter, as Pillow does. */
export function stretch({ width, height, data }, size) {
  const wide = new Float32Array(height * size * 3);
  filter(width, size, (to, from, weight) => {
    for (let row = 0; row < height; row++) {
      const target = (row * size + to) * 3;
      const source = (row * width + from) * 3;
      for (let channel = 0; channel < 3; channel++) wide[target + channel] += weight * data[source + channel];
    }
  });
  const square = new Float32Array(size * size * 3);
  filter(height, size, (to, from, weight) => {
    const target = to * size * 3;
    const source = from * size * 3;
    for (let index = 0; index < size * 3; index++) square[target + index] += weight * wide[source + index];
  });
  return { width: size, height: size, data: square };
}

/** Call `add(to, from, weight)` for every input pixel that has a part in an output pixel, along one axis. */
function filter(length, size, add) {
  const scale = length / size;
  const support = Math.max(scale, 1);
  for (let to = 0; to < size; to++) {
    const centre = (to + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(length, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let from = first; from < last; from++) weights.push(Math.max(0, 1 - Math.abs(from + 0.5 - centre) / support));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    weights.forEach((weight, index) => add(to, first + index, weight / sum));
  }
}

// From the bytes of an image to the pixels that the network sees, as the server makes them.

import { isSideways, orientationOf, turned } from "./upright.js";
import { endsEarly } from "./whole.js";

const STRIP = 1 << 20; // pixels that are looked at at once
const GREY = 127; // of the border of a padded image

/** Why a file cannot be answered on this device; `reason` is one of the server's. */
export class Rejected extends Error {
  constructor(reason, detail) {
    super(detail);
    this.reason = reason;
  }
}

/**
 * Decode an image: upright, in sRGB, transparency on white.
 *
 * An image whose sides are both at most `size` keeps its size; any other is stretched to a square of `size`. `fit` is
 * how it becomes square: stretch; crop, where the square in its middle counts alone; pad, with a grey border.
 * Returns {width, height, data, original}: data is RGB, one byte each, row by row; original is the image's own {width,
 * height}. Throws Rejected.
 */
export async function decode(file, size, fit = "stretch") {
  if (file.size === 0) throw new Rejected("empty", "0 bytes");
  if (await endsEarly(file)) throw new Rejected("truncated", "the end is missing");
  const { blob, orientation } = await orientationOf(file);
  let bitmap;
  try {
    // Colours become those of sRGB, as in the pipeline: an iPhone's photos have a wider profile.
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch (error) {
    throw new Rejected("unreadable", String(error));
  }
  const { width, height } = bitmap;
  const original = isSideways(orientation) ? { width: height, height: width } : { width, height };
  try {
    if (fit === "crop") bitmap = await middle(bitmap);
    const longer = Math.max(bitmap.width, bitmap.height);
    const fits = longer <= size;
    const [wide, high] = [bitmap.width, bitmap.height].map((length) =>
      fit === "pad" ? Math.max(1, Math.floor((length * size) / longer + 0.5)) : size,
    );
    // Twice the target leaves the last step, which is exact, enough to work with.
    const image = average(bitmap, factor(bitmap.width, wide), factor(bitmap.height, high));
    const resized = fits ? image : stretch(image, wide, high);
    const rounded = { ...resized, data: Uint8Array.from(resized.data, Math.round) };
    const upright = orientation > 1 ? turned(rounded, orientation) : rounded;
    return { ...(fit === "pad" ? padded(upright) : upright), original };
  } finally {
    bitmap.close();
  }
}

async function middle(bitmap) {
  const { width, height } = bitmap;
  const side = Math.min(width, height);
  if (width === height) return bitmap;
  const [left, top] = [Math.floor((width - side) / 2), Math.floor((height - side) / 2)];
  try {
    return await createImageBitmap(bitmap, left, top, side, side);
  } finally {
    bitmap.close();
  }
}

function padded({ width, height, data }) {
  const side = Math.max(width, height);
  const square = new Uint8Array(side * side * 3).fill(GREY);
  const [left, top] = [Math.floor((side - width) / 2), Math.floor((side - height) / 2)];
  for (let row = 0; row < height; row++) {
    square.set(data.subarray(row * width * 3, (row + 1) * width * 3), ((top + row) * side + left) * 3);
  }
  return { width: side, height: side, data: square };
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

/**
 * Stretch to another size with an antialiased bilinear (triangle) filter, as Pillow does: an image, or the part of it
 * between the edges left, top, right and bottom, in pixels.
 */
export function stretch({ width, height, data }, across, down, [left, top, right, bottom] = [0, 0, width, height]) {
  const wide = new Float32Array(height * across * 3);
  filter(width, [left, right], across, (to, from, weight) => {
    for (let row = 0; row < height; row++) {
      const target = (row * across + to) * 3;
      const source = (row * width + from) * 3;
      for (let channel = 0; channel < 3; channel++) wide[target + channel] += weight * data[source + channel];
    }
  });
  const found = new Float32Array(across * down * 3);
  filter(height, [top, bottom], down, (to, from, weight) => {
    const target = to * across * 3;
    const source = from * across * 3;
    for (let index = 0; index < across * 3; index++) found[target + index] += weight * wide[source + index];
  });
  return { width: across, height: down, data: found };
}

/** Call `add(to, from, weight)` for every input pixel that has a part in an output pixel, along one axis. */
function filter(length, [start, end], size, add) {
  const scale = (end - start) / size;
  const support = Math.max(scale, 1);
  for (let to = 0; to < size; to++) {
    const centre = start + (to + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(length, Math.floor(centre + support + 0.5));
    const weights = [];
    for (let from = first; from < last; from++) weights.push(Math.max(0, 1 - Math.abs(from + 0.5 - centre) / support));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    weights.forEach((weight, index) => add(to, first + index, weight / sum));
  }
}

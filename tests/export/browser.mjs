// Runs the snippet of docs/export.md in Node: browser.mjs SNIPPET PIXELS WIDTH HEIGHT, in the model's folder.
// What a browser has and Node lacks: a picture is decoded already, as WIDTH x HEIGHT pixels of RGBA.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

globalThis.require = createRequire(import.meta.url); // of ONNX Runtime, whose bundle asks for Node's own modules
globalThis.fetch = async (path) => new Response(await readFile(path));
globalThis.createImageBitmap = async (photo) => photo;
globalThis.OffscreenCanvas = class {
  constructor(width, height) {
    Object.assign(this, { width, height });
  }
  getContext() {
    const { width, height } = this;
    let drawn;
    return {
      fillRect() {},
      drawImage: (photo) => (drawn = photo),
      getImageData: () => {
        if (drawn.width !== width || drawn.height !== height) throw new Error("this canvas does not resize");
        return { data: drawn.data };
      },
    };
  }
};
const [snippet, pixels, width, height] = process.argv.slice(2);
const { classify } = await import(snippet);
const photo = { width: +width, height: +height, data: new Uint8ClampedArray(await readFile(pixels)) };
console.log(JSON.stringify(await classify(photo)));
process.exit(0);

// Which way up a WebP is. Browsers turn a JPEG, PNG or AVIF as its EXIF says, and no WebP.

const MOST_CHUNKS = 100;
const MOST_EXIF = 1 << 16; // bytes: the tag comes early
const ORIENTATION = 0x0112;
// Whether left and right, top and bottom, rows and columns change places, in this order, for the orientations from 1.
const CHANGES = [[], [1], [1, 1], [0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1]];

/**
 * The file without its EXIF and the orientation of that, 1 to 8, if it is a WebP; any other as it is, and 1: no browser
 * may turn what is turned here.
 */
export async function orientationOf(blob) {
  const bytes = async (start, count) => new DataView(await blob.slice(start, start + count).arrayBuffer());
  const head = await bytes(0, 12);
  if (head.byteLength < 12 || name(head, 0) !== "RIFF" || name(head, 8) !== "WEBP") return { blob, orientation: 1 };
  for (let at = 12, count = 0; count < MOST_CHUNKS; count++) {
    const chunk = await bytes(at, 8);
    if (chunk.byteLength < 8) break;
    const length = chunk.getUint32(4, true);
    if (name(chunk, 0) === "EXIF") {
      const orientation = tagged(await bytes(at + 8, Math.min(length, MOST_EXIF)));
      return { blob: new Blob([blob.slice(0, at), "none", blob.slice(at + 4)]), orientation };
    }
    at += 8 + length + (length % 2);
  }
  return { blob, orientation: 1 };
}

function name(view, at) {
  return String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
}

/** The orientation that EXIF tells; 1 if it is broken. */
function tagged(exif) {
  try {
    const start = name(exif, 0) === "Exif" ? 6 : 0;
    const little = exif.getUint16(start) === 0x4949;
    const directory = start + exif.getUint32(start + 4, little);
    for (let entry = 0; entry < exif.getUint16(directory, little); entry++) {
      const at = directory + 2 + 12 * entry;
      const found = exif.getUint16(at + 8, little);
      if (exif.getUint16(at, little) === ORIENTATION) return CHANGES[found - 1] ? found : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}

/** Whether an image of that orientation lies on its side. */
export function isSideways(orientation) {
  return orientation > 4;
}

/** An image of three bytes a pixel, set upright. */
export function turned({ width, height, data }, orientation) {
  const [across, down, sideways] = CHANGES[orientation - 1];
  const [wide, high] = sideways ? [height, width] : [width, height];
  const found = new Uint8Array(data.length);
  for (let y = 0, to = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      const [column, row] = sideways ? [y, x] : [x, y];
      const from = ((down ? height - 1 - row : row) * width + (across ? width - 1 - column : column)) * 3;
      for (let channel = 0; channel < 3; channel++) found[to++] = data[from + channel];
    }
  }
  return { width: wide, height: high, data: found };
}

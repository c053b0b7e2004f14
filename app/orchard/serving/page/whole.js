// Whether an image file has its end. Browsers show what there is of a cut one; the server refuses it.

/** Whether a JPEG or PNG is cut off. What comes after its end, as the video of a motion photo, does not matter. */
export async function endsEarly(blob) {
  const head = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  const check = head[0] === 0xff && head[1] === 0xd8 ? jpegHasEnd : head[0] === 0x89 && head[1] === 0x50 ? pngHasEnd : undefined;
  return check !== undefined && !check(new Uint8Array(await blob.arrayBuffer()));
}

/** Segments are stepped over by their length: a thumbnail in one has an end of its own. */
function jpegHasEnd(bytes) {
  for (let at = bytes.indexOf(0xff, 2); at >= 0 && at + 1 < bytes.length; at = bytes.indexOf(0xff, at)) {
    const marker = bytes[at + 1];
    if (marker === 0xd9) return true;
    if (marker === 0xff) at += 1; // a fill byte
    else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) at += 2; // stuffed, or a marker without a length
    else if (at + 3 < bytes.length) at += 2 + bytes[at + 2] * 256 + bytes[at + 3];
    else return false;
  }
  return false;
}

function pngHasEnd(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49454e44) return true; // IEND
  }
  return false;
}

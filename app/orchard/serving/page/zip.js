// A zip archive whose files are stored as they are: photos do not get smaller.

const NEEDS = 20; // version 2.0: folders
const UTF8 = 1 << 11; // names are UTF-8
const MOST_FILES = 0xffff;
const MOST_BYTES = 0xffffffff;
const NAME_BYTES = 120; // of a name; Windows takes paths of 260 characters

const encoder = new TextEncoder();
const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/**
 * Return a Blob that unpacks to `files`: [{path, content: Blob, time: Date}]. Only one of them is in memory at a time.
 * RangeError: they are more than 65,535, or have more than 4 GB.
 */
export async function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { path, content, time } of files) {
    const name = encoder.encode(path);
    const sum = crc32(new Uint8Array(await content.arrayBuffer()));
    const fields = [[2, NEEDS], [2, UTF8], [2, 0], [2, clock(time)], [2, calendar(time)], [4, sum]];
    fields.push([4, content.size], [4, content.size], [2, name.length], [2, 0]);
    directory.push(record([[4, 0x02014b50], [2, NEEDS], ...fields, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), name);
    const header = record([[4, 0x04034b50], ...fields]);
    parts.push(header, name, content);
    offset += header.length + name.length + content.size;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  if (files.length > MOST_FILES || offset + size > MOST_BYTES) throw new RangeError("too much for one archive");
  const end = [[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]];
  return new Blob([...parts, ...directory, record(end)], { type: "application/zip" });
}

/** Return a name that is one folder or file on every system, and no way out of where it is unpacked. */
export function safeName(name) {
  // Not allowed on Windows, or invisible: control characters, marks that turn the direction, half characters.
  const allowed = name.normalize("NFC").replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff<>:"/\\|?*]/gu, "_");
  const trimmed = shorten(allowed.trim()).replace(/[. ]+$/u, "").replace(/^\.+/u, "_");
  return /^(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\.|$)/iu.test(trimmed) ? `_${trimmed}` : trimmed || "_";
}

function shorten(name) {
  let short = "";
  for (const { segment } of new Intl.Segmenter().segment(name)) {
    if (encoder.encode(short + segment).length > NAME_BYTES) break;
    short += segment;
  }
  return short;
}

function crc32(bytes) {
  let sum = 0xffffffff;
  for (let at = 0; at < bytes.length; at++) sum = TABLE[(sum ^ bytes[at]) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

// MS-DOS counts from 1980, in steps of two seconds.
function clock(time) {
  return (time.getHours() << 11) | (time.getMinutes() << 5) | (time.getSeconds() >> 1);
}

function calendar(time) {
  return (Math.max(0, time.getFullYear() - 1980) << 9) | ((time.getMonth() + 1) << 5) | time.getDate();
}

/** Numbers of 2 or 4 bytes, little-endian, one after the other. */
function record(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return bytes;
}

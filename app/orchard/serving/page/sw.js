// Keeps the page for offline use. The server puts PAGE = {version, files} before the first line, the files with their
// ETags: a change of any file changes the version, and with it this script, which is how browsers notice. The model is
// kept by worker.js.

// Where the page is: another one may lie beside it, under another path of the same host.
const BASE = new URL("./", location).pathname;
const FILES = new Map(Object.entries(PAGE.files).map(([file, etag]) => [BASE + file.slice(1), etag]));
const PREFIX = `orchard-page-${BASE}-`;
const CACHE = PREFIX + PAGE.version;

self.addEventListener("install", (event) => event.waitUntil(install()));

self.addEventListener("activate", (event) => event.waitUntil(activate()));

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin || !FILES.has(url.pathname)) return;
  event.respondWith(respond(event.request, url.pathname));
});

async function install() {
  const cache = await caches.open(CACHE);
  await Promise.all([...FILES].map(([path, etag]) => keep(cache, path, etag)));
  await self.skipWaiting();
}

/** Keep a file of this version; throws if it is of another, so that the browser installs this one later. */
async function keep(cache, path, etag) {
  const response = await fetch(path, { cache: "no-cache" });
  // While servers change to a new version, one may have sent this script, and another send its former files. A proxy
  // that changes files sends no ETag, or a weak one.
  const sent = response.headers.get("etag");
  if (!response.ok || (sent && !sent.includes(etag))) throw new Error(`${path} is not of version ${PAGE.version}`);
  await cache.put(path, response);
}

async function activate() {
  const former = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(former.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function respond(request, path) {
  // Storage that fails, as on a device that is full, does not take the page away.
  const kept = await caches.open(CACHE).then((cache) => cache.match(path), () => undefined);
  return kept ?? fetch(request);
}

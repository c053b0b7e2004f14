// Keeps the page for offline use. The server puts PAGE = {version, files} before the first line: a change of any
// file changes the version, and with it this script, which is how browsers notice. The model is kept by worker.js.

// Where the page is: another one may lie beside it, under another path of the same host.
const BASE = new URL("./", location).pathname;
const FILES = PAGE.files.map((file) => BASE + file.slice(1));
const PREFIX = `orchard-page-${BASE}-`;
const CACHE = PREFIX + PAGE.version;

self.addEventListener("install", (event) => {
  const requests = FILES.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => event.waitUntil(activate()));

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin || !FILES.includes(url.pathname)) return;
  event.respondWith(respond(event.request, url.pathname));
});

async function activate() {
  const former = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(former.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function respond(request, path) {
  const cache = await caches.open(CACHE);
  return (await cache.match(path)) ?? fetch(request);
}

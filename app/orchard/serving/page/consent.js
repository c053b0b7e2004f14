// Whether photos may go to the server. Nothing does until someone has said yes.

const REMEMBERED = "orchard-may-send";

const allowed = new Set(remembered());

/** Whether photos may go there for this reason: "missing" (no model on this device yet) or "unreadable". */
export function maySend(why) {
  return allowed.has(why);
}

/** Allow it until the page is left, or, `forSession`, until the browser's tab is closed. */
export function allow(why, forSession) {
  allowed.add(why);
  if (!forSession) return;
  try {
    sessionStorage.setItem(REMEMBERED, JSON.stringify([...remembered(), why]));
  } catch {
    // A private window may have no storage.
  }
}

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(REMEMBERED) ?? "[]");
  } catch {
    return [];
  }
}

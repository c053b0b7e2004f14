// Gives an answer to other apps, or else to the clipboard.

/** Whether there is any way to share here: both ways need a secure context. */
export const canShare = Boolean(navigator.share ?? navigator.clipboard);

/** Share a text and, where that is allowed, its photo. Returns "shared", "copied", "cancelled" or "failed". */
export async function share(words, photo, name) {
  try {
    if (!navigator.share) {
      await navigator.clipboard.writeText(words);
      return "copied";
    }
    const files = [new File([photo], name, { type: photo.type })];
    await navigator.share(navigator.canShare?.({ files }) ? { text: words, files } : { text: words });
    return "shared";
  } catch (error) {
    return error.name === "AbortError" ? "cancelled" : "failed";
  }
}

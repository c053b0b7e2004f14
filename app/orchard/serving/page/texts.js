// What the page says, in every language. The object is plain JSON: a test reads it.

export const TEXTS = {
  "en": {
    "skip": "Go to the photo buttons",
    "title": "What is on your photo?",
    "add": "Add photos",
    "camera": "Use the camera",
    "choose": "Choose photos",
    "hint": "or drop them here, or paste one",
    "drop": "Drop the photos here",
    "left_out": "Only the first {most} of these {n} photos are here: choose the others after them.",
    "results": "Your photos",
    "clear": "Remove all",
    "remove": "Remove {name}",
    "known": "What it can recognise ({n})",
    "privacy": "Privacy",
    "progress": "Loading the model",
    "state_loading": "Loading the model…",
    "state_loading_detail": "{loaded} of {total} MB. Until then photos wait here, or go to the server if you say so.",
    "state_loading_start": "Until then photos wait here, or go to the server if you say so.",
    "state_starting": "Starting the model…",
    "state_offline": "Ready, also without a connection",
    "state_ready": "Ready on this device",
    "state_ready_detail": "Your photos stay on this device.",
    "state_server": "The server answers",
    "state_server_detail": "Your photos go to it once you have said yes. It keeps none of them.",
    "state_server_runtime": "It was set up without the part that runs on your device. Your photos go to it once you have said yes. It keeps none of them.",
    "state_server_browser": "This browser cannot run the model. Your photos go to the server once you have said yes. It keeps none of them.",
    "state_nothing": "No connection",
    "state_nothing_detail": "The model is not on this device yet. Connect once, and it works offline from then on.",
    "working": "Looking…",
    "busy": "The server is busy. Trying again…",
    "sure": "{percent} sure",
    "not_sure": "Not sure",
    "perhaps_one": "It might be {first} ({percent}).",
    "perhaps_two": "It might be {first} ({percent}) or {second} ({percent_second}).",
    "kind_only": "The kind is sure; which one is not.",
    "unknown": "Unlike anything I have learned",
    "unknown_detail": "This is unlike anything I have learned, so I give it no name. If it is something I know, try it alone, closer, in good light.",
    "not_sure_tip": "Try it alone, closer, on a plain background.",
    "top": "Likeliest answers",
    "ask": "Ask the server?",
    "ask_missing": "The model is not on this device. The photo waits here for it, or the server answers now: then this photo and the next ones go to it. It keeps none of them.",
    "ask_unreadable": "This device cannot read this file. The server may be able to: it gets the file only if you say so, and does not keep it.",
    "allow": "Yes, ask the server",
    "allow_all": "Do not ask again until I close this page",
    "seen": "As the model sees it",
    "frame": "The model sees this square.",
    "season": "Season",
    "storage": "Storage",
    "origin": "Origin",
    "more": "Read more at {place}",
    "where": "Where it looks",
    "where_speaks": "Bright is what speaks most for {name}: {place}.",
    "where_looked": "Bright is what it looked at most: {place}.",
    "where_searching": "Looking for several things…",
    "where_found": "On this photo:",
    "where_thing": "{name} ({percent}), {place}",
    "where_nothing": "Nothing is found for sure on a part of it.",
    "where_failed": "It could not be shown where it looks.",
    "place_0": "top left",
    "place_1": "at the top",
    "place_2": "top right",
    "place_3": "on the left",
    "place_4": "in the middle",
    "place_5": "on the right",
    "place_6": "bottom left",
    "place_7": "at the bottom",
    "place_8": "bottom right",
    "share": "Share",
    "share_shared": "Shared.",
    "share_copied": "Copied: paste it where you want.",
    "share_failed": "It could not be shared.",
    "wrong": "Wrong? Tell us what it is",
    "tell": "Tell us what it is",
    "change": "Change what it is",
    "what": "What is it?",
    "keep": "Keep",
    "cancel": "Cancel",
    "kept": "Kept on this device as {label}.",
    "not_kept": "It could not be kept: free some space on this device and try again.",
    "corrections": "{n} corrections",
    "corrections_one": "{n} correction",
    "corrections_detail": "They stay on this device until you export or delete them.",
    "corrections_export": "Export corrections",
    "corrections_delete": "Delete them",
    "corrections_sure": "Delete {n} photos and what you said of them from this device?",
    "corrections_failed": "This did not work. Free some space on this device and try again.",
    "by_device": "Answered by this device in {ms} ms. Your photo stayed here.",
    "by_server": "Answered by the server in {ms} ms. It keeps no photo.",
    "failed": "No answer",
    "photo": "Photo {n}",
    "picture": "Preview of {name}",
    "camera_title": "Camera",
    "camera_view": "What the camera sees",
    "camera_denied": "The camera may not be used: allow it in the browser's settings, or choose a photo.",
    "camera_missing": "No camera could be started: choose a photo instead.",
    "shutter": "Take the photo",
    "close": "Close",
    "turn": "Turn",
    "reason_empty": "The file is empty.",
    "reason_unreadable": "The file could not be read.",
    "reason_unsupported_format": "This is no image that can be read here: use JPEG, PNG, WebP, BMP, GIF or TIFF.",
    "reason_truncated": "The image is cut off: its end is missing. Copy or take it again.",
    "reason_corrupt": "The image is damaged and cannot be read.",
    "reason_too_large": "The file is too large. Send a smaller one.",
    "reason_too_many_pixels": "The image has too many pixels. Shrink it first.",
    "reason_too_slow": "The image takes too long to read. Save it again, or smaller.",
    "reason_busy": "The server has too much to do. Try again in a moment.",
    "reason_offline": "There is no connection. Ask again when there is one.",
    "reason_failed": "The server could not answer. Try again later."
  },
  "fr": {
    "skip": "Aller aux boutons de photo",
    "title": "Qu’y a-t-il sur votre photo ?",
    "add": "Ajouter des photos",
    "camera": "Ouvrir la caméra",
    "choose": "Choisir des photos",
    "hint": "ou déposez-les ici, ou collez-en une",
    "drop": "Déposez les photos ici",
    "left_out": "Seules les {most} premières de ces {n} photos sont là : choisissez les autres ensuite.",
    "results": "Vos photos",
    "clear": "Tout retirer",
    "remove": "Retirer {name}",
    "known": "Ce qui peut être reconnu ({n})",
    "privacy": "Protection des données",
    "progress": "Chargement du modèle",
    "state_loading": "Chargement du modèle…",
    "state_loading_detail": "{loaded} sur {total} Mo. En attendant, les photos patientent ici, ou vont au serveur si vous le voulez.",
    "state_loading_start": "En attendant, les photos patientent ici, ou vont au serveur si vous le voulez.",
    "state_starting": "Démarrage du modèle…",
    "state_offline": "Prêt, même sans connexion",
    "state_ready": "Prêt sur cet appareil",
    "state_ready_detail": "Vos photos restent sur cet appareil.",
    "state_server": "Le serveur répond",
    "state_server_detail": "Vos photos lui sont envoyées une fois que vous avez dit oui. Il n’en garde aucune.",
    "state_server_runtime": "Il a été installé sans la partie qui fonctionne sur votre appareil. Vos photos lui sont envoyées une fois que vous avez dit oui. Il n’en garde aucune.",
    "state_server_browser": "Ce navigateur ne peut pas exécuter le modèle. Vos photos sont envoyées au serveur une fois que vous avez dit oui. Il n’en garde aucune.",
    "state_nothing": "Pas de connexion",
    "state_nothing_detail": "Le modèle n’est pas encore sur cet appareil. Connectez-vous une fois, et il fonctionnera ensuite hors ligne.",
    "working": "Analyse en cours…",
    "busy": "Le serveur est occupé. Nouvel essai…",
    "sure": "Sûr à {percent}",
    "not_sure": "Pas sûr",
    "perhaps_one": "C’est peut-être {first} ({percent}).",
    "perhaps_two": "C’est peut-être {first} ({percent}) ou {second} ({percent_second}).",
    "kind_only": "Le genre est sûr, mais pas la variété.",
    "unknown": "Ne ressemble à rien de ce que j’ai appris",
    "unknown_detail": "Cela ne ressemble à rien de ce que j’ai appris, donc je ne lui donne pas de nom. Si je suis censé le connaître, essayez de plus près, sans rien d’autre, bien éclairé.",
    "not_sure_tip": "Essayez de plus près, sans rien d’autre, sur un fond uni.",
    "top": "Réponses les plus probables",
    "ask": "Demander au serveur ?",
    "ask_missing": "Le modèle n’est pas sur cet appareil. La photo l’attend ici, ou le serveur répond maintenant : alors cette photo et les suivantes lui sont envoyées. Il n’en garde aucune.",
    "ask_unreadable": "Cet appareil ne peut pas lire ce fichier. Le serveur le peut peut-être : il ne le reçoit que si vous le dites, et ne le garde pas.",
    "allow": "Oui, demander au serveur",
    "allow_all": "Ne plus demander tant que cette page est ouverte",
    "seen": "Vu par le modèle",
    "frame": "Le modèle voit ce carré.",
    "season": "Saison",
    "storage": "Conservation",
    "origin": "Origine",
    "more": "En savoir plus sur {place}",
    "where": "Où il regarde",
    "where_speaks": "En clair, ce qui parle le plus pour {name} : {place}.",
    "where_looked": "En clair, ce qu’il a le plus regardé : {place}.",
    "where_searching": "Recherche de plusieurs choses…",
    "where_found": "Sur cette photo :",
    "where_thing": "{name} ({percent}), {place}",
    "where_nothing": "Rien n’est trouvé avec certitude sur une partie.",
    "where_failed": "Impossible de montrer où il regarde.",
    "place_0": "en haut à gauche",
    "place_1": "en haut",
    "place_2": "en haut à droite",
    "place_3": "à gauche",
    "place_4": "au milieu",
    "place_5": "à droite",
    "place_6": "en bas à gauche",
    "place_7": "en bas",
    "place_8": "en bas à droite",
    "share": "Partager",
    "share_shared": "Partagé.",
    "share_copied": "Copié : collez-le où vous voulez.",
    "share_failed": "Le partage n’a pas fonctionné.",
    "wrong": "Erreur ? Dites-nous ce que c’est",
    "tell": "Dites-nous ce que c’est",
    "change": "Changer ce que c’est",
    "what": "Qu’est-ce que c’est ?",
    "keep": "Garder",
    "cancel": "Annuler",
    "kept": "Gardé sur cet appareil comme {label}.",
    "not_kept": "Rien n’a pu être gardé : libérez de la place sur cet appareil et réessayez.",
    "corrections": "{n} corrections",
    "corrections_one": "{n} correction",
    "corrections_detail": "Elles restent sur cet appareil jusqu’à ce que vous les exportiez ou les supprimiez.",
    "corrections_export": "Exporter les corrections",
    "corrections_delete": "Les supprimer",
    "corrections_sure": "Supprimer de cet appareil {n} photos et ce que vous en avez dit ?",
    "corrections_failed": "Cela n’a pas fonctionné. Libérez de la place sur cet appareil et réessayez.",
    "by_device": "Réponse de cet appareil en {ms} ms. Votre photo y est restée.",
    "by_server": "Réponse du serveur en {ms} ms. Il ne garde aucune photo.",
    "failed": "Pas de réponse",
    "photo": "Photo {n}",
    "picture": "Aperçu de {name}",
    "camera_title": "Caméra",
    "camera_view": "Ce que voit la caméra",
    "camera_denied": "La caméra n’est pas autorisée : autorisez-la dans les réglages du navigateur, ou choisissez une photo.",
    "camera_missing": "Aucune caméra n’a pu démarrer : choisissez plutôt une photo.",
    "shutter": "Prendre la photo",
    "close": "Fermer",
    "turn": "Retourner",
    "reason_empty": "Le fichier est vide.",
    "reason_unreadable": "Le fichier n’a pas pu être lu.",
    "reason_unsupported_format": "Ce n’est pas une image lisible ici : utilisez JPEG, PNG, WebP, BMP, GIF ou TIFF.",
    "reason_truncated": "L’image est coupée : il en manque la fin. Copiez-la ou prenez-la de nouveau.",
    "reason_corrupt": "L’image est endommagée et ne peut pas être lue.",
    "reason_too_large": "Le fichier est trop lourd. Envoyez-en un plus petit.",
    "reason_too_many_pixels": "L’image a trop de pixels. Réduisez-la d’abord.",
    "reason_too_slow": "L’image est trop longue à lire. Enregistrez-la de nouveau, ou plus petite.",
    "reason_busy": "Le serveur a trop à faire. Réessayez dans un instant.",
    "reason_offline": "Il n’y a pas de connexion. Redemandez quand il y en aura une.",
    "reason_failed": "Le serveur n’a pas pu répondre. Réessayez plus tard."
  }
};

const REMEMBERED = "orchard-language";

let language = remembered() ?? (navigator.languages ?? [navigator.language]).map((tag) => tag.slice(0, 2)).find((tag) => tag in TEXTS) ?? "en";

export function currentLanguage() {
  return language;
}

export function setLanguage(tag) {
  language = tag;
  try {
    localStorage.setItem(REMEMBERED, tag);
  } catch {
    // A private window may have no storage; the choice then holds until the page is closed.
  }
}

/** The text of a key, with {names} filled in. */
export function text(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** A share 0..1 as a percentage; what is not quite certain is not shown as 100 %. */
export function percent(share) {
  const format = (value) => new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format(value);
  if (share < 0.01) return `< ${format(0.01)}`;
  return share > 0.99 ? `> ${format(0.99)}` : format(share);
}

/** Bytes as megabytes with one decimal. */
export function megabytes(bytes) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(bytes / 1e6);
}

/** Put the language into everything under `root` that names its text: data-text, data-label. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
}

function remembered() {
  try {
    const tag = localStorage.getItem(REMEMBERED);
    return tag in TEXTS ? tag : undefined;
  } catch {
    return undefined;
  }
}

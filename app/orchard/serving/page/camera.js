// The camera: a live square with a shutter that can be pressed many times, or else the device's own camera app.

import { text } from "./texts.js";

const dialog = document.querySelector("#camera");
const video = document.querySelector("#video");
const turn = document.querySelector("#camera-turn");
const problem = document.querySelector("#camera-error");
const answer = document.querySelector("#camera-answer");

const QUALITY = 0.92; // of the JPEG

let facing = "environment";
let taken = 0;

/**
 * Make the button open the live view where there is one, and `input`, the device's camera app, where there is not;
 * without either it stays hidden. `onPhoto(blob)` gets each photo of the live view and returns what is found.
 */
export function offerCamera(button, input, onPhoto) {
  const isLive = Boolean(navigator.mediaDevices?.getUserMedia);
  const hasApp = matchMedia("(pointer: coarse)").matches; // a mouse has no camera app behind it
  button.hidden = !isLive && !hasApp;
  button.onclick = async () => {
    if (isLive && (await open())) return;
    if (hasApp) input.click();
  };
  document.querySelector("#camera-close").onclick = () => dialog.close();
  document.querySelector("#shutter").onclick = () => shoot(onPhoto);
  dialog.onclose = stop;
  turn.onclick = () => {
    facing = facing === "environment" ? "user" : "environment";
    play();
  };
  // A camera that is left on in the background drains the battery and alarms its owner.
  document.addEventListener("visibilitychange", () => document.hidden && dialog.open && dialog.close());
}

async function open() {
  problem.hidden = true;
  answer.textContent = "";
  const plays = await play();
  if (plays) dialog.showModal();
  return plays;
}

async function play() {
  stop();
  try {
    const wanted = { facingMode: { ideal: facing }, width: { ideal: 1280 }, height: { ideal: 960 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    await video.play();
  } catch (error) {
    stop();
    dialog.close();
    problem.textContent = text(error.name === "NotAllowedError" ? "camera_denied" : "camera_missing");
    problem.hidden = false;
    return false;
  }
  const devices = await navigator.mediaDevices.enumerateDevices();
  turn.hidden = devices.filter((device) => device.kind === "videoinput").length < 2;
  return true;
}

function stop() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

/** Take the square that is shown: the middle of what the camera sees. */
async function shoot(onPhoto) {
  const side = Math.min(video.videoWidth, video.videoHeight);
  if (!side) return;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const [left, top] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
  canvas.getContext("2d").drawImage(video, left, top, side, side, 0, 0, side, side);
  const number = ++taken;
  dialog.classList.remove("flash");
  void dialog.offsetWidth; // starts the animation anew
  dialog.classList.add("flash");
  answer.textContent = text("working");
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  const found = await onPhoto(blob);
  if (number === taken) answer.textContent = found;
}

// The page: buttons, keys, pasted and dropped photos in; speech out, one at a time.

import { Camera } from "/static/camera.js";
import { Heat } from "/static/heat.js";
import { Player } from "/static/player.js";
import { Scene } from "/static/scene.js";
import { ServiceError, describe, keepToken } from "/static/service.js";

const LOOK_EVERY = 300; // ms, in live mode
const PAUSE = 1000; // ms of silence in live mode before the next description

const element = (id) => document.getElementById(id);
const player = new Player();
const camera = new Camera(element("viewfinder"));
const heat = new Heat(element("heat"));
const still = matchMedia("(prefers-reduced-motion: reduce)");
let looks = false; // whether to show where the model looks
let frame = 0; // of the animation that does
let request = null; // AbortController of the photo that is being described
let live = null; // { timer, scene, silentSince } while live mode is on
let waitingForToken = null; // the photo to describe once there is a token

function say(sentence) {
  element("status").textContent = sentence;
}

function complain(sentence) {
  element("problem").textContent = sentence;
}

function show(id) {
  for (const name of ["viewfinder", "photo"]) element(name).hidden = name !== id;
  element("picture").hidden = id === null;
}

function hush() {
  request?.abort();
  request = null;
  player.silence();
}

function stop() {
  hush();
  stopLive();
  complain("");
  say("Stopped.");
}

// A photo (Blob) becomes speech. Whatever was being said before ends.
async function describePhoto(photo) {
  hush();
  complain("");
  const mine = (request = new AbortController());
  say("Describing.");
  try {
    const audible = await player.wake();
    if (mine.signal.aborted) return;
    player.begin();
    element("again").disabled = true;
    const drawable = heat.take(photo);
    tellPlaces();
    const answer = await describe(photo, (samples) => mine.signal.aborted || player.add(samples), mine.signal);
    if (request === mine) request = null;
    const heard = player.finish();
    element("again").disabled = !player.canRepeat;
    await drawable;
    if (mine.signal.aborted) return;
    heat.know(answer.attention);
    followSpeech();
    if (!audible) say("The description is there. Press Space to hear it.");
    await heard; // nothing is announced while it speaks
    tellPlaces();
    if (!mine.signal.aborted && audible && !player.isSpeaking) {
      say(`Done. ${verdict(answer)}${live ? "" : " Space speaks again."}`);
    }
  } catch (error) {
    if (mine.signal.aborted) return;
    hush();
    fail(error, photo);
  }
}

function verdict(answer) {
  if (answer.abstained) return "The model cannot tell what this shows.";
  const share = answer.confidence; // missing where the model is not calibrated
  return share ? `${share.charAt(0).toUpperCase()}${share.slice(1)}.` : "Nobody measured how often the model is right.";
}

function fail(error, photo) {
  if (error instanceof ServiceError && error.status === 401) {
    waitingForToken = photo;
    stopLive();
    say("A token is needed.");
    element("token-dialog").showModal();
    return;
  }
  say("");
  complain(error instanceof ServiceError ? error.message : "The service cannot be reached. Is it running?");
}

async function speakAgain() {
  if (!player.canRepeat || request) return;
  await player.wake();
  const heard = player.repeat();
  followSpeech();
  await heard;
  tellPlaces();
}

// ---- where the model looks ----

function toggleLooks() {
  looks = !looks;
  element("looks").setAttribute("aria-pressed", String(looks));
  tellPlaces();
  followSpeech();
}

function followSpeech() {
  cancelAnimationFrame(frame);
  if (looks && player.isSpeaking && heat.isReady) {
    heat.show(player.position, still.matches);
    frame = requestAnimationFrame(followSpeech);
  } else {
    heat.clear();
  }
}

function tellPlaces() {
  const places = heat.places.join(", then ");
  element("places").textContent = looks && places && !player.isSpeaking ? `It looked at: ${places}.` : "";
}

// ---- where photos come from ----

function showAndDescribe(photo) {
  const image = element("photo");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(photo);
  image.onerror = () => show(null); // of a kind that the browser cannot show, but the service perhaps can read
  stopCamera();
  show("photo");
  return describePhoto(photo);
}

async function startCamera() {
  try {
    await camera.start();
  } catch (error) {
    complain(
      error.name === "NotFoundError"
        ? "There is no camera. Choose a photo instead."
        : "The camera may not be used here. Choose a photo instead.",
    );
    return false;
  }
  complain("");
  element("camera").setAttribute("aria-pressed", "true");
  show("viewfinder");
  return true;
}

function stopCamera() {
  stopLive();
  if (!camera.isOn) return;
  camera.stop();
  element("camera").setAttribute("aria-pressed", "false");
  show(null);
}

async function bigButton() {
  player.wake(); // now, while the browser still counts this as the user's wish
  if (camera.isOn || (await startCamera())) describePhoto(await camera.picture());
  else element("file").click();
}

// ---- live ----

async function startLive() {
  player.wake();
  if (!(camera.isOn || (await startCamera()))) return;
  element("live").setAttribute("aria-pressed", "true");
  live = { scene: new Scene(), silentSince: 0, timer: setInterval(look, LOOK_EVERY) };
  say("Live. Hold the camera still.");
}

function stopLive() {
  if (!live) return;
  clearInterval(live.timer);
  live = null;
  element("live").setAttribute("aria-pressed", "false");
}

async function look() {
  const busy = request !== null || player.isSpeaking;
  if (busy) live.silentSince = performance.now();
  if (live.scene.look(camera.frame(), !busy && performance.now() - live.silentSince > PAUSE)) {
    live.silentSince = performance.now();
    const photo = await camera.picture();
    if (live) describePhoto(photo);
  }
}

// ---- events ----

element("describe").addEventListener("click", bigButton);
element("again").addEventListener("click", speakAgain);
element("stop").addEventListener("click", stop);
element("looks").addEventListener("click", toggleLooks);
element("choose").addEventListener("click", () => element("file").click());
element("camera").addEventListener("click", () => (camera.isOn ? stopCamera() : startCamera()));
element("live").addEventListener("click", () => (live ? stop() : startLive()));
element("file").addEventListener("change", (event) => {
  const [photo] = event.target.files;
  if (photo) showAndDescribe(photo);
  event.target.value = ""; // or the same photo could not be chosen twice
});

document.addEventListener("paste", (event) => takeFrom(event.clipboardData, event));
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  takeFrom(event.dataTransfer, event);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});

function takeFrom(transfer, event) {
  const photo = [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
  const isText = event.type === "paste" && event.target instanceof HTMLInputElement;
  if (isText) return;
  event.preventDefault();
  if (photo) showAndDescribe(photo);
  else complain("That is not a photo.");
}

// Space speaks again where it has no other meaning: not on the other buttons, nor in a field. On the big button, which
// Enter presses too, it does so as soon as there is something to say again.
function isForRepeating(event) {
  if (event.key !== " " || !player.canRepeat || element("token-dialog").open) return false;
  return event.target === element("describe") || !event.target.closest("button, input, a, dialog");
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !element("token-dialog").open) stop();
  if (isForRepeating(event)) {
    event.preventDefault();
    if (!event.repeat) speakAgain();
  }
});
document.addEventListener("keyup", (event) => {
  if (isForRepeating(event)) event.preventDefault(); // it is on the way up that Space presses a button
});

element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(element("token").value.trim());
  element("token").value = "";
  element("token-dialog").close();
  element("describe").focus();
  const photo = waitingForToken;
  waitingForToken = null;
  if (photo) describePhoto(photo);
});
element("token-cancel").addEventListener("click", () => element("token-dialog").close());

// The page: buttons, keys, pasted and dropped photos in; speech out, one at a time. A screen reader is told something
// only when no sound is due, or it would talk over the speech: see `announce`.

import { Camera } from "/static/camera.js";
import { Heat } from "/static/heat.js";
import { Player } from "/static/player.js";
import { Scene } from "/static/scene.js";
import { ServiceError, describe, keepToken, takeTokenFromLink } from "/static/service.js";

const LOOK_EVERY = 300; // ms, in live mode
const PAUSE = 1000; // ms of silence in live mode before the next description
const LATE = 1500; // ms without a sound after which a screen reader may be told something
const CAMERA_OFF = 60_000; // ms without a photo after which the camera goes off
const RATES = [0.5, 0.75, 1, 1.25, 1.5, 2, 3];
const RATE = "im2sp-rate"; // in the browser's storage

const element = (id) => document.getElementById(id);
const player = new Player();
const camera = new Camera(element("viewfinder"));
const heat = new Heat(element("heat"));
let looks = false; // whether to show where the model looks
let frame = 0; // of the animation that does
let announcement = 0; // timer of what a screen reader is to be told
let request = null; // AbortController of the photo that is being described
let last = null; // { photo, answer } of the last description, kept until there is another
let live = null; // { timer, scene, silentSince } while live mode is on
let cameraTimer = 0;
let waitingForToken = null; // the photo to describe once there is a token
let rate = RATES.includes(Number(localStorage.getItem(RATE))) ? Number(localStorage.getItem(RATE)) : 1;

// For everybody to see, never read aloud by itself.
function say(sentence) {
  element("status").textContent = sentence;
}

// For screen readers, unless a sound is due before `wait` (ms) is over.
function announce(sentence, wait = 50) {
  clearTimeout(announcement);
  element("announcement").textContent = ""; // for a moment, or the same words are not read twice
  announcement = setTimeout(() => {
    say(sentence);
    element("announcement").textContent = sentence;
  }, wait);
}

// What failed is read aloud at once, so the speech ends.
function complain(sentence) {
  hush();
  say("");
  element("problem").textContent = sentence;
}

function show(id) {
  for (const name of ["viewfinder", "photo"]) element(name).hidden = name !== id;
  element("picture").hidden = id === null;
}

// While the speech lasts, the name of the button that has the focus stays: screen readers read a new one aloud.
function labelShutter() {
  element("shutter").textContent = camera.isOn ? "Take the photo" : "Open the camera";
}

function hush() {
  clearTimeout(announcement);
  request?.abort();
  request = null;
  player.silence();
}

function stop() {
  complain("");
  stopCamera();
  showLast();
  labelShutter();
  announce("Stopped.");
}

// A photo (Blob) becomes speech. Whatever was being said before ends.
async function describePhoto(photo) {
  complain("");
  const mine = (request = new AbortController());
  say("Describing.");
  announce("Still describing.", LATE);
  try {
    const audible = await player.wake();
    if (mine.signal.aborted) return;
    if (audible) player.tick();
    player.begin();
    const drawable = heat.take(photo);
    const onSamples = (samples) => {
      if (mine.signal.aborted) return;
      if (audible) clearTimeout(announcement);
      player.add(samples);
    };
    const answer = await describe(photo, rate, onSamples, mine.signal);
    if (mine.signal.aborted) return;
    request = null;
    last = { photo, answer };
    const silent = player.finish();
    await drawable;
    if (last.answer !== answer) return;
    heat.know(answer.attention);
    tellResult(answer);
    followSpeech();
    if (!audible) announce("The description is there. Press “Play again” to hear it.");
    await silent;
    if (last.answer !== answer || !audible || request || player.isSpeaking) return;
    say("Done.");
    labelShutter();
  } catch (error) {
    if (!mine.signal.aborted) fail(error, photo);
  }
}

function tellResult(answer) {
  element("result").hidden = false;
  element("verdict").textContent = verdict(answer);
  element("heard").textContent = "";
  element("speed").textContent = rate === 1 ? "" : `Speed: ${rate} times.`;
  element("places").textContent = placesOf(answer);
  answer.words.then((words) => {
    if (last.answer !== answer || words === null) return;
    element("heard").textContent = words ? `What a recogniser heard: “${words}”` : "A recogniser heard no words.";
  });
}

function verdict(answer) {
  if (answer.abstained) return "The model cannot tell what this shows.";
  const share = answer.confidence; // missing where the model is not calibrated
  return share ? `${share.charAt(0).toUpperCase()}${share.slice(1)}.` : "Nobody measured how often the model is right.";
}

// The last description stays when another one failed or was stopped.
function showLast() {
  if (camera.isOn) return show("viewfinder");
  if (!last) return show(null);
  showPhoto(last.photo);
  heat.take(last.photo).then(() => heat.know(last.answer.attention));
}

function fail(error, photo) {
  if (error.status === 401) stopCamera();
  showLast();
  labelShutter();
  complain(error instanceof ServiceError ? error.message : "The service cannot be reached. Is it running?");
  if (error.status !== 401) return;
  complain("");
  waitingForToken = photo;
  element("token-dialog").showModal();
}

async function playAgain() {
  if (!player.canRepeat || request) return;
  await player.wake();
  say("");
  player.repeat();
  followSpeech();
}

function changeRate(step) {
  const place = RATES.indexOf(rate) + step;
  if (!(place in RATES)) return;
  rate = RATES[place];
  localStorage.setItem(RATE, String(rate));
  element("slower").setAttribute("aria-disabled", String(place === 0));
  element("faster").setAttribute("aria-disabled", String(place === RATES.length - 1));
  if (step && last) describePhoto(last.photo);
}

function save() {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(player.wav()), download: "description.wav" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), CAMERA_OFF);
}

// ---- where the model looks ----

function toggleLooks() {
  looks = !looks;
  element("looks").setAttribute("aria-pressed", String(looks));
  element("places").textContent = placesOf(last.answer);
  if (looks && !player.isSpeaking && !request) playAgain();
  followSpeech();
}

function followSpeech() {
  cancelAnimationFrame(frame);
  if (looks && player.isSpeaking && heat.isReady) {
    heat.show(player.position, matchMedia("(prefers-reduced-motion: reduce)").matches);
    frame = requestAnimationFrame(followSpeech);
  } else {
    heat.clear();
  }
}

// The places that it looked at, in words, each once for as long as it stayed there.
function placesOf(answer) {
  const places = (answer.attention?.places ?? []).filter((place, index, all) => place !== all[index - 1]);
  return looks && places.length ? `It looked at: ${places.join(", then ")}.` : "";
}

// ---- where photos come from ----

function showPhoto(photo) {
  const image = element("photo");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(photo);
  image.onerror = () => show(null); // of a kind that the browser cannot show, but the service perhaps can read
  show("photo");
}

function showAndDescribe(photo) {
  stopCamera();
  showPhoto(photo);
  return describePhoto(photo);
}

// Resolves to whether the camera is on; where it cannot be, `instead` is called.
async function startCamera(instead = () => {}) {
  try {
    if (!(await camera.start())) return false; // stopped while the browser still asked
  } catch (error) {
    camera.stop();
    complain(
      error.name === "NotFoundError"
        ? "There is no camera. Choose a photo instead."
        : "The camera may not be used here. Choose a photo instead.",
    );
    instead();
    return false;
  }
  complain("");
  show("viewfinder");
  labelShutter();
  clearTimeout(cameraTimer);
  cameraTimer = setTimeout(() => { if (!live) stop(); }, CAMERA_OFF);
  return true;
}

function stopCamera() {
  stopLive();
  clearTimeout(cameraTimer);
  camera.stop();
}

// The first press shows the preview, the second takes the photo.
async function pressShutter() {
  if (camera.isOn) {
    navigator.vibrate?.(40);
    const photo = await camera.picture();
    if (live) describePhoto(photo);
    else if (camera.isOn) showAndDescribe(photo);
  } else if (!isSecureContext) {
    element("insecure").hidden = false;
    element("file").click();
  } else if (await startCamera(() => element("file").click())) {
    announce("The camera is on. Press again to take the photo.");
  }
}

// ---- live ----

async function startLive() {
  if (!(camera.isOn || (await startCamera()))) return;
  element("live").setAttribute("aria-pressed", "true");
  live = { scene: new Scene(), silentSince: 0, timer: setInterval(look, LOOK_EVERY) };
  say("Live. Hold the camera still."); // not aloud: the first description is due, and the button tells that it is on
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

// Whatever the way in, it begins with a key or a touch: then the browser allows sound.
for (const name of ["pointerup", "keydown", "drop", "paste"]) document.addEventListener(name, () => player.wake(), true);

element("shutter").addEventListener("click", pressShutter);
element("choose").addEventListener("click", () => element("file").click());
element("stop").addEventListener("click", stop);
element("again").addEventListener("click", playAgain);
element("slower").addEventListener("click", () => changeRate(-1));
element("faster").addEventListener("click", () => changeRate(1));
element("save").addEventListener("click", save);
element("looks").addEventListener("click", toggleLooks);
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

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !element("token-dialog").open) stop();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden && camera.isOn) stop(); // the camera never sees what nobody watches
});

element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(element("token").value.trim());
  element("token-dialog").close();
  if (waitingForToken) showAndDescribe(waitingForToken);
});
element("token-cancel").addEventListener("click", () => element("token-dialog").close());
element("token-dialog").addEventListener("close", () => {
  element("token").value = "";
  element("shutter").focus();
});

takeTokenFromLink();
changeRate(0);

"use strict";
// Shows, at every moment of the speech, where the model looked: in the heat over the photo, on the tracks, in words.

const data = JSON.parse(document.getElementById("data").textContent);
const speech = document.getElementById("speech");
const play = document.getElementById("play");
const time = document.getElementById("time");
const clock = document.getElementById("clock");
const head = document.getElementById("head");
const where = document.getElementById("where");
const tracks = document.getElementById("tracks");
const strip = document.getElementById("strip");
const now = document.getElementById("now");
const canvas = document.getElementById("heat");
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

const duration = data.boundaries[data.boundaries.length - 1];
let shown = "";

// The last place in sorted `edges` whose edge is not after `seconds`: the word, token or segment that sounds then. Of those
// that take no time, at the same edge, the one after them.
function at(edges, seconds) {
  let index = 0;
  while (index + 2 < edges.length && edges[index + 1] <= seconds + 1e-6) index += 1;
  return index;
}

function paint(map) {
  const [columns, rows] = [canvas.width, canvas.height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const highest = Math.max(...map, 1e-9);
  map.forEach((share, cell) => {
    const place = (share / highest) * (data.colours.length - 1);
    image.data.set([...data.colours[Math.round(place)], 255], 4 * cell);
  });
  context.putImageData(image, 0, 0);
}

function show() {
  const seconds = Math.min(speech.currentTime, duration);
  const segment = at(data.edges, seconds);
  // Who asked for less motion sees one map for each segment instead of one for each word, and a line that steps.
  const calm = still.matches && !speech.paused;
  const step = at(data.boundaries, seconds);
  const key = calm ? `segment ${segment}` : `step ${step}`;
  if (key !== shown) {
    shown = key;
    paint(calm ? data.stretches[segment] : data.maps[step]);
    now.textContent = data.words[step] ?? "";
  }
  const place = calm ? data.edges[segment] : seconds;
  head.style.left = `${(100 * place) / duration}%`;
  strip.scrollLeft = head.offsetLeft - strip.clientWidth / 2; // nothing to scroll on a wide screen
  time.value = String(Math.round(1000 * place));
  clock.textContent = `${place.toFixed(1)} s`;
  if (!speech.paused) return; // a screen reader would talk over the speech
  time.setAttribute("aria-valuetext", `${place.toFixed(1)} seconds of ${duration.toFixed(1)}, ${data.places[segment]}`);
  where.textContent = `Looking at the ${data.places[segment]}.`;
}

function follow() {
  show();
  if (!speech.paused) requestAnimationFrame(follow);
}

function toggle() {
  if (!speech.paused) speech.pause();
  else speech.play().catch(() => { where.textContent = "This browser did not play the speech."; });
}

function go(seconds) {
  speech.currentTime = Math.min(Math.max(seconds, 0), duration);
  show();
}

function step(direction) {
  const edges = [...new Set(data.boundaries)];
  const here = at(edges, speech.currentTime);
  const before = edges[here] < speech.currentTime - 0.005 ? here : here - 1;
  go(edges[direction > 0 ? Math.min(here + 1, edges.length - 1) : Math.max(before, 0)]);
}

const keys = {
  " ": toggle,
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  ArrowUp: () => step(1),
  ArrowDown: () => step(-1),
  Home: () => go(0),
  End: () => go(duration),
};

document.addEventListener("keydown", (event) => {
  if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey) return;
  const onSlider = event.target === time;
  if (event.key === " " && event.target === play) return; // the button does it by itself
  if (!onSlider && /^(ArrowUp|ArrowDown|Home|End)$/.test(event.key)) return; // those scroll
  event.preventDefault();
  keys[event.key]();
});
play.addEventListener("click", toggle);
time.addEventListener("input", () => go(Number(time.value) / 1000));
tracks.addEventListener("click", (event) => {
  const box = tracks.getBoundingClientRect();
  go(((event.clientX - box.left) / box.width) * duration);
});
speech.addEventListener("play", () => { play.textContent = "Pause"; where.textContent = ""; follow(); });
for (const name of ["pause", "ended"]) {
  speech.addEventListener(name, () => { play.textContent = "Play"; show(); });
}
speech.addEventListener("seeked", show);
show();

// The service: a photo in; chunks of speech, what the model thinks of them and what a recogniser heard out.

import { decodePcm } from "/static/player.js";

const TOKEN = "im2sp-token"; // in the session's storage: gone with the tab

export class ServiceError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

// A link may bring the token as #token=..., which browsers never send; it leaves the address bar and the history at once.
export function takeTokenFromLink() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  keepToken(token);
  history.replaceState(null, "", location.pathname);
}

// photo: Blob; rate: of the speech; onSamples gets Float32Arrays as they come. Resolves to units, confidence, attention
// and so on when the speech is there; its `words` is a promise of what a recogniser heard, null where none listens.
export async function describe(photo, rate, onSamples, signal) {
  const headers = { Accept: "application/x-ndjson", "Content-Type": "application/octet-stream" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  const address = `/v1/captions/stream?attention=true&words=true&rate=${rate}`;
  const response = await fetch(address, { method: "POST", headers, body: photo, signal });
  if (!response.ok) throw new ServiceError(await reason(response), response.status);
  const messages = lines(response.body);
  for (;;) {
    const { value, done } = await messages.next();
    if (done) throw new ServiceError("The service stopped in the middle of the speech.", 0);
    const message = JSON.parse(value);
    if (message.pcm !== undefined) {
      onSamples(decodePcm(message.pcm));
      continue;
    }
    const words = messages.next().then((line) => (line.done ? null : JSON.parse(line.value).heard));
    return { ...message, words: words.catch(() => null) };
  }
}

async function reason(response) {
  try {
    const sentence = (await response.json()).error.replace(/^the given bytes:/, "this file");
    return `${sentence.charAt(0).toUpperCase()}${sentence.slice(1)}.`;
  } catch {
    return `The service answered with status ${response.status}.`;
  }
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n");
    rest = whole.pop();
    yield* whole;
  }
}

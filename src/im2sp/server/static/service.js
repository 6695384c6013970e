// The service: a photo in, chunks of speech and what the model thinks of them out.

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

// photo: Blob; onSamples gets Float32Arrays as they come. Resolves to units, score, confidence, attention and so on.
export async function describe(photo, onSamples, signal) {
  const headers = { Accept: "application/x-ndjson", "Content-Type": "application/octet-stream" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch("/v1/captions/stream?attention=true", { method: "POST", headers, body: photo, signal });
  if (!response.ok) throw new ServiceError(await reason(response), response.status);
  for await (const line of lines(response.body)) {
    const message = JSON.parse(line);
    if (message.pcm === undefined) return message;
    onSamples(decodePcm(message.pcm));
  }
  throw new ServiceError("The service stopped in the middle of the speech.", 0);
}

async function reason(response) {
  try {
    const sentence = (await response.json()).error;
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

// Speech: chunks of samples in, one unbroken sound out. It never plays two sounds at once, and remembers the last one.

const SAMPLE_RATE = 16000; // Hz
const LEAD = 0.05; // seconds between a chunk's arrival and its sound, so that the next one can follow without a gap

export class Player {
  #context = null;
  #sources = new Set();
  #chunks = []; // of the last whole speech, for saying it again
  #incoming = []; // of the speech that is coming in
  #end = 0; // when, on the context's clock, what was scheduled is over
  #begins = []; // of the scheduled chunks: { when, seconds, duration }, by the context's clock and in the speech
  #complete = false;
  #whenSilent = null;

  // Call this in the handler of a key or a touch: browsers make no sound before one. Resolves to whether they do now.
  async wake() {
    if (navigator.audioSession) navigator.audioSession.type = "playback"; // iOS: also with the ringer switched off
    this.#context ??= new AudioContext({ sampleRate: SAMPLE_RATE });
    if (this.#context.state !== "running") {
      const nothing = new AudioBufferSourceNode(this.#context, { buffer: this.#buffer(new Float32Array(1)) });
      nothing.connect(this.#context.destination);
      nothing.start(); // iOS counts only a sound that was started in the handler
      // A browser that allows no sound yet leaves the promise open for ever.
      await Promise.race([this.#context.resume(), new Promise((resolve) => setTimeout(resolve, 500))]);
    }
    return this.#context.state === "running";
  }

  get isSpeaking() {
    return this.#whenSilent !== null;
  }

  get canRepeat() {
    return this.#chunks.length > 0;
  }

  // A short tick: the photo is taken. Words would talk over the speech that is due.
  tick() {
    const { currentTime, destination } = this.#context;
    const tone = new OscillatorNode(this.#context, { frequency: 880 });
    tone.connect(new GainNode(this.#context, { gain: 0.2 })).connect(destination);
    tone.start(currentTime);
    tone.stop(currentTime + 0.04);
  }

  // The last whole speech as a WAV file.
  wav() {
    const samples = this.#chunks.flatMap((chunk) => [...chunk]);
    const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
    const text = (offset, word) => [...word].forEach((letter, index) => view.setUint8(offset + index, letter.charCodeAt(0)));
    text(0, "RIFF");
    view.setUint32(4, view.byteLength - 8, true);
    text(8, "WAVEfmt ");
    view.setUint32(16, 16, true);
    [1, 1].forEach((value, index) => view.setUint16(20 + 2 * index, value, true)); // PCM, one channel
    view.setUint32(24, SAMPLE_RATE, true);
    view.setUint32(28, 2 * SAMPLE_RATE, true);
    [2, 16].forEach((value, index) => view.setUint16(32 + 2 * index, value, true)); // bytes, bits a sample
    text(36, "data");
    view.setUint32(40, 2 * samples.length, true);
    samples.forEach((sample, index) => view.setInt16(44 + 2 * index, Math.round(32768 * sample), true));
    return new Blob([view], { type: "audio/wav" });
  }

  // Seconds of the speech that have been heard, 0 before it begins.
  get position() {
    const now = this.#context?.currentTime ?? 0;
    const chunk = this.#begins.findLast(({ when }) => when <= now);
    return chunk ? Math.min(now - chunk.when, chunk.duration) + chunk.seconds : 0;
  }

  // Silence, then a new speech, whose chunks come by `add` and end with `finish`. Until then the last one is kept.
  begin() {
    this.silence();
    this.#incoming = [];
    this.#open();
  }

  // samples: Float32Array at 16 kHz, in [-1, 1]
  add(samples) {
    this.#incoming.push(samples);
    this.#schedule(samples);
  }

  // No more chunks will come. Resolves when the last one has been heard, or was silenced.
  finish() {
    this.#complete = true;
    this.#chunks = this.#incoming;
    const silent = this.#whenSilent?.promise;
    if (this.#sources.size === 0) this.#close();
    return silent ?? Promise.resolve();
  }

  repeat() {
    this.silence();
    this.#open();
    this.#incoming = this.#chunks;
    for (const samples of this.#chunks) this.#schedule(samples);
    return this.finish();
  }

  silence() {
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
    }
    this.#sources.clear();
    this.#close();
  }

  #open() {
    let resolve;
    const promise = new Promise((done) => { resolve = done; });
    this.#whenSilent = { promise, resolve };
    this.#complete = false;
    this.#begins = [];
    this.#end = 0;
  }

  #close() {
    this.#whenSilent?.resolve();
    this.#whenSilent = null;
  }

  #buffer(samples) {
    const buffer = this.#context.createBuffer(1, samples.length, SAMPLE_RATE);
    buffer.copyToChannel(samples, 0);
    return buffer;
  }

  #schedule(samples) {
    if (samples.length === 0 || !this.isSpeaking) return;
    const buffer = this.#buffer(samples);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    source.onended = () => {
      this.#sources.delete(source);
      if (this.#complete && this.#sources.size === 0) this.#close();
    };
    this.#sources.add(source);
    const start = Math.max(this.#end, this.#context.currentTime + LEAD);
    source.start(start);
    const before = this.#begins.at(-1);
    const seconds = before ? before.seconds + before.duration : 0;
    this.#begins.push({ when: start, seconds, duration: buffer.duration });
    this.#end = start + buffer.duration;
  }
}

// base64 of 16-bit little-endian samples -> Float32Array
export function decodePcm(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}

// The camera: a video element that shows what it sees; whole pictures as JPEG, and small frames for the scene.

import { HEIGHT, WIDTH, toGrey } from "/static/scene.js";

const LONGEST_SIDE = 1024; // pixels; the model sees fewer
const QUALITY = 0.9;

export class Camera {
  #video;
  #stream = null;
  #small = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });

  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#stream !== null;
  }

  // Rejects where there is no camera, or it may not be used.
  async start() {
    if (this.isOn) return;
    if (!navigator.mediaDevices) throw new DOMException("no camera over plain http", "NotAllowedError");
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  // -> Blob
  picture() {
    const { videoWidth: width, videoHeight: height } = this.#video;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    const canvas = Object.assign(document.createElement("canvas"), { width: width * scale, height: height * scale });
    canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }

  // -> Float32Array of WIDTH * HEIGHT
  frame() {
    const context = this.#small.getContext("2d", { willReadFrequently: true });
    context.drawImage(this.#video, 0, 0, WIDTH, HEIGHT);
    return toGrey(context.getImageData(0, 0, WIDTH, HEIGHT).data);
  }
}

// The camera: a video element that shows what it sees; whole pictures as JPEG, and small frames for the scene.

import { HEIGHT, WIDTH, toGrey } from "/static/scene.js";

const LONGEST_SIDE = 1024; // pixels; the model sees fewer
const QUALITY = 0.9;

export class Camera {
  #video;
  #stream = null;
  #starting = null; // what tells one start from another
  #small = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });

  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#stream !== null;
  }

  // Resolves to whether it is on: not where `stop` or another start came between. Rejects where there is none to be used.
  async start() {
    if (!navigator.mediaDevices) throw new DOMException("no camera over plain http", "NotAllowedError");
    const mine = (this.#starting = {});
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    if (this.#starting === mine) {
      switchOff(this.#video.srcObject);
      this.#video.srcObject = stream;
      await this.#video.play().catch((error) => { if (this.#starting === mine) throw error; });
    }
    if (this.#starting !== mine) {
      switchOff(stream);
      return false;
    }
    this.#stream = stream;
    return true;
  }

  stop() {
    switchOff(this.#video.srcObject);
    this.#starting = this.#stream = this.#video.srcObject = null;
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

function switchOff(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

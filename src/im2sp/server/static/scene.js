// The scene: small grey frames of the camera in, "this is worth describing" out.

export const WIDTH = 32;
export const HEIGHT = 24;
const CHANGED = 14; // mean difference of a pixel (of 255) from what was described last
const STEADY = 5; // and from the frame before: nobody wants a blur described

// pixels: RGBA of WIDTH x HEIGHT -> Float32Array of brightness around 0, so that the camera's exposure does not count
export function toGrey(pixels) {
  const grey = new Float32Array(pixels.length / 4);
  let sum = 0;
  for (let index = 0; index < grey.length; index += 1) {
    grey[index] = 0.299 * pixels[4 * index] + 0.587 * pixels[4 * index + 1] + 0.114 * pixels[4 * index + 2];
    sum += grey[index];
  }
  return grey.map((value) => value - sum / grey.length);
}

export function difference(first, second) {
  return first.reduce((sum, value, index) => sum + Math.abs(value - second[index]), 0) / first.length;
}

export class Scene {
  #described = null;
  #before = null;

  // Whether this frame is steady, and not what was described last. `isFree`: nothing is being said now.
  look(frame, isFree) {
    const steady = this.#before !== null && difference(frame, this.#before) < STEADY;
    this.#before = frame;
    const changed = this.#described === null || difference(frame, this.#described) > CHANGED;
    if (!(isFree && steady && changed)) return false;
    this.#described = frame;
    return true;
  }
}

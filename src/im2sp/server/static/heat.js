// Where the model looked: the photo with the heat of the moment over it, on a canvas that lies over the picture.

const LONGEST = 640; // pixels of the canvas, on its longer side

export class Heat {
  #canvas;
  #source = null; // Blob of the photo that was taken last
  #photo = null; // ImageBitmap of it
  #attention = null; // what the service says: maps, stretches and their times
  #shown = "";

  constructor(canvas) {
    this.#canvas = canvas;
  }

  // Forget the last photo. Resolves when the new one (a Blob) can be drawn; one of a kind that the browser cannot read
  // has no heat.
  async take(photo) {
    this.#attention = null;
    this.clear();
    this.#photo?.close();
    this.#photo = null;
    this.#source = photo;
    const bitmap = await createImageBitmap(photo).catch(() => null);
    if (bitmap === null || this.#source !== photo) return; // another may have been taken meanwhile
    this.#photo = bitmap;
    const scale = Math.min(1, LONGEST / Math.max(this.#photo.width, this.#photo.height));
    this.#canvas.width = Math.max(1, Math.round(scale * this.#photo.width));
    this.#canvas.height = Math.max(1, Math.round(scale * this.#photo.height));
  }

  // attention: from the answer about the photo that was taken last
  know(attention) {
    this.#attention = attention ?? null; // there is none where the model abstained
  }

  get isReady() {
    return this.#photo !== null && this.#attention !== null;
  }

  // Show the moment. calm: one map for each stretch of half a second or more instead of one for each token.
  show(seconds, calm) {
    const { boundaries, edges, maps, stretches } = this.#attention;
    const index = at(calm ? edges : boundaries, seconds);
    const key = `${calm} ${index}`;
    if (key !== this.#shown) this.#paint((calm ? stretches : maps)[index]);
    this.#shown = key;
    this.#canvas.hidden = false;
  }

  clear() {
    this.#shown = "";
    this.#canvas.hidden = true;
  }

  #paint(map) {
    const { rows, columns, crop } = this.#attention;
    const cells = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    const highest = Math.max(...map, 1e-9);
    map.forEach((share, cell) => image.data.set(colour(share / highest), 4 * cell));
    cells.getContext("2d").putImageData(image, 0, 0);
    const context = this.#canvas.getContext("2d");
    const { width, height } = this.#canvas;
    context.drawImage(this.#photo, 0, 0, width, height);
    const [w, h] = crop ? crop.map((part) => part * Math.min(width, height)) : [width, height];
    context.drawImage(cells, (width - w) / 2, (height - h) / 2, w, h); // smoothed: the maps are coarse
  }
}

// Share of the strongest, 0 to 1 -> dark where it did not look, light yellow where it did: also told apart without colours.
function colour(share) {
  return [255 * share, 220 * share, 60 * share, 60 + 110 * Math.abs(2 * share - 1)];
}

// The last place in sorted `edges` whose edge is not after `seconds`. Of tokens that take no time, the one after them.
function at(edges, seconds) {
  let index = 0;
  while (index + 2 < edges.length && edges[index + 1] <= seconds + 1e-6) index += 1;
  return index;
}

"""Sizes of transformers -> floating-point operations and bytes of a training step.

An addition and a multiplication are two operations (FLOPs). Products of matrices are counted and nothing else, as
`torch.utils.flop_counter` does: norms, GELUs and softmaxes are less than a hundredth of the time they are computed in.
The formulas are explained in recipes/paper/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

HALF, SINGLE = 2, 4  # bytes of a number in bfloat16, in float32


@dataclass(frozen=True)
class Layers:
    """Equal transformer layers: attention of `width` channels, and two matrices to `feed_forward` channels and back."""

    layers: int
    width: int
    feed_forward: int

    def matrices(self, tokens: int) -> int:
        """FLOPs of all matrices, forward: 2 tokens (4 width^2 + 2 width feed_forward) a layer."""
        return self.layers * 2 * tokens * (4 * self.width**2 + 2 * self.width * self.feed_forward)

    def attention(self, queries: int, keys: int) -> int:
        """FLOPs of scores and of the sums that they weight, forward: 4 queries keys width a layer."""
        return self.layers * 4 * queries * keys * self.width

    def activations(self, tokens: int) -> int:
        """Bytes kept for the backward pass: 2 (8 width + 2 feed_forward) + 8 width + 2 width, a token and layer.

        In bfloat16: three casts of the layer's input, one of what the feed-forward part takes; queries, keys, values
        and what was attended to; what the GELU took and gave. In float32: what the two norms took. Besides, two masks
        of dropout with a byte for each channel. Scores are not kept: fused attention computes them again.
        """
        numbers = 8 * self.width + 2 * self.feed_forward
        return self.layers * tokens * (HALF * numbers + 2 * SINGLE * self.width + 2 * self.width)


@dataclass(frozen=True)
class Encoder:
    """An image encoder: a stem that makes tokens, and layers in which they see each other."""

    stack: Layers
    tokens: int
    stem: int  # FLOPs of the stem for a photo

    def forward(self) -> int:
        """FLOPs for a photo."""
        return self.stem + self.stack.matrices(self.tokens) + self.stack.attention(self.tokens, self.tokens)


@dataclass(frozen=True)
class Batch:
    """What a step sees, in one process or in all."""

    photos: int
    captions: int  # in all; each photo has as many as the others
    tokens: int  # of a caption that are read: all but its last

    def part(self, of: int) -> Batch:
        """The largest share of one of several processes."""
        photos = -(-self.photos // of)
        return Batch(photos, photos * self.captions // self.photos, self.tokens)


@dataclass(frozen=True)
class Decoder:
    """A translator: a projection of image features, a prefix of image tokens, and captions after it."""

    stack: Layers
    image_tokens: int
    image_width: int
    vocabulary: int
    projection_trained: bool = True  # with its norm

    def forward(self, batch: Batch) -> int:
        """FLOPs of a step, forward."""
        return self._projection(batch) + self._prefix(batch) + self._captions(batch)

    def backward(self, batch: Batch) -> int:
        """FLOPs of a step, backward: twice those of each product that leads to the loss and to something trained.

        The last layer's image tokens are seen by their keys and values alone: the rest of that layer is computed and
        leads nowhere. A product whose matrix is frozen, or before which nothing is trained, costs one of the two.
        """
        tokens, width = batch.photos * self.image_tokens, self.stack.width
        last = Layers(1, width, self.stack.feed_forward)
        nowhere = last.matrices(tokens) + batch.photos * last.attention(self.image_tokens, self.image_tokens)
        nowhere -= 2 * tokens * 2 * width**2
        if not self.projection_trained:  # and so what the first layer takes is not trained
            nowhere += 3 * tokens * width**2
        projection = self._projection(batch) if self.projection_trained else 0
        return 2 * (self._prefix(batch) - nowhere + self._captions(batch)) + projection

    def activations(self, batch: Batch) -> int:
        """Bytes kept for the backward pass: of the layers; of the projection and the copies of keys and values that
        captions see, in bfloat16; and twice the logits, in float32.
        """
        image_tokens, text_tokens = batch.photos * self.image_tokens, batch.captions * batch.tokens
        seen = batch.captions * self.image_tokens * 2 * self.stack.width * self.stack.layers
        return (
            self.stack.activations(image_tokens + text_tokens)
            + HALF * seen  # each caption's copy of the keys and values of its photo
            + HALF * image_tokens * (self.image_width + 2 * self.stack.width)
            + 2 * SINGLE * text_tokens * self.vocabulary
        )

    def _projection(self, batch: Batch) -> int:
        return 2 * batch.photos * self.image_tokens * self.image_width * self.stack.width

    def _prefix(self, batch: Batch) -> int:
        seen = self.stack.attention(self.image_tokens, self.image_tokens)
        return self.stack.matrices(batch.photos * self.image_tokens) + batch.photos * seen

    def _captions(self, batch: Batch) -> int:
        tokens = batch.captions * batch.tokens
        seen = self.stack.attention(batch.tokens, self.image_tokens + batch.tokens)
        return self.stack.matrices(tokens) + batch.captions * seen + 2 * tokens * self.stack.width * self.vocabulary

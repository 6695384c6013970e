"""Image encoder: pictures or their image units in, keys and values for the decoder out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from im2sp.arrays import FloatArray, IntArray
from im2sp.bundle import Bundle, ImageConfig, ImageUnitsConfig
from im2sp.decoding.decoder import Prefix
from im2sp.errors import BundleError
from im2sp.image.units import ImageUnits
from im2sp.onnx import Graphs

if TYPE_CHECKING:
    from im2sp.image.loading import ImageSource


def pixels_of(image: ImageSource, config: ImageConfig, *, isolated: bool = False) -> FloatArray:
    """Load, resize, crop and normalise a picture as an image encoder takes it: float32 [3, height, width].

    `isolated`: as of `load_image`. Raises ImageError.
    """
    from im2sp.image.loading import load_image, to_pixels

    return to_pixels(
        load_image(image, isolated=isolated),
        config.height,
        config.width,
        config.mean,
        config.std,
        shorter_side=config.shorter_side,
        resampling=config.resampling,
    )


class ImageEncoder:
    """The graphs of a bundle between a picture and the decoder."""

    def __init__(self, graphs: Graphs, bundle: Bundle) -> None:
        self._graphs = graphs
        self._bundle = bundle
        self._config = bundle.config

    def encode(self, image: ImageSource | ImageUnits) -> Prefix:
        """Encode a picture or its image units. Raises ImageError, and BundleError for units where there are none."""
        if isinstance(image, ImageUnits):
            return self._prefixes("image_decoder_prefix", image_units=self._checked(image)[None])[0]
        return self.encode_pixels(self.pixels(image)[None])[0]

    def pixels(self, image: ImageSource, *, isolated: bool = False) -> FloatArray:
        """Load, resize and normalise a picture: float32 [3, height, width]. Raises ImageError."""
        return pixels_of(image, self._config.image, isolated=isolated)

    def encode_pixels(self, pixels: FloatArray) -> list[Prefix]:
        """Encode several pictures at once: pixels float32 [batch, 3, height, width] -> one prefix each."""
        tokenizer = self._config.image_units
        if tokenizer is None:
            return self._prefixes("image_encoder", pixels=pixels)
        return self._prefixes("image_decoder_prefix", image_units=self._tokenize(tokenizer, pixels))

    def tokenize(self, image: ImageSource) -> IntArray:
        """Tokenize a picture: image units int64 [units]. Raises ImageError, and BundleError without a tokenizer."""
        tokenizer = self._bundle.image_tokenizer  # before the picture is read
        units: IntArray = self._tokenize(tokenizer, self.pixels(image)[None])[0]
        return units

    def reconstruct(self, image: ImageUnits) -> npt.NDArray[np.uint8]:
        """Decode image units into pixels uint8 [height, width, 3]. Raises BundleError without an image decoder."""
        if not self._bundle.image_tokenizer.reconstructs:
            raise BundleError(f"the bundle {self._bundle.folder} has no image decoder: use a bundle that has one")
        (pixels,) = self._graphs.open("image_decoder").run(image_units=self._checked(image)[None])
        levels = np.rint(np.nan_to_num(pixels[0]).clip(0, 1) * 255)
        return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))

    def _checked(self, image: ImageUnits) -> IntArray:
        image.check_made_by(self._bundle.image_tokenizer)
        return image.units

    def _tokenize(self, tokenizer: ImageUnitsConfig, pixels: FloatArray) -> IntArray:
        """pixels float32 [batch, 3, height, width] -> image units int64 [batch, units]."""
        graph = self._graphs.open("image_tokenizer")
        (units,) = graph.run(pixels=pixels)
        if ((units < 0) | (units >= tokenizer.codebook_sizes)).any():
            raise BundleError(f"{graph.label} gave image units that are not within their codebooks: export it again")
        return units

    def _prefixes(self, name: str, **inputs: FloatArray | IntArray) -> list[Prefix]:
        """Run the graph of that name on a batch -> one prefix for each picture."""
        keys, values, *more = self._graphs.open(name).run(**inputs)
        # Contiguous, or the decoder would copy the slice at every step.
        return [
            Prefix(
                np.ascontiguousarray(keys[:, row : row + 1]),
                np.ascontiguousarray(values[:, row : row + 1]),
                **{name: rows[row] for name, rows in zip(self._config.decoder.by_token, more, strict=True)},
            )
            for row in range(keys.shape[1])
        ]
